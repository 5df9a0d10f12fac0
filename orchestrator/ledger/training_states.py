"""What a training leaves on the storage besides its network: its state, its history, and at last its outcome.

The model: rank 0 alone writes. The state is one file named by the step's key, replaced whole, so whoever runs the step
next continues from it. The history of the loss lies beside it and is read while the run goes on.
"""

import json

from orchestrator.ledger.layout import history_path, outcome_path, state_path
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import ShardRecord
from orchestrator.storage.store import Storage

# In a history: the mIoU on the validation subset, in percent.
VAL_MIOU_SUBSET = "val_miou_subset"


def read_history(storage: Storage, key: str) -> list[dict[str, float]]:
    """Loss, learning rate and speed of a training so far."""
    try:
        rows: list[dict[str, float]] = json.loads(storage.read(history_path(key)))
    except (FileNotFoundError, ValueError):
        return []
    return rows


def write_history(storage: Storage, key: str, rows: list[dict[str, float]]) -> None:
    """Keep what a training has reported so far; a crash may lose it."""
    storage.write_nondurable(history_path(key), json.dumps(rows).encode())


def training_seconds(history: list[dict[str, float]], batch_size: int) -> float:
    """Seconds that the steps of a history took, each counted once however often the training was cut off."""
    steps = [0.0, *(row["step"] for row in history)]
    return sum(
        (row["step"] - before) * batch_size / row["images_per_second"]
        for before, row in zip(steps, history, strict=False)
    )


def leave_outcome(storage: Storage, key: str, outcome: Outcome) -> None:
    """Rank 0's last act: what the driver of the run will report."""
    files = {name: record.to_json() for name, record in outcome.files.items()}
    document = {"files": files, "results": outcome.results, "device": outcome.device}
    storage.replace(outcome_path(key), json.dumps(document).encode())
    storage.delete(state_path(key))


def read_outcome(storage: Storage, key: str) -> Outcome | None:
    """What rank 0 left; None where no training has ended, or what it wrote is gone."""
    try:
        document = json.loads(storage.read(outcome_path(key)))
        files = {name: ShardRecord.from_json(record) for name, record in document["files"].items()}
    except (FileNotFoundError, ValueError, KeyError):
        return None
    if not all(storage.exists(record.path) for record in files.values()):
        return None
    return Outcome(files=files, results=document["results"], device=document["device"])


def forget_outcome(storage: Storage, key: str) -> None:
    """The step is declared finished: its manifest says it all."""
    storage.delete(outcome_path(key))
