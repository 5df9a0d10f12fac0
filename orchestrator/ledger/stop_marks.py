"""How it is remembered that a training was given up.

The model: giving a fine-tuning up is a mark on the storage beside its state; the training looks for it and ends itself.
Whoever runs the step after all takes the mark away and goes on from the state. The failure this guards against: a
training that was given up and passes for failed, or for done.
"""

import json
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter

from orchestrator.ledger.documents import read_json
from orchestrator.ledger.layout import CHECKPOINTS, is_stop_mark, stop_mark_path
from orchestrator.storage.store import Storage


@dataclass(frozen=True)
class Stop:
    """Why a fine-tuning was given up: after which step, at which mIoU, and below which limit, both in percent."""

    step: int
    total_steps: int
    miou: float
    limit: float
    reduction_factor: float
    grace: float

    @property
    def reason(self) -> str:
        """One sentence with the numbers."""
        return (
            f"mIoU {self.miou:.2f} on the validation subset after step {self.step} of {self.total_steps} is below "
            f"{self.limit:.2f}, where the best 1/{self.reduction_factor:g} of its column begin (compute.early_stopping)"
        )


STOP = TypeAdapter(Stop)


def mark_stopped(storage: Storage, key: str, stop: Stop) -> None:
    """Have a training end at its next report, and remember why."""
    storage.replace(stop_mark_path(key), json.dumps(asdict(stop)).encode())


def is_marked(storage: Storage, key: str) -> bool:
    """Whether a training is to end."""
    return storage.exists(stop_mark_path(key))


def read_mark(storage: Storage, key: str) -> Stop | None:
    """Why a training was given up; None where it was not, or what was written is not readable."""
    data = storage.find(stop_mark_path(key))
    try:
        return None if data is None else read_json(data, STOP)
    except ValueError:
        return None


def forget_mark(storage: Storage, key: str) -> None:
    """The training is run after all."""
    storage.delete(stop_mark_path(key))


def marked(storage: Storage) -> set[str]:
    """The names of all marks on the storage, from one listing; see `is_among`."""
    return {file.path for file in storage.files(CHECKPOINTS) if is_stop_mark(file.path)}


def is_among(marks: set[str], key: str) -> bool:
    """Whether the mark of a training is among those listed."""
    return stop_mark_path(key) in marks
