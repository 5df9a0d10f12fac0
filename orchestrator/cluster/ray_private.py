"""Everything that this project takes from inside Ray, as it was seen in 2.60: names that Ray may change without a word.

Each has its reason, and a test that fails when Ray changes it (`tests/orchestrator/cluster/test_ray_private.py`). For
as long as there is anything here, pyproject.toml bounds the version of Ray.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import OutOfMemoryError
from ray.job_config import JobConfig
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

import orchestrator

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

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


def lean_trainer(*, cleans_up: bool, tell: Callable[[dict[str, Any]], None]) -> "type[TorchTrainer]":
    """Ray's trainer without processes that nothing here needs, which says what it reserves.

    Train's controller runs in the thread that calls `fit`, which waits for it anyway, instead of an actor of its own:
    one process less to start in every training, and one less to hang in Ray's clean-up at exit. Left out are the
    manager of Ray's data sets, of which there are none, and, unless it `cleans_up`, the cleaner of placement groups: it
    asks the dashboard whether the training still goes on, and where none runs it was seen to stay for ever after a run
    that was interrupted while its workers started.

    `tell` is called with the identity of every placement group as it is made: where a worker group fails before it has
    started, Train forgets its own, and the next try waits for the very GPU.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.execution.controller.controller import TrainController
    from ray.train.v2._internal.execution.worker_group import worker_group

    left_out = (DatasetsCallback,) if cleans_up else (DatasetsCallback, PlacementGroupCleanerCallback)

    class LeanTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
            return [each for each in callbacks if not isinstance(each, left_out)]

        def _initialize_and_run_controller(self, **settings: Any) -> Any:
            make = worker_group.placement_group

            def make_and_tell(*arguments: Any, **options: Any) -> PlacementGroup:
                group = make(*arguments, **options)
                tell({PLACEMENT_GROUP: group.id.hex()})
                return group

            worker_group.placement_group = make_and_tell
            try:
                controller = TrainController(**settings)
                asyncio.run(controller.run())
                return controller.get_result()
            finally:
                worker_group.placement_group = make

    return LeanTrainer
