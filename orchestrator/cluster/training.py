"""Training jobs on Ray Train.

The model: a task that asks for next to nothing drives one TorchTrainer; the trainer's workers ask for the cores and
GPUs. Ray Train restarts the group when a worker or machine is lost, and every start continues from the job's own state,
so neither Ray's checkpoints nor its run names decide anything. The failures this guards against: a driver that holds
the very cores its workers wait for, and a run that silently continues another one's state.
"""

import math
import os
import resource
import tempfile
from dataclasses import dataclass
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from orchestrator.cluster.workers import Report
from orchestrator.jobs.training import (
    Team,
    TrainingJob,
    clear_outcome,
    has_outcome,
    leave_error,
    leave_outcome,
    take_outcome,
    train,
)
from orchestrator.spec import Compute
from workloads.errors import InputError

# Enough for Ray to place the driver; the trainer's workers do the work.
_DRIVER_CORES = 0.01


@dataclass(frozen=True)
class Scale:
    """Workers of one training run, and what each of them asks for."""

    workers: int
    cores: int
    uses_gpus: bool
    restarts: int

    @staticmethod
    def of(compute: Compute, uses_gpus: bool, machine_cores: int) -> "Scale":
        """The scale that the user asked for, or one that uses a whole machine."""
        cores = compute.train_cores or max(1, machine_cores // compute.train_workers)
        return Scale(compute.train_workers, cores, uses_gpus, compute.lost_worker_retries)

    def concurrent(self, cluster_cores: float, cluster_gpus: float) -> int:
        """How many such runs fit the cluster at once, at least one."""
        by_cores = cluster_cores / (self.workers * self.cores + _DRIVER_CORES)
        by_gpus = cluster_gpus / self.workers if self.uses_gpus else math.inf
        return max(1, int(min(by_cores, by_gpus)))


@ray.remote(max_retries=0, num_cpus=_DRIVER_CORES)
def run_training(job: TrainingJob, scale: Scale) -> Report:
    """Drive one training run to its end."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    with tempfile.TemporaryDirectory() as folder:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"job": job, "scale": scale},
            # The driver's own 0.01 cores come out of the machine's whole ones: a worker asks for a little less.
            scaling_config=ScalingConfig(
                num_workers=scale.workers,
                use_gpu=scale.uses_gpus,
                resources_per_worker={"CPU": scale.cores - _DRIVER_CORES} | ({"GPU": 1} if scale.uses_gpus else {}),
            ),
            torch_config=TorchConfig(backend="nccl" if scale.uses_gpus else "gloo"),
            run_config=RunConfig(
                name=job.key[:32],
                storage_path=job.storage.locate("training") if job.storage.is_local else folder,
                failure_config=FailureConfig(max_failures=scale.restarts),
            ),
        )
        clear_outcome(job.storage, job.key)
        trainer.fit()
    outcome = take_outcome(job.storage, job.key)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Report(outcome, os.getpid(), peak)


def _worker(config: dict[str, Any]) -> None:
    """One worker of a training run."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from workloads.collectives import Alone, ProcessGroup
    from workloads.devices import torch_device
    from workloads.training import Machine

    job: TrainingJob = config["job"]
    scale: Scale = config["scale"]
    torch.set_num_threads(scale.cores)
    machine = Machine(device=torch_device("auto" if scale.uses_gpus else "cpu"))
    if scale.workers == 1:
        team = Team(machine, Alone(), None)
    else:
        team = Team(machine, ProcessGroup(), DistributedDataParallel)
    if has_outcome(job.storage, job.key):
        # Another worker met what the user has to mend: the group was started again only to learn that.
        return
    try:
        outcome = train(job, team)
    except InputError as error:
        leave_error(job.storage, job.key, error)
        return
    if outcome is not None:
        leave_outcome(job.storage, job.key, outcome)
