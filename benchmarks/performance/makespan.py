"""How long a table takes on so many GPUs, against what no schedule could beat.

A real Ray of simulated machines (each with some GPUs that are there for Ray alone, 8 cores beside each, and one machine
of cores alone) runs the plan of a table of the paper's size by the project's own runner. The jobs sleep: for as long as
the rates of a file say, drawn up to 30 % longer or shorter, and scaled to fit into minutes. Who only sleeps needs no
torch: what its start takes would be scaled up to hours. Printed per number of GPUs:
the makespan, the longest path, work / G, the makespan over the larger of the two, and how busy the GPUs were. With
`--losses` a worker of a training is lost at that rate an hour, and the training goes on from its last state. With
`--waves` trainings run as they did before there was one schedule: those that are ready start when nothing else is ready
or in flight, and nothing else starts until the last of them has ended.

    python -m benchmarks.performance.makespan
    python -m benchmarks.performance.makespan --tables 7 --gpus 8 --losses 0.05
"""

import argparse
import heapq
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmarks.cost_model.grid_pays import EXPERIMENTS, name_cityscapes
from benchmarks.measuring import Aim, not_measured, put, table, verdict
from benchmarks.performance.empty_work import EmptyJob, empty_record, in_place_of_jobs
from orchestrator.cluster import actors, trainings
from orchestrator.cluster.gpu_check import VARIABLE
from orchestrator.cluster.run import run_plan
from orchestrator.cluster.runner import Runner
from orchestrator.cluster.training import LostWorkerError, Scale
from orchestrator.cluster.trial import Fit
from orchestrator.cluster.workers import SHARE, Report
from orchestrator.execution.execution import Execution, Task
from orchestrator.execution.progress import Progress, plain_console
from orchestrator.execution.schedule import Item
from orchestrator.ledger.layout import model_path
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.training_states import leave_outcome
from orchestrator.planning.estimate import read_assumptions
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.spec.loading import load_experiment
from orchestrator.steps.jobs import WorkerCache
from orchestrator.steps.rates import Rate
from orchestrator.steps.step import Pool, Step
from orchestrator.steps.training import TrainingJob
from orchestrator.storage.store import Storage

RATES = Path(__file__).resolve().parents[1] / "cost_model/cityscapes_rates.yaml"
SPREAD = 0.3
FRAMES = (2, 3, 4, 5)
CORES = 8
# The more machines, the more of a table's work is on its longest path.
AIMS = {1: 1.10, 4: 1.10, 8: 1.10, 16: 1.15}
WITH_LOSSES = 1.35


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, nargs="+", default=[2, 3, 4, 5], help="in one plan (default 2 3 4 5)")
    parser.add_argument("--gpus", type=int, nargs="+", default=list(AIMS), help="default 1 4 8 16")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the larger bound here (default 60)")
    parser.add_argument("--losses", type=float, default=0.0, help="share of trainings that lose a worker in an hour")
    parser.add_argument("--waves", action="store_true", help="trainings in waves, for comparison; judged by no aim")
    parser.add_argument("--seed", type=int, default=0, help="of the durations and losses (default 0)")
    options = parser.parse_args(arguments)
    os.environ[VARIABLE] = "cpu"
    rows, seen = [], []
    for gpus in options.gpus:
        row = measure(options, gpus)
        put(row)
        rows.append(row)
        most = WITH_LOSSES if options.losses else AIMS.get(gpus, max(AIMS.values()))
        seen.append((Aim(f"makespan on {gpus} GPUs over what no schedule could beat", most=most), float(row["ratio"])))
    print("", table(list(rows[0]), [list(row.values()) for row in rows]), sep="\n")
    return verdict([] if options.waves else seen)


def measure(options: argparse.Namespace, gpus: int) -> dict[str, Any]:
    """Figures of one run on so many GPUs."""
    with (
        tempfile.TemporaryDirectory() as folder,
        machines(gpus),
        Path(os.devnull).open("w") as nowhere,
        Progress(plain_console(nowhere)) as said,
    ):
        storage = Storage(f"{folder}/storage")
        plan = planned(options.tables, Path(folder), storage)
        work = Work.of(plan, options.seed, gpus)
        scale = options.seconds / work.bound(gpus)
        busy = f"{folder}/busy"
        Path(busy).mkdir()
        sleeping = Sleeping({key: seconds * scale for key, seconds in work.seconds.items()}, busy)
        lost = Losses(options.losses / 3600 / scale, options.seed, folder)
        waves = in_waves() if options.waves else nullcontext()
        fit = partial(sleep, sleeping, lost)
        with waves, in_place_of_jobs(sleeping.make), sleeping_actors(), sleeping_trainings(fit):
            begun = time.perf_counter()
            report = run_plan(plan, storage, said, address=None, dashboard=False)
            seconds = time.perf_counter() - begun
        if report.failed or plan.pending:
            not_measured(f"not all was done: {report.failed}")
        hours = 1 / 3600 / scale
        return {
            "tables": "+".join(map(str, options.tables)) + (" in waves" if options.waves else ""),
            "GPUs": gpus,
            "steps": len(plan.steps),
            "makespan h": f"{seconds * hours:.1f}",
            "longest path h": f"{work.path / 3600:.1f}",
            "work/G h": f"{work.gpu_seconds / gpus / 3600:.1f}",
            "ratio": f"{seconds / options.seconds:.3f}",
            "GPUs busy": f"{sum(map(float, read_all(busy))) / seconds / gpus:.0%}",
            "lost": report.retries.get("lost", 0),
            "seconds": f"{seconds:.1f}",
        }


def planned(tables: Sequence[int], folder: Path, storage: Storage) -> Plan:
    """One plan of all tables at the paper's size, with few shards: here they cost more than what they stand for."""
    root = folder / "cityscapes"
    name_cityscapes(root)
    overrides = [f"dataset.root={root}", "compute.shard_images=640"]
    overrides += [f"weights.{name}=stand-in:{name}" for name in ("moco", "pixpro", "imagenet", "voc")]
    # Those that the paper labels all frames of.
    frames = ["dataset.pool=sequence", "finetune.pool=train"]
    documents = [
        load_experiment(EXPERIMENTS / f"table{number}.yaml", overrides + (frames if number in FRAMES else []))
        for number in tables
    ]
    plans = [make_plan(document, storage, write_listings=True) for document in documents]
    for cell in (cell for plan in plans for cell in plan.cells):
        if cell.error is not None:
            not_measured(str(cell.error))
    cells = [cell for plan in plans for cell in plan.cells]
    return replace(plans[0], cells=cells, steps={key: step for plan in plans for key, step in plan.steps.items()})


@dataclass(frozen=True)
class Work:
    """Seconds of each step on one device, those of all steps on GPUs, and those of the longest path."""

    seconds: dict[str, float]
    gpu_seconds: float
    path: float

    @staticmethod
    def of(plan: Plan, seed: int, gpus: int) -> "Work":
        """By the rates of the file, drawn up to 30 % longer or shorter."""
        rates = read_assumptions(str(RATES)).rates
        draw = random.Random(seed)
        seconds: dict[str, float] = {}
        paths: dict[str, float] = {}
        on_gpus = 0.0
        for key, step in plan.steps.items():
            rate: Rate = rates.get(step.rate_name(step.meaning), step.assumed_rate)
            seconds[key] = step.image_passes * rate.seconds * draw.uniform(1 - SPREAD, 1 + SPREAD)
            on_gpus += seconds[key] if step.pool is not Pool.PROCESS else 0.0
            width = min(len(step.images.shards), gpus if step.pool is Pool.EXTRACT else CORES * gpus)
            alone = seconds[key] / (width if step.stream else 1)
            paths[key] = alone + max((paths[other] for other in step.input_keys.values()), default=0.0)
        return Work(seconds, on_gpus, max(paths.values()))

    def bound(self, gpus: int) -> float:
        """What no schedule could beat."""
        return max(self.path, self.gpu_seconds / gpus)


@dataclass(frozen=True)
class SleepingJob(EmptyJob):
    """Takes as long as it is told to, and notes how long it had a GPU."""

    seconds: float = 0.0
    busy: str = ""

    def run(self, cache: WorkerCache) -> Outcome:
        """Sleep."""
        time.sleep(self.seconds)
        if self.busy:
            note(self.busy, self.seconds)
        outcome = super().run(cache)
        return replace(outcome, results={key: {"pmiou": 50.0, "num_clusters": 29} for key in self.keys})


@dataclass(frozen=True)
class Sleeping:
    """Jobs that sleep in place of those of the steps; seconds by key, and the folder that GPU-seconds are noted in."""

    seconds: dict[str, float]
    busy: str

    def make(self, original: Any, storage: Storage, steps: tuple[Step, ...], shard: Any, device: str) -> SleepingJob:
        """The job that stands for one of the steps."""
        job = original(storage, steps, shard, device)
        share = 1 / len(steps[0].images.shards) if shard else 1.0
        # What is done together takes as long as the longest of them.
        seconds = max(self.seconds[step.key] for step in steps) * share
        return SleepingJob(
            job,
            job.name,
            job.title,
            tuple(step.stream for step in steps if step.stream),
            tuple(step.key for step in steps if not step.stream),
            shard.digest if shard else "",
            shard.stop - shard.start if shard else 0,
            seconds,
            "" if steps[0].pool is Pool.PROCESS else self.busy,
        )


@dataclass(frozen=True)
class Losses:
    """Workers of trainings that are lost, at a rate a second; what was done before is kept in files."""

    rate: float
    seed: int
    folder: str = field(repr=False)

    def next_of(self, key: str, start: float) -> float:
        """How long the worker of a training lives that goes on from there."""
        draw = random.Random(f"{self.seed} {key} {start:.3f}")
        return draw.expovariate(self.rate) if self.rate else float("inf")


def sleep(
    sleeping: Sleeping, losses: Losses, job: TrainingJob, scale: Scale, tell: Callable[[dict[str, Any]], None]
) -> None:
    """In place of a training: hold its cores and GPUs on its machine for its time."""
    state = Path(losses.folder) / f"{job.key}.state"
    done = float(state.read_text()) if state.exists() else 0.0
    left = sleeping.seconds[job.key] - done
    lived = min(left, losses.next_of(job.key, done))
    resources = scale.worker_resources
    (node,) = scale.nodes
    hold = ray.remote(_hold).options(
        num_cpus=resources["CPU"],
        num_gpus=resources.get("GPU", 0),
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    )
    ray.get(hold.remote(lived, sleeping.busy))
    if lived < left:
        state.write_text(str(done + lived))
        raise LostWorkerError("a worker of the training was lost")
    path = model_path(job.key, "pt")
    job.storage.replace(path, b"")
    record = empty_record(path, 0)
    files = {"network": record, "predictions": record}
    outcome = Outcome(files=files, results={job.key: {"miou": 50.0}}, origin=job.origin)
    leave_outcome(job.storage, job.key, outcome)


def _hold(seconds: float, busy: str) -> None:
    time.sleep(seconds)
    note(busy, seconds)


def note(folder: str, seconds: float) -> None:
    """Note seconds of a GPU."""
    Path(folder, f"{os.getpid()}-{time.monotonic_ns()}").write_text(str(seconds))


def read_all(folder: str) -> list[str]:
    """All that was noted."""
    return [path.read_text() for path in Path(folder).iterdir()]


class Sleeper:
    """An actor that runs jobs that sleep."""

    def run(self, job: SleepingJob) -> Report:
        """Run one."""
        return Report(job.run(WorkerCache()), os.getpid(), 0)


@contextmanager
def sleeping_actors() -> Iterator[None]:
    """Extraction and clustering are done by actors without torch for a while."""

    def start(gpus: float, node: str, cores: float) -> Any:
        there = NodeAffinitySchedulingStrategy(node, soft=True)
        return ray.remote(Sleeper).options(num_cpus=cores, num_gpus=gpus, scheduling_strategy=there).remote()

    with (
        patch.object(actors, "start_extraction", lambda gpus, node, helpers: start(gpus, node, SHARE / 2)),
        patch.object(actors, "start_clustering", lambda gpus, threads, node: start(gpus, node, 0)),
    ):
        yield


@contextmanager
def sleeping_trainings(fit: Fit) -> Iterator[None]:
    """Trainings are driven by this for a while."""
    original: Any = trainings.Trainings
    trainings.Trainings = partial(original, fit=fit)  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        trainings.Trainings = original  # type: ignore[misc]


@contextmanager
def in_waves() -> Iterator[None]:
    """The runner starts trainings in waves for a while."""
    wave: set[str] = set()
    later: list[Any] = []
    hand_out = Runner._hand_out
    others = {name: getattr(Runner, name) for name in ("_start_clustering", "_start_extraction", "_start_task")}

    def hand_out_wave(runner: Any, execution: Execution) -> None:
        schedule = execution.schedule
        ready = schedule._ready[Pool.TRAIN]
        is_over = not runner.trainings.active and not any(name in wave for *_, name in ready)
        if is_over and not runner._running and not any(schedule.ready(pool) for pool in Pool if pool is not Pool.TRAIN):
            wave.clear()
            wave.update(name for *_, name in [*ready, *later])
        found = [*ready, *later]
        ready[:] = [one for one in found if one[-1] in wave]
        later[:] = [one for one in found if one[-1] not in wave]
        heapq.heapify(ready)
        hand_out(runner, execution)

    def start_other(name: str, runner: Any, execution: Execution, item: Item[Task]) -> bool:
        return not runner.trainings.active and others[name](runner, execution, item)

    with ExitStack() as patches:
        patches.enter_context(patch.object(Runner, "_hand_out", hand_out_wave))
        for name in others:
            replaced = partial(start_other, name)
            patches.enter_context(patch.object(Runner, name, lambda *given, replaced=replaced: replaced(*given)))
        yield


@contextmanager
def machines(gpus: int) -> Iterator[None]:
    """A head without cores, at most four machines with all GPUs, and one with cores alone."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        count = min(gpus, 4)
        # Memory of this machine is that of none of the simulated ones.
        here: dict[str, Any] = {"memory": 512e9, "object_store_memory": 100_000_000}
        for _ in range(count):
            cluster.add_node(num_cpus=CORES * gpus // count, num_gpus=gpus // count, **here)
        cluster.add_node(num_cpus=2 * CORES, **here)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR, namespace="lookbeyond")
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main())
