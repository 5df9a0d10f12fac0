"""The processes that run jobs: extraction actors, the clustering actor, and plain tasks.

The model: an actor keeps a cache (a loaded network, a sample matrix) between jobs; a task keeps nothing. Ray's own
retries are off: the runner tells lost machines from errors in the work and has a budget for each.
"""

import os
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster.gpu_check import require_gpu_of_this_worker
from orchestrator.cluster.malloc import keep_freed_memory
from orchestrator.cluster.metrics import GpuBusy
from orchestrator.ledger.outcomes import Outcome
from orchestrator.planning.capacity import ResourceRequest
from orchestrator.steps.jobs import Job, WorkerCache
from orchestrator.storage.faults import kill_point
from workloads.costs.memory import peak_resident_bytes
from workloads.devices import lacking_operations

# Half a core each, so that on a machine without a GPU extraction and superpixels can run side by side; the runner
# bounds how many of each are in flight, so one kind alone does not crowd the cores either.
SHARE = 0.5

# More than what the drivers of trainings hold on a machine. They stay for the next training, so a machine of one core
# never has a whole one to give: what asks for that waits for ever, and the run with it.
_DRIVERS = 0.02

# A head that runs no work offers no core, which keeps away all that asks for one. What asks for none keeps away by the
# label that the head of `cluster.yaml` carries; machines without the label match.
_ANYWHERE = {"label_selector": {"lookbeyond.role": "!head"}}


@dataclass(frozen=True)
class Report:
    """An outcome and the peak resident memory of the process that made it, in bytes."""

    outcome: Outcome
    process: int
    peak_bytes: int


class _Worker:
    """An actor that runs jobs one after the other and keeps its cache between them."""

    def __init__(self, threads: int, process: str, helpers: int = 1) -> None:
        import torch

        keep_freed_memory()
        torch.set_num_threads(threads)
        self._cache = WorkerCache(helpers)
        self._busy = GpuBusy(process)

    def run(self, job: Job) -> Report:
        """Run one job."""
        report = _run(job, self._cache)
        self._busy.note(report.outcome.device)
        return report


ExtractionWorker = ray.remote(max_restarts=0, max_task_retries=0)(_Worker)
ClusteringWorker = ray.remote(max_restarts=0, max_task_retries=0)(_Worker)


@ray.remote(max_retries=0)
def run_job(job: Job, threads: int | None = None) -> Report:
    """Run one job in a process that keeps nothing, and that imports no torch unless the job or `threads` does."""
    keep_freed_memory()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return _run(job, WorkerCache())


def _reserved(share: float) -> float:
    """What Ray reserves for a share of a core."""
    return share * (1 - _DRIVERS)


def extraction_request(gpus: float) -> ResourceRequest:
    """What one extraction actor takes."""
    return ResourceRequest("an extraction worker (compute.gpus_per_worker, compute.device)", 1, SHARE, gpus)


def start_extraction(gpus: float, node: str | None, helpers: int) -> Any:
    """A new extraction actor that reserves this share of a GPU, on a machine if one is named.

    Its `helpers`, threads that keep a GPU fed, reserve no core: what else runs on the machine shares these with them.
    """
    actor: Any = ExtractionWorker.options(num_cpus=_reserved(SHARE), num_gpus=gpus, **_on(node))
    return actor.remote(1, "extraction", helpers)


def start_clustering(gpus: float, threads: int, node: str | None) -> Any:
    """A new clustering actor that reserves this many GPUs; its result does not depend on the number of threads.

    It asks for no core: there is one of it, all labels wait for it, and behind queued superpixel tasks it would start
    only when the last of them is done.
    """
    return ClusteringWorker.options(num_cpus=0, num_gpus=gpus, **(_on(node) or _ANYWHERE)).remote(threads, "clustering")


def start_task(job: Job, share: float, node: str | None) -> Any:
    """A job as a task that reserves this share of a core, on a machine if one is named; a reference to its report."""
    # Few names: Ray keeps figures for each of them for as long as the driver lives.
    where = _on(node) or ({} if share else _ANYWHERE)
    return run_job.options(num_cpus=_reserved(share), name=job.name, **where).remote(job)


def start_alone(job: Job, cores: float, gpus: float, node: str | None) -> Any:
    """A job of any kind as a task that has all cores of a machine, so that nothing else uses its memory."""
    task: Any = run_job.options(num_cpus=cores - _DRIVERS, num_gpus=gpus, name=job.name, **_on(node))
    return task.remote(job, threads=1)


def _on(node: str | None) -> dict[str, Any]:
    # Where the machine is lost meanwhile, any other will do.
    return {} if node is None else {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}


def _run(job: Job, cache: WorkerCache) -> Report:
    require_gpu_of_this_worker()
    _kill_points(f"before {job.title}")
    with lacking_operations():
        outcome = job.run(cache)
    _kill_points(f"after {job.title}")
    return _report(outcome)


def _kill_points(what: str) -> None:
    kill_point("worker.kill", what)
    # A worker's parent is the raylet; a machine without it is lost, with all that runs there.
    kill_point("node.kill", what, os.getppid())


def _report(outcome: Outcome) -> Report:
    return Report(outcome, os.getpid(), peak_resident_bytes())
