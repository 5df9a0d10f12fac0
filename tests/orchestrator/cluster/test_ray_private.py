"""What is taken from inside Ray is still there, and still does what it is taken for."""

import inspect
import logging
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement
from ray.train import RunConfig, ScalingConfig
from ray.train.v2._internal import constants, exceptions
from ray.train.v2._internal.execution.worker_group.state import WorkerGroupContext
from support.training_on_ray import wait_until

from orchestrator.cluster import ray_private, training

ROOT = Path(__file__).parents[3]
KEPT = ray_private.KeptWorkers(0.0)


def test_ray_is_bounded_for_as_long_as_private_parts_are_used() -> None:
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (ray,) = (one for one in map(Requirement, asked) if one.name == "ray")
    assert version("ray") in ray.specifier
    assert "2.61.0" not in ray.specifier


def test_no_other_module_reaches_inside_ray() -> None:
    inside = re.compile(r"\bray(\.\w+)*\.(_\w+|v2)\b|type\(\w+\)\.__name__ (==|in)")
    paths = [path for package in ("lookbeyond", "orchestrator", "workloads") for path in (ROOT / package).rglob("*.py")]
    found = {path.name for path in paths if inside.search(path.read_text())}
    assert found == {"ray_private.py"}


def test_train_reads_its_settings_where_they_are_put() -> None:
    assert ray_private.train_settings(0.5, 60.0) == {
        constants.HEALTH_CHECK_INTERVAL_S_ENV_VAR: "0.5",
        constants.WORKER_GROUP_START_TIMEOUT_S_ENV_VAR: "60.0",
        constants.ENABLE_PREEMPTION_WATCHER_ENV_VAR: "0",
    }


def test_tune_and_the_log_monitor_read_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import log_monitor, state
    from ray.tune.execution import tune_controller
    from ray.tune.experimental import output
    from ray.tune.experimental.output import get_air_verbosity
    from ray.tune.utils import callback

    for name in ray_private.FEW_LOOKS_FOR_LOGS:
        assert f'"{name}"' in inspect.getsource(log_monitor)
    for name in ray_private.NO_TASK_EVENTS:
        assert f"{name}=0" in inspect.getsource(state)
    for name, value in ray_private.SILENT_TUNE.items():
        monkeypatch.delenv(name, raising=False)
        assert get_air_verbosity(0) is not None
        monkeypatch.setenv(name, value)
    assert get_air_verbosity(0) is None
    for name in ray_private.TUNE_SETTINGS:
        sources = (tune_controller, callback, output)
        assert any(f'"{name}"' in inspect.getsource(each) for each in sources), name


def test_a_machine_is_known_by_the_label_that_ray_gives_it() -> None:
    from ray.util.placement_group import NODE_ID_LABEL_KEY

    assert ray_private.NODE_LABEL == NODE_ID_LABEL_KEY


def test_the_job_client_is_quiet_and_its_head_says_when_it_is_too_early() -> None:
    from ray.dashboard.modules import dashboard_sdk
    from ray.dashboard.modules.job import job_head, sdk

    assert f'"{ray_private.NO_AGENT_YET} ' in inspect.getsource(job_head)
    ray_private.quieten_job_client()
    for module in (dashboard_sdk, sdk):
        assert not module.logger.isEnabledFor(logging.WARNING)


def test_failures_of_a_training_are_told_apart() -> None:
    lost = [
        exceptions.WorkerHealthCheckFailedError("gone", RuntimeError("the actor died")),
        exceptions.WorkerHealthCheckTimeoutError("the machine does not answer"),
    ]
    timeout = exceptions.WorkerGroupStartupTimeoutError(2)
    failed = exceptions.WorkerGroupStartupFailedError("lost while it started")
    # Train keeps what Ray said of a worker that was ended for memory as the text of the failure below.
    short = exceptions.WorkerHealthCheckFailedError("gone", RuntimeError("it died: 9GB / 10GB used, OUT_OF_MEMORY"))
    found = training._cause({0: short})
    assert isinstance(found, training.ShortOfMemoryError)
    assert str(found) == "9GB of 10GB were in use"
    assert isinstance(training._cause({0: lost[0]}), training.LostWorkerError)
    everything = [*lost, timeout, failed, RuntimeError("in the work")]
    assert [one for one in everything if ray_private.is_lost_worker(one)] == lost
    assert [one for one in everything if ray_private.is_start_timeout(one)] == [timeout]
    assert [one for one in everything if ray_private.is_lost_at_start(one)] == [failed]


@pytest.mark.parametrize(("cleans_up", "left_out"), [(True, 1), (False, 2)])
def test_a_lean_trainer_leaves_out_what_it_names_and_nothing_else(cleans_up: bool, left_out: int) -> None:
    from ray.train.torch import TorchTrainer

    def names(kind: type[TorchTrainer]) -> list[str]:
        trainer = kind(lambda: None, scaling_config=ScalingConfig(num_workers=1), run_config=RunConfig(name="none"))
        return [type(each).__name__ for each in trainer._create_default_callbacks()]

    everything = names(TorchTrainer)
    lean = names(ray_private.lean_trainer(cleans_up=cleans_up, tell=lambda _: None, kept=KEPT, may_take_over=()))
    gone = ["DatasetsCallback", "PlacementGroupCleanerCallback"][:left_out]
    assert sorted(everything) == sorted([*lean, *gone])


def test_train_runs_its_controller_here_and_says_each_placement_group(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train.v2._internal.execution.controller import controller
    from ray.train.v2._internal.execution.worker_group import worker_group
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    def make(bundles: list[Any], **options: Any) -> Any:
        return SimpleNamespace(id=SimpleNamespace(hex=lambda: f"of {len(bundles)}"))

    class Controller:
        worker_group_cls = worker_group.WorkerGroup

        def __init__(self, **settings: Any) -> None:
            self._settings = settings

        async def run(self) -> None:
            for workers in (1, 2):
                group = object.__new__(self.worker_group_cls)
                context = WorkerGroupContext("attempt", None, workers, {"CPU": 1.0})  # type: ignore[arg-type]
                group._create_placement_group(ScalingConfig(num_workers=workers), context)
            assert worker_group.SynchronizationActor.options() == "an actor's options"

        def get_result(self) -> Any:
            return self._settings

    theirs = controller.TrainController
    actor = SimpleNamespace(options=lambda: "an actor's options")
    monkeypatch.setattr(worker_group, "placement_group", make)
    monkeypatch.setattr(worker_group, "SynchronizationActor", actor)
    monkeypatch.setattr(controller, "TrainController", Controller)
    told: list[dict[str, Any]] = []
    kind: Any = ray_private.lean_trainer(cleans_up=False, tell=told.append, kept=KEPT, may_take_over=())
    trainer = kind(lambda: None, scaling_config=ScalingConfig(num_workers=1), run_config=RunConfig(name="none"))
    assert trainer._initialize_and_run_controller(callbacks=7) == {"callbacks": 7}
    assert told == [{ray_private.PLACEMENT_GROUP: "of 1"}, {ray_private.PLACEMENT_GROUP: "of 2"}]
    assert worker_group.SynchronizationActor is actor, "the next training has its own"
    # What stands for Ray's own here is like it.
    start = inspect.getsource(worker_group.WorkerGroup._start_impl)
    assert "= self._create_placement_group(" in start
    assert "= self._create_workers(" in start
    assert "SynchronizationActor.options(" in start
    assert "self._worker_group_state.shutdown()" in inspect.getsource(worker_group.WorkerGroup.shutdown)
    assert "self.worker_group_cls.create(" in inspect.getsource(theirs)
    assert inspect.iscoroutinefunction(theirs.run) and not inspect.iscoroutinefunction(theirs.get_result)
    run = inspect.getsource(DataParallelTrainer._initialize_and_run_controller)
    assert "_cls.remote(**controller_init_kwargs)" in run and "controller.get_result.remote()" in run


def test_workers_are_kept_for_the_next_training_in_their_place_and_else_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alive = True
    monkeypatch.setattr(ray_private, "_answer", lambda state: alive)
    given_back: list[str] = []

    def group(name: str) -> Any:
        handle = SimpleNamespace(placement_group=SimpleNamespace(id=SimpleNamespace(hex=lambda: name)))
        return SimpleNamespace(placement_group_handle=handle, shutdown=lambda: given_back.append(name))

    everything = {"first", "elsewhere", "dead", "late"}

    kept = ray_private.KeptWorkers(60.0)
    assert kept.take("here", everything) is None
    first = group("first")
    kept.keep(first, "here")
    assert kept.take("here", everything) is first
    assert kept.take("here", everything) is None, "it was taken"
    kept.keep(group("elsewhere"), "there")
    assert kept.take("here", everything) is None
    kept.keep(group("not allowed"), "here")
    assert kept.take("here", everything) is None
    kept.keep(group("dead"), "here")
    alive = False
    assert kept.take("here", everything) is None
    assert given_back == ["elsewhere", "not allowed", "dead"]
    alive = True
    brief = ray_private.KeptWorkers(0.05)
    brief.keep(group("late"), "here")
    wait_until(lambda: given_back[3:] == ["late"])
    assert brief.take("here", everything) is None


@pytest.mark.slow
def test_what_this_job_reserves_is_given_back(ray_session: None) -> None:
    from ray.util.placement_group import placement_group, placement_group_table

    group = placement_group([{"CPU": 1}])
    assert group.wait(30)
    ray_private.remove_placement_groups_of_this_job()
    assert placement_group_table(group)["state"] == "REMOVED"
