"""One training on Ray Train: a group of workers that start together, and what its failures mean.

The model: `fit` drives one TorchTrainer in a process that asks for next to nothing; the trainer's workers ask for the
cores and GPUs. Every start continues from the job's own state, so neither Ray's checkpoints nor its run names decide
anything, and Train's own retries are off: `fit` says what went wrong, and who calls it has a budget for each kind. The
failures this guards against: a driver that holds the very cores its workers wait for; a group of workers that never
starts, tried again without end and without a word; a run that silently continues another one's state.
"""

import gc
import os
import tempfile
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import ray
import ray.train
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError

from orchestrator.cluster import ray_private, session
from orchestrator.cluster.gpu_check import require_gpu_of_this_worker, torch_config
from orchestrator.cluster.malloc import keep_freed_memory
from orchestrator.cluster.metrics import GpuBusy
from orchestrator.cluster.reports import ReportCallback, Tell, in_turn
from orchestrator.cluster.room import Claim, Machine, Workers
from orchestrator.ledger.layout import short
from orchestrator.ledger.leases import LeaseLostError
from orchestrator.ledger.stop_marks import is_marked
from orchestrator.ledger.training_states import VAL_MIOU_SUBSET, leave_outcome, read_outcome
from orchestrator.planning.capacity import Capacity, ResourceRequest
from orchestrator.spec.experiment import Compute
from orchestrator.steps.training import TrainingJob
from workloads.devices import MPS
from workloads.errors import InputError

if TYPE_CHECKING:
    from orchestrator.steps.training import DistributedContext
    from workloads.training.loop import StepReport

# The least that Ray counts; the trainer's workers do the work.
DRIVER_CORES = 0.0001

# Ray puts the drivers of many trainings on one machine, and a worker must still find a whole core beside them all.
DRIVERS_ON_A_MACHINE = 100

# A worker waits for Train to take its report, and Train asks every half second.
_POLL_SECONDS = 0.5
_REPORT_SECONDS = 2.0

# How long the workers of a training may take to start: where machines have to be started first, they take minutes.
_START_SECONDS = 60.0
_START_SECONDS_WHEN_SCALING = 900.0


# Whoever drives the run ends workers that no training takes over; this is for one that has died.
_KEPT = ray_private.KeptWorkers(seconds=20.0)


class LostWorkerError(Exception):
    """A worker process or its machine went away, or one that others were talking to."""


class ShortOfMemoryError(Exception):
    """A worker was ended because its machine was short of memory."""


class NotStartedError(Exception):
    """The workers of a training could not be placed in time."""


class FailedInItsWorkError(Exception):
    """An error in the work itself that is not of the user's making, as far as is known."""


@dataclass(frozen=True)
class Scale:
    """Workers of one training, what each of them asks for and where, and how patient to be with them.

    `nodes` are the machines of the workers, none where Ray is to find them. Of the workers that wait for a training of
    their process it may take over those in the placement groups of `may_take_over`.
    """

    workers: int
    cores: int
    uses_gpus: bool
    start_seconds: float
    checkpoint_seconds: float
    dashboard: bool
    device: str = "auto"
    nodes: tuple[str, ...] = ()
    decoded_cache_gb: float = 0.0
    may_take_over: frozenset[str] = field(default=frozenset(), repr=False)

    @staticmethod
    def of(compute: Compute, uses_gpus: bool, capacity: Capacity, *, dashboard: bool) -> "Scale":
        """The scale that the user asked for; its cores are the least that suits one of the machines.

        Raises:
            InputError: several workers would share a GPU that torch cannot share a training over.
        """
        if compute.device == MPS and compute.train_workers > 1:
            allowed = "allowed with compute.device mps: 1; torch splits no training over Apple's GPUs"
            raise InputError(key="compute.train_workers", value=compute.train_workers, allowed=allowed)
        workers = Workers(compute.train_workers, uses_gpus, compute.train_cores)
        suited = [one for one in capacity.most if one.gpus or not uses_gpus]
        machines = [Machine(None, one.cores, one.gpus) for one in suited] or [Machine(None, 1, 0)]
        patience = _START_SECONDS_WHEN_SCALING if capacity.scales else _START_SECONDS
        return Scale(
            compute.train_workers,
            min(map(workers.cores_on, machines)),
            uses_gpus,
            compute.start_seconds or patience,
            compute.checkpoint_seconds,
            dashboard,
            compute.device if compute.device == MPS else "auto" if uses_gpus else "cpu",
            decoded_cache_gb=compute.decoded_cache_gb,
        )

    def at(self, claim: Claim, *, pinned: bool) -> "Scale":
        """The scale of a training that has found its place."""
        nodes = tuple(node for node in claim.nodes if node is not None)
        return replace(self, cores=claim.cores, nodes=nodes if pinned and len(nodes) == self.workers else ())

    @property
    def request(self) -> ResourceRequest:
        """What one training takes, driver included: a worker leaves the share of all drivers alone."""
        purpose = "a training (compute.train_workers, compute.train_cores, compute.device)"
        return ResourceRequest(purpose, self.workers, self.cores, float(self.uses_gpus))

    @property
    def worker_resources(self) -> dict[str, float]:
        """What Ray reserves for a worker."""
        # The drivers' cores come out of the machine's whole ones: a worker asks for a little less.
        return {"CPU": self.cores - DRIVERS_ON_A_MACHINE * DRIVER_CORES} | ({"GPU": 1} if self.uses_gpus else {})


def fit(job: TrainingJob, scale: Scale, tell: Tell) -> None:
    """Drive one training to its end, where its outcome lies on the storage, or until it is given up; in an actor.

    `tell` is called in another thread with what the training reports of how it goes, and with the identity of the
    placement group that its workers are in.

    Raises:
        InputError: what the user has to mend.
        LostWorkerError: a worker was lost.
        ShortOfMemoryError: a worker was ended for memory.
        NotStartedError: the workers were not placed in time.
        LeaseLostError: another run took over the step.
        FailedInItsWorkError: any other error.
    """
    if read_outcome(job.storage, job.key, job.origin) is not None:
        # The training had ended, and who drove it died before the step was declared finished.
        return
    os.environ |= ray_private.train_settings(_POLL_SECONDS, scale.start_seconds)
    groups: list[str] = []

    def hear(report: dict[str, Any]) -> None:
        if ray_private.PLACEMENT_GROUP in report:
            groups.append(report[ray_private.PLACEMENT_GROUP])
        tell(report)

    try:
        _fit(job, scale, hear)
    except BaseException:
        for group in groups:
            ray_private.remove_group(group)
        raise


def _fit(job: TrainingJob, scale: Scale, tell: Tell) -> None:
    with tempfile.TemporaryDirectory() as folder, in_turn(tell) as tell_in_turn:
        # The types that are known of Train's configuration are those of its first version.
        failures: dict[str, Any] = {"max_failures": 0, "controller_failure_limit": 0, "max_preemption_failures": 0}
        selector: dict[str, Any] = {"label_selector": [{ray_private.NODE_LABEL: node} for node in scale.nodes] or None}
        callbacks: list[Any] = [ReportCallback(tell_in_turn)]
        lean_trainer = ray_private.lean_trainer(
            cleans_up=scale.dashboard, tell=tell_in_turn, kept=_KEPT, may_take_over=scale.may_take_over
        )
        trainer = lean_trainer(
            _worker,
            train_loop_config={"job": job, "scale": scale},
            scaling_config=ScalingConfig(
                num_workers=scale.workers,
                use_gpu=scale.uses_gpus,
                resources_per_worker=scale.worker_resources,
                **selector,
            ),
            torch_config=torch_config(uses_gpus=scale.uses_gpus),
            run_config=RunConfig(
                name=short(job.key),
                # Nothing that Train writes is needed later, and nothing that others may write is read by it.
                storage_path=folder,
                failure_config=FailureConfig(**failures),
                callbacks=callbacks,
            ),
        )
        try:
            trainer.fit()
        except WorkerGroupError as error:
            raise _cause(error.worker_failures) from None
        except ControllerError as error:
            raise _controller_cause(error.controller_failure, scale) from None
        except ray.train.PreemptionError as error:
            raise LostWorkerError(str(error)) from None


def _cause(failures: dict[int, Exception]) -> Exception:
    """What the failures of the workers come to: one that fails takes the others with it."""
    for error in failures.values():
        if isinstance(error, InputError | LeaseLostError):
            return error
    shortages = [shortage for error in failures.values() if (shortage := ray_private.memory_shortage(error))]
    if shortages:
        return ShortOfMemoryError(shortages[0])
    for rank, error in failures.items():
        if ray_private.is_lost_worker(error) or _is_broken_connection(error):
            return LostWorkerError(f"worker {rank} of {len(failures)}: {type(error).__name__}")
    rank, error = next(iter(failures.items()))
    return FailedInItsWorkError(f"{type(error).__name__} in worker {rank}: {error}")


def _is_broken_connection(error: Exception) -> bool:
    """Whether the error is what torch.distributed says when the process at the other end is gone."""
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    )


def _controller_cause(error: Exception, scale: Scale) -> Exception:
    if ray_private.is_start_timeout(error):
        free = session.free()
        return NotStartedError(
            f"{scale.request}; they did not start within {scale.start_seconds:g} s (compute.start_seconds). Free at "
            f"the end of that time: {free['cores']:g} cores and {free['GPUs']:g} GPUs, over all machines"
        )
    if ray_private.is_lost_at_start(error):
        return LostWorkerError("a worker was lost while it started")
    return FailedInItsWorkError(f"{type(error).__name__}: {error}")


class _MetricsReporter:
    """Tells Train from time to time how a training goes, and hears whether it is to go on.

    Train waits until all workers have reported, so they must agree when to: the clock of rank 0 decides.
    """

    def __init__(self, job: TrainingJob, context: "DistributedContext") -> None:
        self._storage = job.storage
        self._key = job.key
        self._context = context
        self._told = float("-inf")
        self._busy = GpuBusy("training")

    def __call__(self, report: "StepReport") -> bool:
        if not self._any_worker(self._is_due(report)):
            return True
        self._told = time.monotonic()
        self._busy.note(self._context.machine.device.type)
        ray.train.report(
            {
                # The name that Tune's TensorBoard logger takes its horizontal axis from: steps go on after a restart.
                "timesteps_total": report.step,
                "epoch": report.epoch,
                "loss": report.loss,
                "learning_rate": report.learning_rate,
                "images_per_second": report.images_per_second,
                "wait_share": report.wait_share,
            }
            | report.shown
        )
        # At its end a training has nothing left to save, and is as good as any other.
        ends = report.step == report.total_steps
        return ends or not self._any_worker(self._context.workers.rank == 0 and is_marked(self._storage, self._key))

    def _is_due(self, report: "StepReport") -> bool:
        """Whether enough time has gone by, or there is a score that early stopping waits for."""
        late = time.monotonic() - self._told >= _REPORT_SECONDS
        return self._context.workers.rank == 0 and (late or VAL_MIOU_SUBSET in report.shown)

    def _any_worker(self, word: bool) -> bool:
        """Whether any of the workers says so; the same answer on all of them."""
        import torch

        if self._context.workers.size == 1:
            return word
        return bool(self._context.workers.sum(torch.tensor(float(word), device=self._context.machine.device)))


def _worker(config: dict[str, Any]) -> None:
    """One worker of a training."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from orchestrator.steps.training import DistributedContext
    from orchestrator.steps.training_runs import train
    from workloads.devices import lacking_operations, torch_device
    from workloads.training.collectives import ProcessGroup, SingleProcess
    from workloads.training.decoded import DecodedCache
    from workloads.training.loop import Machine

    job: TrainingJob = config["job"]
    scale: Scale = config["scale"]
    require_gpu_of_this_worker()
    keep_freed_memory()
    torch.set_num_threads(scale.cores)
    machine = Machine.of(torch_device(scale.device), scale.cores)
    cache = DecodedCache(scale.decoded_cache_gb) if scale.decoded_cache_gb else None
    if scale.workers == 1:
        context = DistributedContext(machine, SingleProcess(), None, cache)
    else:
        context = DistributedContext(machine, ProcessGroup(), DistributedDataParallel, cache)
    with lacking_operations():
        outcome = train(job, context, _MetricsReporter(job, context), scale.checkpoint_seconds)
    if outcome is not None:
        leave_outcome(job.storage, job.key, outcome)
    # The process may be that of the next training as well, and Train ends the groups of several workers alone.
    if scale.workers == 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    gc.collect()
    if machine.device.type == "cuda":
        torch.cuda.empty_cache()
