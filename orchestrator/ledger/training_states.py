"""What a training leaves on the storage besides its network: its state, its history, and at last its outcome.

The model: rank 0 alone writes. The state is one file named by the step's key, replaced whole, so whoever runs the step
next continues from it. The history of the loss lies beside it and is read while the run goes on. All three only save
work: one that is damaged is as good as none, and whoever reads it says so.
"""

import io
import logging
import zipfile
import zlib
from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import AfterValidator, TypeAdapter

from orchestrator.ledger.documents import Read, read_document, write_document
from orchestrator.ledger.layout import history_path, outcome_path, state_path
from orchestrator.ledger.outcomes import Outcome
from orchestrator.storage.store import Storage

# In a history: the mIoU on the validation subset, in percent.
VAL_MIOU_SUBSET = "val_miou_subset"


def miou_at(share: float) -> str:
    """In a history and in results: the mIoU on all validation images after a share of the steps, in percent."""
    return f"miou_at_{share:g}"


_LOG = logging.getLogger("lookbeyond.trainings")


def _is_history(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    for before, row in zip([{"step": 0.0}, *rows], rows, strict=False):
        if not {"step", "total_steps", "loss", "images_per_second"} <= row.keys():
            raise ValueError(f"a row has {', '.join(row) or 'nothing'}")
        if not before["step"] < row["step"] <= row["total_steps"] or row["images_per_second"] <= 0:
            raise ValueError(f"step {row['step']:g} of {row['total_steps']:g} follows {before['step']:g}")
    return rows


def _has_network(outcome: Outcome) -> Outcome:
    if "network" not in outcome.files or not outcome.results:
        raise ValueError("it names no network or no results")
    return outcome


@dataclass(frozen=True)
class History:
    """What a training has reported so far."""

    rows: Annotated[list[dict[str, float]], AfterValidator(_is_history)]


HISTORY = TypeAdapter(History)
OUTCOME = TypeAdapter(Annotated[Outcome, AfterValidator(_has_network)])


def read_history(storage: Storage, key: str) -> list[dict[str, float]]:
    """Loss, learning rate and speed of a training so far."""
    history = _read(storage, history_path(key), HISTORY)
    return history.rows if history is not None else []


def write_history(storage: Storage, key: str, rows: list[dict[str, float]]) -> None:
    """Keep what a training has reported so far; a crash may lose it."""
    storage.write_nondurable(history_path(key), write_document({"rows": rows}))


def read_state(storage: Storage, key: str) -> bytes | None:
    """The state of a training, whole as far as its checksums say; None where there is none, or a damaged one.

    torch reads an archive without looking at the checksums in it: a digit that has changed would be trained on.
    """
    path = state_path(key)
    data = storage.find(path)
    try:
        if data is not None:
            require_archive(data)
    except ValueError as error:
        say_damaged(storage, path, error)
        return None
    return data


def require_archive(data: bytes) -> None:
    """Refuse what is no whole ZIP archive, as torch writes them.

    Raises:
        ValueError: it is none, or something in it has another checksum.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, zlib.error) as error:
        raise ValueError(str(error)) from None
    if damaged is not None:
        raise ValueError(f"{damaged} in it has another checksum")


def training_seconds(history: list[dict[str, float]], batch_size: int) -> float:
    """Seconds that the steps of a history took, each counted once however often the training was cut off."""
    steps = [0.0, *(row["step"] for row in history)]
    return sum(
        (row["step"] - before) * batch_size / row["images_per_second"]
        for before, row in zip(steps, history, strict=False)
    )


def leave_outcome(storage: Storage, key: str, outcome: Outcome) -> None:
    """Rank 0's last act: what the driver of the run will report."""
    storage.replace(outcome_path(key), write_document(asdict(outcome)))
    storage.delete(state_path(key))


def read_outcome(storage: Storage, key: str, origin: str | None = None) -> Outcome | None:
    """What rank 0 left; None where no training has ended, it began from something else than `origin`, or what it wrote
    is gone.
    """
    outcome = _read(storage, outcome_path(key), OUTCOME)
    if outcome is None or origin not in (None, outcome.origin):
        return None
    if not all(storage.exists(record.path) for record in outcome.files.values()):
        return None
    return outcome


def forget_outcome(storage: Storage, key: str) -> None:
    """The step is declared finished: its manifest says it all."""
    storage.delete(outcome_path(key))


def _read(storage: Storage, path: str, adapter: TypeAdapter[Read]) -> Read | None:
    data = storage.find(path)
    try:
        return None if data is None else read_document(data, adapter)
    except ValueError as error:
        say_damaged(storage, path, error)
        return None


def say_damaged(storage: Storage, path: str, error: Exception) -> None:
    """Say that a file is not what a training has left; the training goes on as if there were none."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    _LOG.warning("%s is damaged (%s) and taken for absent", storage.locate(path), reason)
