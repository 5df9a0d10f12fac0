"""Images per second of pre-training and of fine-tuning through Ray Train, against a plain PyTorch loop.

The project runs as a user would run it, `lookbeyond run` into a fresh storage; its rates and the share of time that a
step waited for its batch are read from the history that every training leaves. The plain loop is a process of its own
with the same network, loss, augmentation, batch, threads and allocator setting: a DataLoader with one worker process, a
forward pass, a backward pass, an optimiser step; no Ray, no ledger, no checkpoints, no reports. It makes the same
images and reads the same labels, once an epoch as the project does. Both rates are medians over windows of steps,
without the first tenth; the two take turns, and every turn gives a ratio.

A training that has all cores shares them with Ray's own processes; `compute.train_cores` leaves some to them, and the
plain loop takes as many threads.

    python -m benchmarks.performance.training --steps 40 --repeats 2
    python -m benchmarks.performance.training --steps 40 --repeats 2 compute.train_cores=1
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import Aim, put, run_project, table, verdict
from orchestrator.cluster.malloc import keep_freed_memory
from orchestrator.ledger.training_states import read_history
from orchestrator.planning.plan import make_plan
from orchestrator.spec.loading import load_experiment
from orchestrator.steps.training import DistributedContext, TrainingJob, TrainingStep
from orchestrator.storage.store import Storage
from workloads.training.batches import Slot
from workloads.training.collectives import SingleProcess
from workloads.training.loop import Loop, Machine
from workloads.training.views import crop_of_batch

RATE = Aim("images/s of project / plain, median of turns, of the slower kind of training", least=0.95)
WAITING = Aim("share of a step that waits for its batch, %, largest of all trainings", most=5)

WINDOW = 4


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="optimiser steps of each training (default 40)")
    parser.add_argument("--repeats", type=int, default=2, help="turns of project and plain loop (default 2)")
    parser.add_argument("--images", type=int, default=64, help="generated scenes (default 64)")
    parser.add_argument("override", nargs="*", help="further key=value pairs, e.g. pretrain.precision=bfloat16")
    options = parser.parse_args(arguments)
    rows: list[Comparison] = []
    for turn in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(Path(folder), turn, options)
    print()
    headings = ["training", "turn", "project images/s", "plain images/s", "project / plain", "waiting"]
    print(table(headings, [row.cells for row in rows]))
    ratios = [statistics.median(row.ratio for row in rows if row.kind == kind) for kind in {row.kind for row in rows}]
    return verdict([(RATE, min(ratios)), (WAITING, max(100 * row.waiting for row in rows))])


@dataclass(frozen=True)
class Comparison:
    """One training of one turn: images/s of both sides, and the share of the project's time that waited."""

    kind: str
    turn: int
    project: float
    plain: float
    waiting: float

    @property
    def ratio(self) -> float:
        """The project's rate over the plain loop's."""
        return self.project / self.plain

    @property
    def cells(self) -> list[Any]:
        """As a row of the table."""
        rates = [f"{self.project:.2f}", f"{self.plain:.2f}", f"{self.ratio:.3f}"]
        return [self.kind, self.turn, *rates, f"{100 * self.waiting:.1f} %"]


def measure(folder: Path, turn: int, options: argparse.Namespace) -> list[Comparison]:
    """One turn of both sides."""
    document: dict[str, Any] = {
        "name": "training",
        "dataset": {"name": "scenes", "image_size": [180, 240], "num_train": options.images, "num_val": 2},
        "labels": {"extractor": {"arch": "filters"}, "superpixels": {"n_segments": 200}},
        "pretrain": {"recipe": "small", "steps": options.steps},
        "finetune": {"recipe": "small", "steps": options.steps, "evaluation_multi_scale": None},
    }
    experiment = folder / "experiment.yaml"
    experiment.write_text(json.dumps(document))
    storage = Storage(str(folder / "storage"))
    run_project(experiment, options.override, folder / "storage")
    plan = make_plan(load_experiment(experiment, options.override), storage, write_listings=False)
    threads = plan.compute.train_cores or os.cpu_count() or 1
    steps = [step for step in plan.steps.values() if step.kind in ("pretrain", "finetune")]
    rows = []
    for step in steps:
        history = read_history(storage, step.key)
        project = rate([(int(row["step"]), row["images_per_second"]) for row in history], options.steps)
        waiting = statistics.mean(row["wait_share"] for row in history[len(history) // 10 :])
        assert isinstance(step, TrainingStep)
        job = step.training_job(storage)
        # Unlike those of multiprocessing's own pool, its process may have a loader as a child.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            windows = pool.submit(plain_loop, job, options.steps, threads).result()
        rows.append(Comparison(step.kind, turn, project, rate(windows, options.steps), waiting))
        put(asdict(rows[-1]) | {"ratio": rows[-1].ratio})
    return rows


def rate(windows: list[tuple[int, float]], steps: int) -> float:
    """The median rate of the windows that end after the first tenth of the steps."""
    return statistics.median(images for step, images in windows if step > steps / 10)


class Inputs(torch.utils.data.Dataset):
    """Augmented inputs of the run's own images, in the run's own order, without its loader."""

    def __init__(self, loop: Loop, steps: int) -> None:
        self.objective, self.source = loop.objective, loop.source
        # The recipes' crop is fixed: any random numbers give it.
        crop = crop_of_batch(loop.objective.views, np.random.default_rng(0))
        self.slots = [Slot(name, epoch, crop) for step in range(steps) for name, epoch in loop.order.batch(step)]

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        slot = self.slots[index]
        return self.objective.inputs(self.source.load(slot.image_id), slot)


def plain_loop(job: TrainingJob, steps: int, threads: int) -> list[tuple[int, float]]:
    """(step, images per second since the last window) of a loop without Ray."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    loop = job.build(DistributedContext(Machine(), SingleProcess(), None))
    objective, optimiser = loop.objective, loop.optimiser
    loader = torch.utils.data.DataLoader(Inputs(loop, steps), batch_size=loop.config.batch_size, num_workers=1)
    windows, begun = [], time.perf_counter()
    for step, batch in enumerate(loader, start=1):
        with torch.autocast("cpu", torch.bfloat16, enabled=loop.config.precision == "bfloat16"):
            loss = objective(batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step % WINDOW == 0:
            windows.append((step, WINDOW * loop.config.batch_size / (time.perf_counter() - begun)))
            begun = time.perf_counter()
    return windows


if __name__ == "__main__":
    sys.exit(main())
