"""Fault points: places where a run can be made to fail on purpose, to show that failing costs nothing but time.

The model: off unless LOOKBEYOND_FAULTS names points, such as ``storage.write:rate=0.1,cap=3,seed=1;worker.kill:cap=2``.
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
from typing import Any, NoReturn

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
_KILL_POINTS = ("worker.kill", "driver.kill", "training.kill")
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
        with (self.folder / f"{self.point}.json").open("a+") as stream:
            # The lock ends with the process, so a kill cannot leave it behind.
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.seek(0)
            counted = json.loads(stream.read() or '{"passages": 0, "failures": []}')
            number = counted["passages"]
            counted["passages"] += 1
            failed = counted["failures"]
            fails = len(failed) < self.cap and random.Random(f"{self.seed} {self.point} {number}").random() < self.rate
            if fails:
                failed.append({"passage": number, "what": what, "time": time.time(), "process": os.getpid()})
            stream.truncate(0)
            stream.write(json.dumps(counted))
        return fails


def storage_fault(points: Iterable[str], path: str) -> None:
    """Pass storage points on the way to a file: now and then one refuses, has no room, or is slow.

    Raises:
        OSError: a point fails this time.
    """
    asked = asked_for()
    if not asked:
        return
    for point in points:
        if point in asked and asked[point].comes(path):
            number = _STORAGE_POINTS[point]
            if number is not None:
                raise OSError(number, f"{os.strerror(number)}, on purpose ({VARIABLE})")
            time.sleep(_SLOW_SECONDS)


def kill_point(point: str, what: str) -> None:
    """Pass a point at which this process may be killed."""
    fault = asked_for().get(point)
    if fault is not None and fault.comes(what):
        _die()


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process does not outlive SIGKILL")


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
        if point not in _STORAGE_POINTS and point not in _KILL_POINTS:
            allowed = ", ".join([*_STORAGE_POINTS, *_KILL_POINTS])
            raise InputError(f"{VARIABLE}: {point!r} is not a fault point; allowed: {allowed}")
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
