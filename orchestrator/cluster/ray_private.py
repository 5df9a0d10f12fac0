"""Everything that this project takes from inside Ray, as it was seen in 2.60: names that Ray may change without a word.

Each has its reason, and a test that fails when Ray changes it (`tests/orchestrator/cluster/test_ray_private.py`). For
as long as there is anything here, pyproject.toml bounds the version of Ray.
"""

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import OutOfMemoryError, RayError
from ray.job_config import JobConfig
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

import orchestrator

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.execution.worker_group.state import WorkerGroupState

# What a head says to a job that comes before its agent is up: no error of its own kind tells it from a refusal.
NO_AGENT_YET = "No available agent"

# Ray's log monitor looks for new files ten times a second unless they are many, which takes a hundredth of a core.
FEW_LOOKS_FOR_LOGS = {"RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0", "LOG_NAME_UPDATE_INTERVAL_S": "5"}

# Task events are for a dashboard: where there is none, nobody reads them.
NO_TASK_EVENTS = {"RAY_task_events_report_interval_ms": "0"}

# The label that Ray gives every machine, with its node as the value.
NODE_LABEL = "ray.io/node-id"

# In what a training tells: the identity of the placement group of its workers.
PLACEMENT_GROUP = "placement_group"

# How long workers that were idle may take to answer.
_ANSWER_SECONDS = 5.0

# Of Tune's two ways of printing the one that can be silent; what a run prints is said by `Progress`.
SILENT_TUNE = {"RAY_AIR_NEW_OUTPUT": "0"}

# Tune's own loggers write the whole configuration into every line; and it would start one trial after the other.
TUNE_SETTINGS = SILENT_TUNE | {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
}


def train_settings(poll_seconds: float, start_seconds: float) -> dict[str, str]:
    """What Train reads from the environment of a trainer's driver: it has no other way to be told."""
    return {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(poll_seconds),
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(start_seconds),
        # One process less per training: whoever loses a machine, warned or not, continues from the last state.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    }


def quieten_job_client() -> None:
    """The client tells of each request by loggers that set their own level; what matters comes as an error."""
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)


def session_folder(folder: str | None) -> dict[str, str]:
    """Where `ray.init` puts what it writes, sockets among it; None: where it does by itself."""
    return {"_temp_dir": folder} if folder else {}


class _SetPaths(list[str]):
    """The folders that workers look for modules in; Ray's own are not taken in."""

    def extend(self, folders: Iterable[str]) -> None:
        pass


def job_without_current_folder() -> JobConfig:
    """A job whose workers look for modules where this project lies, and neither beside the script nor in the current
    folder: Ray puts both in front of all others, and a `numpy.py` beside somebody's pictures was run by every worker.
    """
    config = JobConfig()
    place = Path(orchestrator.__file__).resolve().parents[1]
    # What is installed is found without being named, and may not come before Python's own modules.
    config._py_driver_sys_path = _SetPaths([] if place.name in ("site-packages", "dist-packages") else [str(place)])
    return config


def remove_placement_groups_of_this_job() -> None:
    """Give back what this driver still reserves.

    Public Ray lists placement groups with their job only where a dashboard runs. A group's identity ends in that of the
    job that made it.
    """
    job = ray.get_runtime_context().get_job_id()
    for name, group in placement_group_table().items():
        if name.endswith(job) and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(name)))


def place_shared_actor_here() -> None:
    """Have Train's shared actor, of which a cluster has one, start on this machine.

    It stays on the machine that asks for it first, and is missed by all once that is lost: every poll of every training
    then takes 5 s. A driver's machine ends the run with it anyway.
    """
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    get_or_create_autoscaling_coordinator()


def memory_shortage(error: Exception) -> str | None:
    """What Ray says of memory where it ended a worker for it, and that in few words; else None.

    Of an actor it says so in the text of an error of another kind only.
    """
    text = str(error)
    if not isinstance(error, OutOfMemoryError) and "OUT_OF_MEMORY" not in text and "low on memory" not in text:
        return None
    machine = re.search(r"([\d.]+[GMK]B)( used)? / ([\d.]+[GMK]B)", text)
    worker = re.search(r"actual memory used=([\d.]+[GMK]B)", text)
    if machine is None:
        return "the machine was short of it"
    return f"{machine[1]} of {machine[3]} were in use" + (f", {worker[1]} of them by this worker" if worker else "")


def is_lost_worker(error: Exception) -> bool:
    """Whether a failure of one of Train's workers is that its process or machine is gone, or does not answer."""
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

    return isinstance(error, WorkerHealthCheckFailedError | WorkerHealthCheckTimeoutError)


def is_start_timeout(error: Exception) -> bool:
    """Whether the workers of a training could not be placed in time."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return isinstance(error, WorkerGroupStartupTimeoutError)


def is_lost_at_start(error: Exception) -> bool:
    """Whether a worker of a training was lost before it began."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError

    return isinstance(error, WorkerGroupStartupFailedError)


def remove_group(identity: str) -> None:
    """Give back what a worker group reserved, if it is still reserved."""
    group = PlacementGroup(ray.PlacementGroupID.from_hex(identity))
    if placement_group_table(group).get("state", "REMOVED") != "REMOVED":
        remove_placement_group(group)


class KeptWorkers:
    """The workers of the training that this process drove last, for the next one if that comes within seconds.

    A process that has loaded torch and Train is what takes longest when a training starts. The workers, with what they
    reserve, go to a training of as many workers that ask for the same in the same place, and are given back otherwise:
    at once where the next training is of another kind, and after `seconds` where there is none. They are kept of
    trainings that have ended well alone. Whoever drives the run says which placement groups may be taken over, and
    removes none of these meanwhile.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._kept: tuple[WorkerGroupState, object, float] | None = None

    def take(self, place: object, allowed: Collection[str]) -> "WorkerGroupState | None":
        """Those that are kept in this place, if there are any in one of the groups that are allowed and they answer."""
        kept = self._taken()
        if kept is None:
            return None
        state, where, since = kept
        is_allowed = state.placement_group_handle.placement_group.id.hex() in allowed
        if where == place and is_allowed and time.monotonic() - since < self._seconds and _answer(state):
            return state
        state.shutdown()
        return None

    def keep(self, state: "WorkerGroupState", place: object) -> None:
        """Keep the workers of a group that has ended."""
        with self._lock:
            self._kept = state, place, time.monotonic()
        timer = threading.Timer(self._seconds, self._give_back, (state,))
        timer.daemon = True
        timer.start()

    def _give_back(self, state: "WorkerGroupState") -> None:
        if self._kept is not None and self._kept[0] is state and (kept := self._taken()) is not None:
            kept[0].shutdown()

    def _taken(self) -> "tuple[WorkerGroupState, object, float] | None":
        with self._lock:
            kept, self._kept = self._kept, None
        return kept


class _OneOf:
    """In place of an actor's class: its actors, or one that was taken over."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self.taken_over: Any = None

    def options(self, **options: Any) -> Any:
        """What makes an actor."""
        if self.taken_over is None:
            return self._kind.options(**options)
        return SimpleNamespace(remote=lambda **settings: self.taken_over)


def _answer(state: "WorkerGroupState") -> bool:
    """Whether all workers of a group and the actor beside them are alive, and none is connected to others any more."""
    import torch.distributed

    connected: list[Any] = [one.actor.execute.remote(torch.distributed.is_initialized) for one in state.workers]
    try:
        answers: list[Any] = ray.get([*connected, state.sync_actor.get_counter.remote()], timeout=_ANSWER_SECONDS)
    except (RayError, TimeoutError):
        return False
    return not any(answers[:-1])


def lean_trainer(
    *, cleans_up: bool, tell: Callable[[dict[str, Any]], None], kept: KeptWorkers, may_take_over: Collection[str]
) -> "type[TorchTrainer]":
    """Ray's trainer without processes that nothing here needs, which says what it reserves and keeps its workers.

    Train's controller runs in the thread that calls `fit`, which waits for it anyway, instead of an actor of its own:
    one process less to start in every training, and one less to hang in Ray's clean-up at exit. Left out are the
    manager of Ray's data sets, of which there are none, and, unless it `cleans_up`, the cleaner of placement groups: it
    asks the dashboard whether the training still goes on, and where none runs it was seen to stay for ever after a run
    that was interrupted while its workers started.

    `tell` is called with the identity of every placement group as it is made or taken over: where a worker group fails
    before it has started, Train forgets its own, and the next try waits for the very GPU.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.execution.controller.controller import TrainController
    from ray.train.v2._internal.execution.worker_group import worker_group
    from ray.train.v2._internal.execution.worker_group.state import WorkerGroupState

    left_out = (DatasetsCallback,) if cleans_up else (DatasetsCallback, PlacementGroupCleanerCallback)

    class Group(worker_group.WorkerGroup):
        _taken_over: WorkerGroupState | None = None
        _place: object = None

        def _create_placement_group(self, scaling_config: Any, context: Any) -> Any:
            self._place = (
                context.num_workers,
                context.resources_per_worker,
                context.placement_strategy,
                context.label_selector,
            )
            self._taken_over = kept.take(self._place, may_take_over)
            if self._taken_over is not None:
                handle = self._taken_over.placement_group_handle
            else:
                handle = super()._create_placement_group(scaling_config, context)
            actors: Any = worker_group.SynchronizationActor
            actors.taken_over = None if self._taken_over is None else self._taken_over.sync_actor
            tell({PLACEMENT_GROUP: handle.placement_group.id.hex()})
            return handle

        def _create_workers(self, *arguments: Any, **options: Any) -> Any:
            if self._taken_over is None:
                return super()._create_workers(*arguments, **options)
            workers = [replace(one, distributed_context=None, log_file_path=None) for one in self._taken_over.workers]
            return self._assign_worker_ranks(workers)

        def shutdown(self) -> None:
            status, state = self.get_latest_poll_status(), self._worker_group_state
            if state is not None and status is not None and status.finished and not status.errors:
                self._worker_group_state = Ended(**vars(state), place=self._place)
            super().shutdown()

    @dataclass(frozen=True)
    class Ended(WorkerGroupState):
        place: object = None

        def shutdown(self) -> None:
            left: list[Any] = [one.actor.shutdown.remote() for one in self.workers]
            ray.wait(left, num_returns=len(left), timeout=_ANSWER_SECONDS)
            of_group = {name: value for name, value in vars(self).items() if name != "place"}
            kept.keep(WorkerGroupState(**of_group), self.place)

    class LeanTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
            return [each for each in callbacks if not isinstance(each, left_out)]

        def _initialize_and_run_controller(self, **settings: Any) -> Any:
            theirs: Any = worker_group
            make = theirs.SynchronizationActor
            theirs.SynchronizationActor = _OneOf(make)
            try:
                controller = TrainController(**settings)
                controller.worker_group_cls = Group
                asyncio.run(controller.run())
                return controller.get_result()
            finally:
                theirs.SynchronizationActor = make

    return LeanTrainer
