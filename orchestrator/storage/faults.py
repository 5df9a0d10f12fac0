"""Fault points: places where a run can be made to fail on purpose, to show that failing costs nothing but time.

The model: off unless LOOKBEYOND_FAULTS names points, such as ``storage.write:rate=0.1,cap=3,seed=1;worker.kill:cap=2``,
those of the storage also of one folder of it alone (``storage.full@checkpoints``).
Every passage of a point has a number, counted over all processes and restarts in files below LOOKBEYOND_FAULTS_FOLDER;
seed and number decide whether it fails, and after `cap` failures no more do. The failure this guards against: a test
of kills that kills nothing, or kills every restart at the same place for ever.
"""

import errno
import fcntl
import json
import os
import random
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from workloads.errors import InputError

VARIABLE = "LOOKBEYOND_FAULTS"
FOLDER = "LOOKBEYOND_FAULTS_FOLDER"

# What a storage point raises; None: it is only slow.
_STORAGE_POINTS = {
    "storage.read": errno.EIO,
    "storage.write": errno.EIO,
    "storage.full": errno.ENOSPC,
    "storage.slow": None,
}
_KILL_POINTS = ("worker.kill", "node.kill", "driver.kill", "training.kill")
# Passed where the point of the same process to kill is; who stops it has to let it go on.
_STOP_POINTS = ("worker.stop", "driver.stop", "training.stop")
POINTS = (*_STORAGE_POINTS, *_KILL_POINTS, *_STOP_POINTS)
_SLOW_SECONDS = 1.0


@dataclass(frozen=True)
class Fault:
    """One point that fails: the share of its passages that do, and how many may at most."""

    point: str
    rate: float
    cap: int
    seed: int
    folder: Path

    def comes(self, what: str) -> bool:
        """Count one passage, of `what`, and decide whether it fails; a failure is written down before it happens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{self.point}.passages").open("ab", buffering=0) as passages:
            # The lock ends with the process, and what is written is one byte or one line: a kill leaves no half of it.
            fcntl.flock(passages, fcntl.LOCK_EX)
            number = os.fstat(passages.fileno()).st_size
            passages.write(b".")
            if random.Random(f"{self.seed} {self.point} {number}").random() >= self.rate:
                return False
            if len(failures(self.folder, self.point)) >= self.cap:
                return False
            failure = {"passage": number, "what": what, "time": time.time(), "process": os.getpid()}
            with _failures_path(self.folder, self.point).open("ab", buffering=0) as written:
                written.write(f"{json.dumps(failure)}\n".encode())
        return True


def passages(folder: Path, point: str) -> int:
    """How often a point was passed, by all processes since the folder was empty."""
    path = folder / f"{point}.passages"
    return path.stat().st_size if path.exists() else 0


def failures(folder: Path, point: str) -> list[dict[str, Any]]:
    """The failures of a point so far: number of the passage, what it was of, Unix time and process."""
    path = _failures_path(folder, point)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _failures_path(folder: Path, point: str) -> Path:
    return folder / f"{point}.failures"


def storage_fault(points: Iterable[str], path: str) -> None:
    """Pass storage points on the way to a file: now and then one refuses, has no room, or is slow.

    Raises:
        OSError: a point fails this time.
    """
    asked = asked_for()
    if not asked:
        return
    folder = path.split("/", maxsplit=1)[0]
    for name in (name for point in points for name in (point, f"{point}@{folder}")):
        if name in asked and asked[name].comes(path):
            number = _STORAGE_POINTS[name.partition("@")[0]]
            if number is not None:
                raise OSError(number, f"{os.strerror(number)}, on purpose ({VARIABLE})")
            time.sleep(_SLOW_SECONDS)


def kill_point(point: str, what: str, process: int | None = None) -> None:
    """Pass a point at which a process may be killed or stopped: this one, or the one of the given number."""
    asked = asked_for()
    for name, sent in ((point, signal.SIGKILL), (point.replace(".kill", ".stop"), signal.SIGSTOP)):
        if name in asked and asked[name].comes(what):
            os.kill(process or os.getpid(), sent)


@lru_cache(maxsize=1)
def asked_for() -> Mapping[str, Fault]:
    """The faults by point that the environment of this process asks for."""
    text = os.environ.get(VARIABLE, "")
    return parse(text, os.environ.get(FOLDER, "")) if text else {}


def parse(text: str, folder: str) -> dict[str, Fault]:
    """The faults that a text asks for.

    Raises:
        InputError: the text is not of the form ``POINT:name=value,...;POINT:...``, or there is no folder to count in.
    """
    if not folder:
        raise InputError(f"{FOLDER} is not set; {VARIABLE} needs a folder to count failures in")
    faults = {}
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        point, _, settings = entry.partition(":")
        name, _, folder_of = point.partition("@")
        if name not in POINTS or (folder_of and name not in _STORAGE_POINTS):
            raise InputError(f"{VARIABLE}: {point!r} is not a fault point; allowed: {', '.join(POINTS)}")
        given = dict(pair.partition("=")[::2] for pair in filter(None, settings.split(",")))
        faults[point] = _fault(point, given, Path(folder))
    return faults


def _fault(point: str, given: dict[str, str], folder: Path) -> Fault:
    values: dict[str, Any] = {"rate": 1.0, "cap": 1, "seed": 0}
    for name, value in given.items():
        if name not in values:
            raise InputError(f"{VARIABLE}: {point} has no setting {name!r}; allowed: {', '.join(values)}")
        try:
            values[name] = type(values[name])(value)
        except ValueError:
            raise InputError(f"{VARIABLE}: {point}: {name}={value} is not a number") from None
    if not 0 < values["rate"] <= 1 or values["cap"] < 1:
        raise InputError(f"{VARIABLE}: {point}: allowed are 0 < rate <= 1 and cap >= 1")
    return Fault(point, folder=folder, **values)
