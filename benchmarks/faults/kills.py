"""Kill it and run it again: whatever dies, and however often, the same command ends with the same bytes.

A campaign runs one small experiment (labels of generated scenes, a tiny pre-training, a tiny fine-tuning) undisturbed,
and then over and over in new storages, with faults at seeded points until as many as asked for have come: workers, the
node (its raylet, and with it all that runs there), the driver and trainers are killed, or stopped and continued beyond
the lease (beside a stopped driver another run takes its work over), the storage fails, is slow, or is full in each of
its folders. After every end that is not a success the same command is run again, as a user would; between two starts
states and histories are damaged, and files are planted that would run code. At the end the SHA-256 of every label shard
and model and the scores must be those of the undisturbed run, `verify` must find nothing damaged (but what was damaged
on purpose when nothing needed it any more, as the history of a training that is done), nothing may have been executed,
and no lease and no process may be left.

    python -m benchmarks.faults.kills --kills 100 --seed 0
    python -m benchmarks.faults.kills --kills 12 --seed 0 --first 5      a part, from the storage of that number on

prints what struck what and when, and per storage how often the command was started, how it ended, what was done again
and how much longer than undisturbed it took.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from benchmarks.faults.mischief import damage, plant
from benchmarks.faults.processes import MARK, Stopped, left_over
from benchmarks.measuring import Aim, not_measured, put, table, verdict
from orchestrator.ledger.layout import CHECKPOINTS, HISTORY, IMAGES, LEASES, MODELS, RESULTS, SHARDS, STEPS
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.verification import verify
from orchestrator.storage.faults import FOLDER, VARIABLE, failures, passages
from orchestrator.storage.store import Storage

AIM = Aim("campaigns that did not end as the undisturbed run", most=0)

SIZE, CROP = [64, 96], [49, 65]
# Short, so that a stop outlasts it.
LEASE_SECONDS = 8
EXPERIMENT = {
    "name": "kills",
    "dataset": {"name": "scenes", "image_size": SIZE, "num_train": 12, "num_val": 4},
    "labels": {
        "extractor": {"arch": "filters", "output_stride": 8, "batch_size": 2},
        "sampling": {"pixels_per_image": 20},
        "superpixels": {"n_segments": 30},
    },
    "compute": {"shard_images": 2, "train_cores": 1, "lease_seconds": LEASE_SECONDS},
    "pretrain": {"recipe": "small", "steps": 3, "batch_size": 2, "views": {"image_size": SIZE, "crop": CROP}},
    "finetune": {"recipe": "small", "steps": 3, "batch_size": 2, "augmentation": {"image_size": SIZE, "crop": CROP}},
    # Two labellings that share their samples and superpixels; one is trained on, which takes most of the time.
    "rows": [
        {"row": "trained", "set": {"labels.clustering.k_per_class": 1.5}},
        {"row": "labels alone", "set": {"labels.clustering.k_per_class": 1.0, "pretrain": None, "finetune": None}},
    ],
}

# Rates spread the faults over the whole length of a run; all are far from the certainty of the first passage.
RATES = {
    "worker.kill": 0.05,
    "node.kill": 0.03,
    "driver.kill": 0.05,
    "training.kill": 0.3,
    "storage.read": 0.01,
    "storage.write": 0.02,
    "storage.full": 0.01,
    "storage.slow": 0.005,
    "driver.stop": 0.2,
    "training.stop": 0.3,
    "worker.stop": 0.1,
    # In every phase of a run: the folders that it writes to one after the other.
    **{
        f"storage.full@{folder}": 0.3
        for folder in (LEASES, IMAGES, SHARDS, STEPS, MODELS, CHECKPOINTS, HISTORY, RESULTS)
    },
}
# What befalls a storage between two starts.
BETWEEN = ("state.damaged", "storage.hostile")
# Where it may damage what nothing needs any more.
BESIDE = (f"{CHECKPOINTS}/", f"{HISTORY}/")
# Asked for at a rate that never comes, a point only counts its passages: two a job, one a training step.
COUNTED = ("worker.kill", "training.kill")
NEVER = 1e-12
ENDS = {0: "done", 1: "failed", 2: "input", -signal.SIGKILL: "killed"}
MOST_STARTS = 30


@dataclass
class Campaign:
    """One experiment in one storage, run again until it is done."""

    storage: Storage
    ends: list[int]
    seconds: float
    struck: list[tuple[str, str, float]]
    damaged: set[str]
    work: Counter[str]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="faults in all (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="which faults come when (default 0)")
    every = [*RATES, *BETWEEN]
    parser.add_argument("--points", nargs="+", choices=every, default=every, help="default: all")
    parser.add_argument("--until", choices=("labels", "pretrain", "finetune"), default="finetune")
    parser.add_argument("--first", type=int, default=0, help="number of the first storage (default 0)")
    parser.add_argument("--each", type=int, default=10, help="faults in one storage at most (default 10)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
        return verdict([(AIM, run_campaigns(Path(folder), options))])


def run_campaigns(folder: Path, options: argparse.Namespace) -> int:
    """How many campaigns ended otherwise than the undisturbed run."""
    undisturbed = run_until_done(folder, "undisturbed", Counter(), 0, options.until)
    expected = outcomes(undisturbed.storage)
    put({"undisturbed_seconds": round(undisturbed.seconds, 1), "steps": len(expected)})
    random_points = random.Random(options.seed)
    come, campaigns, faults, others = 0, [], [], 0
    for number in count():
        if come >= options.kills:
            break
        wanted = min(options.each, options.kills - come) if number >= options.first else options.each
        caps = Counter(random_points.choice(options.points) for _ in range(wanted))
        seed = random_points.randrange(1_000_000)
        if number < options.first:
            continue
        campaign = run_until_done(folder, f"campaign-{number}", caps, seed, options.until)
        name = f"campaign-{number}"
        executed = (folder / f"{name}-executed").exists()
        left = left_over(name)
        same = campaign.ends[-1] == 0 and outcomes(campaign.storage) == expected and is_clean(campaign)
        same = same and not executed and not left
        if executed or left:
            put({"campaign": number, "executed": executed, "processes_left": left})
        others += not same
        come += len(campaign.struck)
        faults += [(number, point, what, f"{at:.1f}") for point, what, at in campaign.struck]
        again = campaign.work - undisturbed.work
        campaigns.append(
            (
                number,
                len(campaign.struck),
                " ".join(ENDS.get(code, str(code)) for code in campaign.ends),
                f"{again['worker.kill'] // 2} jobs, {again['training.kill']} training steps",
                f"{campaign.seconds - undisturbed.seconds:.1f}",
                "yes" if same else "NO",
            )
        )
        put({"campaign": number, "faults": len(campaign.struck), "starts": len(campaign.ends), "same": same})
    print("", table(["campaign", "fault", "struck", "after s"], faults), sep="\n")
    print("", table(["campaign", "faults", "starts and their ends", "again", "more s", "same"], campaigns), sep="\n")
    print(f"\n{come} faults in {len(campaigns)} storages")
    return others


def run_until_done(folder: Path, name: str, caps: Counter[str], seed: int, until: str) -> Campaign:
    """Start the command until it ends well; faults, at most so many per point, are counted over all starts."""
    asked = {point: f"rate={RATES[point]},cap={cap}" for point, cap in caps.items() if point in RATES}
    asked = dict.fromkeys(COUNTED, f"rate={NEVER}") | asked
    text = ";".join(f"{point}:{how},seed={seed}" for point, how in asked.items())
    counted = folder / f"{name}-faults"
    environment = os.environ | {VARIABLE: text, FOLDER: str(counted), MARK: name}
    command = [sys.executable, "-m", "lookbeyond", "run", "experiment.yaml", "--storage", name, "--until", until]
    ends: list[int] = []
    damaged: set[str] = set()
    chance, befallen = random.Random(seed), list[tuple[str, str, float]]()
    begun, clock = time.time(), time.perf_counter()

    def start() -> "subprocess.Popen[bytes]":
        with (folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    while not ends or (ends[-1] != 0 and len(ends) < MOST_STARTS):
        ends += Stopped(counted, LEASE_SECONDS, chance, start).follow(start())
        if ends[-1] != 0:
            before = contents(folder / name)
            befallen += [(point, what, time.time()) for point, what in befall(folder, name, caps, befallen, chance)]
            after = contents(folder / name)
            damaged |= {path for path, data in after.items() if before.get(path) != data and path.startswith(BESIDE)}
    seconds = time.perf_counter() - clock
    if ends[-1] != 0:
        not_measured(
            f"{name} did not end well in {MOST_STARTS} starts:\n{(folder / f'{name}.log').read_text()[-3000:]}"
        )
    work = Counter({point: passages(counted, point) for point in COUNTED})
    struck = [
        (point, failure["what"], failure["time"] - begun) for point in RATES for failure in failures(counted, point)
    ]
    struck += [(point, what, at - begun) for point, what, at in befallen]
    return Campaign(Storage(str(folder / name)), ends, seconds, sorted(struck, key=lambda one: one[2]), damaged, work)


def befall(
    folder: Path, name: str, caps: Counter[str], before: list[tuple[str, str, float]], chance: random.Random
) -> Iterator[tuple[str, str]]:
    """Damage a state and plant what is hostile, as often as is asked for in all: which, and what it was."""
    struck = Counter(point for point, _, _ in before)
    if struck["state.damaged"] < caps["state.damaged"] and (what := damage(folder / name, chance)):
        yield "state.damaged", what
    executed = folder / f"{name}-executed"
    if struck["storage.hostile"] < caps["storage.hostile"] and (what := plant(folder / name, executed, chance)):
        yield "storage.hostile", what


def outcomes(storage: Storage) -> dict[str, Any]:
    """What every step made: the SHA-256 of its files and its results."""
    return {
        f"{manifest.kind}/{manifest.key}": ([record.sha256 for record in manifest.records], manifest.results)
        for manifest in Ledger(storage).manifests()
    }


def contents(storage: Path) -> dict[str, bytes]:
    """What lies in a storage, by path; a worker that outlives its driver may still take something away."""
    found = dict[str, bytes]()
    for path in storage.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):
            found[str(path.relative_to(storage))] = path.read_bytes()
    return found


def is_clean(campaign: Campaign) -> bool:
    """Whether every file but what was damaged on purpose is what its manifest says, and no lease is left."""
    damaged = verify(campaign.storage, repair=False).damaged.keys()
    return damaged <= campaign.damaged and not list(campaign.storage.files(LEASES, deep=True))


if __name__ == "__main__":
    sys.exit(main())
