"""What comes back of a piece of work: a few records and numbers, never data."""

from dataclasses import dataclass, field
from typing import Any

from orchestrator.ledger.shards import ShardRecord


@dataclass
class Outcome:
    """What a job sends back: a record per step (where it wrote one), results by step key, and the device it ran on."""

    records: list[ShardRecord] = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    device: str = "cpu"
