"""Trainings on a real Ray: none waits in vain, fails with the others or leaves anything behind."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.train.backend import Backend
from ray.train.torch import TorchConfig
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from support.training_on_ray import actors, compute, run, wait_until
from support.trainings import DOCUMENT, Listener, assert_equal, make_job
from support.trainings import run as run_alone

from orchestrator.cluster import ray_private, training
from orchestrator.cluster.training import FailedInItsWorkError, LostWorkerError, NotStartedError, Scale
from orchestrator.ledger.training_states import read_outcome
from orchestrator.steps.tensors import read_tensors
from orchestrator.storage.store import Storage
from workloads.errors import InputError

pytestmark = pytest.mark.slow

# Ray's own: one for all that is trained on a cluster.
STAYS = {"_AutoscalingCoordinatorActor"}


@pytest.mark.long
def test_an_interrupted_run_leaves_nothing_on_a_cluster_that_stays_up(
    ray_session: None, lookbeyond: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {**DOCUMENT, "finetune": DOCUMENT["finetune"] | {"steps": 10_000}, "compute": {"train_cores": 1}}
    (lookbeyond.folder / "long.yaml").write_text(yaml.safe_dump(document | {"grid": {"finetune.seed": [0, 1, 2]}}))
    # The cluster of the tests asks for a token, as every one that Ray starts by itself.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    before = actors()
    process = lookbeyond.start("run", "long.yaml", "--address", ray.get_runtime_context().gcs_address)
    # Both that there is room for train; their workers are there for as long as nobody ends them.
    wait_until(lambda: process.poll() is not None or len(list(lookbeyond.folder.glob("storage/history/*.json"))) == 2)
    wait_until(lambda: process.poll() is not None or "RayTrainWorker" in actors())
    assert process.poll() is None, process.communicate()
    assert "PlacementGroupCleaner" not in actors(), "without a dashboard it could neither clean nor end"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert list(lookbeyond.folder.glob("storage/leases/*/*")) == []
    wait_until(lambda: actors() <= before | STAYS)
    assert {group["state"] for group in placement_group_table().values()} == {"REMOVED"}
    wait_until(lambda: ray.available_resources().get("CPU") == 2)


def test_what_can_never_be_placed_is_refused_at_once(ray_session: None, labelled_storage: Storage) -> None:
    with pytest.raises(InputError, match=r"1 core and 1 GPU each.* never have more than 1 machine with 2 cores"):
        run(compute(device="cuda"), labelled_storage)
    with pytest.raises(InputError, match=r"4 workers of 1 core and 0 GPUs each.* never have more than 1 machine"):
        run(compute(train_workers=4), labelled_storage, until="pretrain")


def groups() -> set[str]:
    """The states of all placement groups there are."""
    return {group["state"] for group in placement_group_table().values()} - {"REMOVED"}


@pytest.mark.long
def test_a_failed_start_leaves_no_placement_group(ray_session: None, tmp_path: Path) -> None:
    """Workers that cannot be placed, whose connection fails (there is no GPU), or that die while they start."""
    job = make_job(Storage(str(tmp_path / "storage")))
    scale = Scale(2, 1, False, start_seconds=60, checkpoint_seconds=0, dashboard=False)
    driver = _driver()
    with pytest.raises(NotStartedError, match=r"did not start within 2 s \(compute.start_seconds\).* 2 cores"):
        ray.get(driver.fit.remote(job, replace(scale, cores=2, start_seconds=2), None))
    assert groups() == set()
    with pytest.raises(FailedInItsWorkError):
        ray.get(driver.fit.remote(job, scale, TorchConfig(backend="nccl")))
    assert groups() == set()
    with pytest.raises(LostWorkerError):
        ray.get(driver.fit.remote(job, scale, _dying_at_start()()))
    assert groups() == set()
    assert len(ray.get(driver.made.remote())) == 3


@pytest.mark.long
def test_the_next_training_of_a_process_finds_the_workers_of_the_one_before(ray_session: None, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "storage"))
    first, second, third = (make_job(storage, seed=seed) for seed in range(3))
    scale = Scale(1, 1, False, start_seconds=60, checkpoint_seconds=20, dashboard=False)
    driver = _driver()
    ray.get(driver.fit.remote(first, scale, None))
    made = ray.get(driver.made.remote())
    assert len(made) == 1
    scale = replace(scale, may_take_over=frozenset(made))
    ray.get(driver.fit.remote(second, scale, None))
    assert ray.get(driver.made.remote()) == made
    # Workers that ask for something else are others, and what the former reserved is given back at once.
    ray.get(driver.fit.remote(third, replace(scale, cores=2), None))
    assert len(ray.get(driver.made.remote())) == 2
    assert sum(group["state"] != "REMOVED" for group in placement_group_table().values()) <= 1
    # A while after the last nothing is left.
    wait_until(lambda: groups() == set() and "RayTrainWorker" not in actors())
    # The second, which was not the first of its process, is what it is in a fresh one.
    found = read_outcome(storage, second.key, second.origin)
    assert found is not None
    alone = run_alone(make_job(Storage(str(tmp_path / "alone")), seed=1), Listener())
    assert_equal(read_tensors(storage, found.files["network"].path), alone)


def _driver() -> Any:
    """What drives trainings, in an actor as Tune's trials do, all in the same; it travels by value."""

    @ray.remote(num_cpus=0)
    class Driver:
        def __init__(self) -> None:
            self._made: set[str] = set()
            training._KEPT = ray_private.KeptWorkers(seconds=3.0)

        def fit(self, job: Any, scale: Scale, config: TorchConfig | None) -> None:
            if config is not None:
                training.torch_config = lambda uses_gpus: config
            training.fit(job, scale, self._tell)

        def _tell(self, report: dict[str, Any]) -> None:
            self._made |= {report[ray_private.PLACEMENT_GROUP]} if ray_private.PLACEMENT_GROUP in report else set()

        def made(self) -> set[str]:
            return self._made

    return Driver.remote()


def _dying_at_start() -> type[TorchConfig]:
    """A configuration that ends each worker while it starts; made here, so that it travels by value."""

    class Deadly(Backend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(os._exit, 1)

    class Dying(TorchConfig):
        @property
        def backend_cls(self) -> Any:
            return Deadly

    return Dying


@pytest.mark.long
def test_what_others_hold_is_waited_for_where_trainings_run_and_is_a_named_error_where_none_can(
    ray_session: None, labelled_storage: Storage
) -> None:
    """Somebody else has a core, and Ray still counts it as there."""
    held = placement_group([{"CPU": 1}])
    assert held.wait(30)
    try:
        document = {**compute(start_seconds=3), "grid": {"pretrain.seed": [0, 1]}}
        plan, report = run(document, labelled_storage, until="pretrain")
        assert report.failed == {}
        assert plan.pending == []
        assert report.retries["lost"] >= 1
        document = {**compute(train_workers=2, start_seconds=3), "grid": {"pretrain.seed": [2]}}
        _, report = run(document, labelled_storage, until="pretrain")
    finally:
        remove_placement_group(held)
    (error,) = set(report.failed.values())
    assert "2 workers of 1 core" in error
    assert "did not start within 3 s (compute.start_seconds)" in error
    assert "0 GPUs" in error
    assert report.input_errors == set()
    assert groups() == set()
