"""What may befall a storage between two starts of a run: half files, garbage, and files made by somebody to do harm.

Struck is what a run keeps beside what it commits: what is committed has its SHA-256, and `verify` finds it. Of what is
committed, a record is replaced by one that names a file elsewhere, and mended as its message says, by `verify
--repair`.
"""

import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path

from orchestrator.ledger.layout import CHECKPOINTS, HISTORY, LEASES, RESULTS, SHARDS, TUNE, short
from orchestrator.ledger.verification import verify
from orchestrator.storage.store import Storage


def _changed(data: bytes) -> bytes:
    half = len(data) // 2
    return data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]


_CUT: dict[str, Callable[[bytes], bytes]] = {
    "half of it": lambda data: data[: len(data) // 2],
    "nothing": lambda data: b"",
    "garbage": lambda data: b"\x80garbage" * 9,
    "another type": lambda data: b"[]",
    "a list of a number": lambda data: b"[1]",
    "a digit changed": _changed,
}
_DEEP = b"[" * 100_000


class _Command:
    """What runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def damage(storage: Path, chance: random.Random) -> str | None:
    """Damage one state, history or outcome of a training or a fit; what, or None where there is none."""
    files = sorted(path for folder in (CHECKPOINTS, HISTORY) for path in (storage / folder).glob("*") if path.is_file())
    if not files:
        return None
    path, how = chance.choice(files), chance.choice(sorted(_CUT))
    data = path.read_bytes()
    path.write_bytes(_CUT[how](data) if data else b"[]")
    return f"{path.relative_to(storage)}: {how}"


def plant(storage: Path, executed: Path, chance: random.Random) -> str | None:
    """Lay out what somebody might who can write to a storage; `executed` would be made by any of it that is run.

    Returns what was planted, or None where a run has left nothing yet to plant it beside.
    """
    keys = sorted(path.name for path in (storage / LEASES).glob("*") if path.is_dir())
    keys += [path.name.split(".")[0] for path in (storage / CHECKPOINTS).glob("*")]
    if not keys:
        return None
    code = pickle.dumps(_Command(f"touch {executed}"))
    kinds: dict[str, Callable[[str], None]] = {
        "a state that is code": lambda key: _write(storage / CHECKPOINTS / f"{short(key)}.pt", code),
        "a fit's state that is code": lambda key: _write(storage / CHECKPOINTS / f"{short(key)}.arrow", code),
        "an outcome of files elsewhere": lambda key: _write(
            storage / CHECKPOINTS / f"{short(key)}.outcome.json",
            b'{"files": {"network": {"path": "../../etc/passwd", "rows": 0, "size": 1, "sha256": "", "columns": []}}}',
        ),
        "a mark without end": lambda key: _write(storage / CHECKPOINTS / f"{short(key)}.stopped.json", _DEEP),
        "a history without end": lambda key: _write(storage / HISTORY / f"{short(key)}.json", _DEEP),
        "a lease for ever": lambda key: _write(
            storage / LEASES / key / "7.json", b'{"seconds": Infinity, "run": "x", "beat": 1, "holder": {}}'
        ),
        "trials that are code": lambda key: _plant_trials(storage, code),
        "results without end": lambda key: _write(storage / RESULTS / "kills.json", _DEEP),
        "a record of a file elsewhere": lambda key: _plant_record(storage, chance),
    }
    kind = chance.choice(sorted(kinds))
    kinds[kind](chance.choice(keys))
    return kind


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _plant_trials(storage: Path, code: bytes) -> None:
    """Where Ray Tune once kept what it unpickles."""
    folder = storage / TUNE / "kills"
    for name in ("tuner.pkl", "error.pkl", "trainable.pkl", "experiment_state-2026-01-01_00-00-00.json"):
        _write(folder / name, code)
    for trial in [path for path in folder.glob("*") if path.is_dir()] or [folder / "trial"]:
        _write(trial / "error.pkl", code)
        _write(trial / "params.pkl", code)


def _plant_record(storage: Path, chance: random.Random) -> None:
    records = sorted((storage / SHARDS).glob("*/*.json"))
    if records:
        chance.choice(records).write_bytes(b'{"path": "shards/../../../etc/passwd"}')
        verify(Storage(str(storage)), repair=True)
