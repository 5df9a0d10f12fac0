"""Ctrl-C at random moments: whatever was going on, nothing of the run is left on a cluster that stays up.

The experiment of `benchmarks.faults.kills` runs on a cluster of this machine that outlives it, and is interrupted at
seeded moments, spread over the time that it takes undisturbed, every other one by SIGTERM, every third twice; each time
it goes on where it was. After each the exit code must be 130 or 143 and, within half a minute, no lease, no placement
group, no actor and no task of it may be left, and no process of its own. At the end the same command finishes with the
bytes and scores of the undisturbed run.

    python -m benchmarks.faults.interruptions --times 10 --seed 0

prints what was sent when, how long the run took to end, and what was left. Moments after which the run had already
ended are drawn again.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml
from ray.util.placement_group import placement_group_table

from benchmarks.faults.kills import EXPERIMENT, outcomes
from benchmarks.faults.processes import MARK, left_over
from benchmarks.measuring import Aim, not_measured, put, table, verdict
from orchestrator.ledger.layout import LEASES
from orchestrator.ledger.verification import verify
from orchestrator.storage.store import Storage

AIM = Aim("interruptions that left something, or ended otherwise than with 130 or 143", most=0)
OTHERS = Aim("files or scores that differ from the undisturbed run's", most=0)

_CORES = 2
_LEAVING_SECONDS = 30.0
# Ray's own: its agents, and one actor for all that is trained on a cluster.
_STAYS = {"DashboardAgent", "RuntimeEnvAgent", "_AutoscalingCoordinatorActor"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10, help="interruptions (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="at which moments (default 0)")
    options = parser.parse_args(arguments)
    ray.init("local", num_cpus=_CORES, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    # A cluster that Ray starts by itself asks for the token that it has made.
    os.environ["RAY_AUTH_MODE"] = "token"
    try:
        with tempfile.TemporaryDirectory() as folder:
            return interrupt(Path(folder), options.times, random.Random(options.seed))
    finally:
        ray.shutdown()


def interrupt(folder: Path, times: int, chance: random.Random) -> int:
    """Interrupt a run so many times, finish it, and compare it with an undisturbed one."""
    (folder / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    clock = time.perf_counter()
    if _start(folder, "undisturbed").wait():
        not_measured((folder / "undisturbed.log").read_text()[-3000:])
    whole = time.perf_counter() - clock
    put({"undisturbed_seconds": round(whole, 1)})
    rows: list[tuple[Any, ...]] = []
    wrong, number = 0, 0
    while len(rows) < times:
        # A run that has come to its end begins anew.
        name = f"run-{number}"
        at = chance.uniform(0.02, 0.98) * whole
        process = _start(folder, name)
        with suppress(subprocess.TimeoutExpired):
            process.wait(at)
        if process.returncode is not None:
            number += 1
            continue
        sent = signal.SIGTERM if len(rows) % 2 else signal.SIGINT
        process.send_signal(sent)
        if len(rows) % 3 == 2:
            time.sleep(0.5)
            process.send_signal(sent)
        begun = time.perf_counter()
        code = process.wait()
        seconds = time.perf_counter() - begun
        left = _left(Storage(str(folder / name)), name)
        wrong += code not in (130, 143) or bool(left)
        rows.append((name, f"{at:.1f}", sent.name, code, f"{seconds:.1f}", "; ".join(left) or "nothing"))
        put(dict(zip(("run", "at", "sent", "code", "seconds", "left"), rows[-1], strict=True)))
    others = 0
    expected = outcomes(Storage(str(folder / "undisturbed")))
    for each in range(number + 1):
        storage = Storage(str(folder / f"run-{each}"))
        code = _start(folder, f"run-{each}").wait()
        others += code != 0 or outcomes(storage) != expected or bool(verify(storage, repair=False).damaged)
    print("", table(["storage", "after s", "sent", "code", "ended after s", "left"], rows), sep="\n")
    return verdict([(AIM, wrong), (OTHERS, others)])


def _start(folder: Path, name: str) -> "subprocess.Popen[bytes]":
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "lookbeyond", "run", "experiment.yaml", "--storage", name, "--address", address]
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=os.environ | {MARK: name}, stdout=log, stderr=log)


def _left(storage: Storage, name: str) -> list[str]:
    """What of a run is still there half a minute after it has ended, in words."""
    kinds: dict[str, Callable[[], list[str]]] = {
        "leases": lambda: sorted(file.path for file in storage.files(LEASES, deep=True)),
        "placement groups": lambda: [
            key for key, group in placement_group_table().items() if group["state"] != "REMOVED"
        ],
        "actors and tasks": lambda: sorted(_at_work() - _STAYS),
    }
    left = []
    deadline = time.monotonic() + _LEAVING_SECONDS
    for kind, find in kinds.items():
        while (found := find()) and time.monotonic() < deadline:
            time.sleep(0.2)
        left += [f"{kind}: {', '.join(found)}"] if found else []
    processes = left_over(name)
    return left + ([f"processes: {', '.join(processes)}"] if processes else [])


def _at_work() -> set[str]:
    """What the cluster's workers are, or do."""
    titles = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and not title.startswith("ray::IDLE"):
                titles.add(title.removeprefix("ray::").split(".")[0].strip())
    return titles


if __name__ == "__main__":
    sys.exit(main())
