"""What comes back of a piece of work: a few records and numbers, never data."""

from dataclasses import dataclass, field
from typing import Any

from orchestrator.ledger.shards import ShardRecord


@dataclass(frozen=True)
class Outcome:
    """What a job sends back.

    Attributes
    ----------
    shards : the record of a shard, by the stream that it belongs to.
    files : the record of a file of a step that has no shards, by its name.
    results : by the key of the step.
    device : where the work was done.
    origin : what a training was computed from, as it had come out.
    """

    shards: dict[str, ShardRecord] = field(default_factory=dict)
    files: dict[str, ShardRecord] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    device: str = "cpu"
    origin: str = ""
