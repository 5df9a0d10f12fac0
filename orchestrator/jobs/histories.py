"""The history of a training: its loss and speed, written by rank 0 while it runs and read by whoever watches."""

import json

from orchestrator.storage import Storage

# In a history: the mIoU of a few of the judged images, in percent.
GLANCE = "glance_miou"


def history_path(key: str) -> str:
    """Where the loss and speed of a training lie, while it runs and after."""
    return f"history/{key[:32]}.json"


def read_history(storage: Storage, key: str) -> list[dict[str, float]]:
    """Loss, learning rate and speed of a training so far."""
    try:
        rows: list[dict[str, float]] = json.loads(storage.read(history_path(key)))
    except (FileNotFoundError, ValueError):
        return []
    return rows


def last_loss(storage: Storage, key: str) -> float | None:
    """The last reported loss."""
    rows = read_history(storage, key)
    return rows[-1]["loss"] if rows else None
