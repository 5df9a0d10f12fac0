"""What counted work takes: on this machine where `lookbeyond calibrate` was run, else by a guess.

The model: speeds are of a machine, not of a storage that machines share, so they lie in the user's cache folder
(`$XDG_CACHE_HOME/lookbeyond`, else `~/.cache/lookbeyond`), one file for every machine and device. Counting the
operations of a network needs torch, which a driver is spared: where it is not loaded anyway, a process of its own
counts, once for every network and size, and what it found lies there, too. A cache that cannot be written or read only
costs time.
"""

import atexit
import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from workloads.costs.speeds import Device, NetworkSpeed, PassCost, Speeds
from workloads.costs.work import NetworkPass

_COSTS = TypeAdapter(dict[str, PassCost | None])
# Raised when the same pass is counted otherwise.
_COUNTING = 2
_COUNTING_SECONDS = 120
# What a core of a server of 2024 was seen to do, rounded; a GPU's are those of a small one, and were not measured.
_CORE = NetworkSpeed(dense=1e-11, grouped=1e-11, bytes=1e-10, operations=1e-5)
_CORE_TRAINING = NetworkSpeed(dense=3e-11, grouped=5e-10, bytes=4e-10, operations=1e-5)
_GPU = NetworkSpeed(dense=1.5e-13, grouped=1e-12, bytes=5e-12, operations=1e-5)
_GPU_TRAINING = NetworkSpeed(dense=5e-13, grouped=5e-12, bytes=1.5e-11, operations=3e-5)
_DEVICES: tuple[tuple[Device, NetworkSpeed, NetworkSpeed], ...] = (
    ("cpu", _CORE, _CORE_TRAINING),
    ("cuda", _GPU, _GPU_TRAINING),
)
GUESSED: dict[Device, Speeds] = {
    device: Speeds(
        networks={
            f"{way} {precision}": speed
            for way, speed in (("forward", forward), ("training", training))
            for precision in ("float32", "bfloat16")
        },
        operations={
            "decode": 0.04,
            "resize": 0.004,
            "augment": 0.2,
            "superpixels": 1.4,
            "assign": 0.006,
            "vote": 0.01,
            "scores": 0.002,
            "count": 0.01,
            "cluster": 0.2,
        },
    )
    for device, forward, training in _DEVICES
}


def cache_folder() -> Path | None:
    """Where this user's speeds and counts lie; None where nobody knows the home folder."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if Path(given).is_absolute():
        return Path(given) / "lookbeyond"
    try:
        return Path.home() / ".cache" / "lookbeyond"
    except RuntimeError:
        return None


def speeds_file(device: Device) -> Path | None:
    """The file of this machine's speeds on a device."""
    folder = cache_folder()
    return folder / f"speeds-{platform.node() or 'machine'}-{device}.json" if folder else None


def read_speeds(device: Device) -> Speeds:
    """The speeds that were measured on this machine, else the guesses (whose `host` is empty)."""
    path = speeds_file(device)
    try:
        found = Speeds.model_validate_json(path.read_bytes()) if path else None
    except (OSError, ValidationError):
        found = None
    complete = found is not None and GUESSED[device].operations.keys() <= found.operations.keys()
    return found if found is not None and complete else GUESSED[device]


def keep_speeds(device: Device, speeds: Speeds) -> Path | None:
    """Keep what was measured; None where nothing can be kept."""
    path = speeds_file(device)
    return path if path and _write(path, speeds.model_dump_json(indent=1)) else None


def counted(passes: Iterable[NetworkPass]) -> dict[NetworkPass, PassCost]:
    """What each pass costs; those that cannot be counted are left out."""
    folder = cache_folder()
    path = folder / f"passes-{version('torch')}-{_COUNTING}.json" if folder else None
    known: dict[str, PassCost | None] = {}
    with contextlib.suppress(OSError, ValidationError):
        known = _COSTS.validate_json(path.read_bytes()) if path else {}
    names = {one: one.model_dump_json() for one in dict.fromkeys(passes)}
    missing = [one for one, name in names.items() if name not in known]
    if missing:
        fresh = _count(missing)
        known |= {names[one]: cost for one, cost in zip(missing, fresh, strict=True)}
        if path and any(cost is not None for cost in fresh):
            _write(path, _COSTS.dump_json(known).decode())
    found = {one: known.get(name) for one, name in names.items()}
    return {one: cost for one, cost in found.items() if cost is not None}


def _count(passes: list[NetworkPass]) -> list[PassCost | None]:
    if "torch" in sys.modules:
        from workloads.costs.counting import count_all

        return count_all(passes)
    given = json.dumps([one.model_dump(mode="json") for one in passes])
    command = [sys.executable, "-P", "-m", "workloads.costs.counting"]
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    try:
        counting = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": paths},
        )
        # A run that ends meanwhile leaves no process behind.
        atexit.register(counting.kill)
        try:
            found, _ = counting.communicate(given, timeout=_COUNTING_SECONDS)
        finally:
            counting.kill()
            atexit.unregister(counting.kill)
        return TypeAdapter(list[PassCost | None]).validate_json(found)
    except (OSError, subprocess.SubprocessError, ValidationError):
        return [None] * len(passes)


def _write(path: Path, text: str) -> bool:
    """Whether it could be written; whole or not at all, as two commands may do so at once."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError:
        return False
    return True
