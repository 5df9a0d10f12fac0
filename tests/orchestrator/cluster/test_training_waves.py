"""Waves of trainings on a real Ray: none waits in vain, fails with the others or stays behind."""

import signal
from typing import Any

import pytest
import ray
import yaml
from ray.util.placement_group import placement_group_table
from support.training_on_ray import EXPERIMENT, actors, compute, run, wait_until
from support.trainings import DOCUMENT

from orchestrator.storage.store import Storage
from workloads.errors import InputError

pytestmark = pytest.mark.slow

# Ray's own: one for all that is trained on a cluster.
STAYS = {"_AutoscalingCoordinatorActor"}


def test_an_interrupted_wave_leaves_nothing_on_a_cluster_that_stays_up(
    ray_session: None, lookbeyond: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {**DOCUMENT, "finetune": DOCUMENT["finetune"] | {"steps": 10_000}, "compute": {"train_cores": 1}}
    (lookbeyond.folder / "long.yaml").write_text(yaml.safe_dump(document | {"grid": {"finetune.seed": [0, 1, 2]}}))
    # The cluster of the tests asks for a token, as every one that Ray starts by itself.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    before = actors()
    process = lookbeyond.start("run", "long.yaml", "--address", ray.get_runtime_context().gcs_address)
    wait_until(lambda: process.poll() is not None or len(list(lookbeyond.folder.glob("storage/history/*.json"))) == 2)
    under_way = actors()
    assert {"RayTrainWorker", "TrainController"} <= under_way
    assert "PlacementGroupCleaner" not in under_way, "without a dashboard it could neither clean nor end"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    wait_until(lambda: actors() <= before | STAYS)
    assert {group["state"] for group in placement_group_table().values()} == {"REMOVED"}
    wait_until(lambda: ray.available_resources().get("CPU") == 2)


def test_what_can_never_be_placed_is_refused_at_once(ray_session: None, labelled_storage: Storage) -> None:
    with pytest.raises(InputError, match=r"1 core and 1 GPU each.* never have more than 1 machine with 2 cores"):
        run(compute(device="cuda"), labelled_storage)
    with pytest.raises(InputError, match=r"3 workers of 1 core and 0 GPUs each.* never have more than 1 machine"):
        run(compute(train_workers=3), labelled_storage)


def test_workers_that_do_not_start_are_a_named_error(ray_session: None, labelled_storage: Storage) -> None:
    from ray.util import placement_group, remove_placement_group

    held = placement_group([{"CPU": 1}])
    assert held.wait(30)
    try:
        _, report = run(compute(train_workers=2, start_seconds=3), labelled_storage, until="pretrain")
    finally:
        remove_placement_group(held)
    (error,) = set(report.failed.values())
    assert "2 workers of 1 core" in error
    assert "did not start within 3 s (compute.start_seconds)" in error
    assert "0 GPUs" in error
    assert report.input_errors == set()


def test_a_training_that_finds_no_room_is_run_after_the_others(ray_session: None, labelled_storage: Storage) -> None:
    """Cores were lost while a wave ran: here somebody takes them, and Ray still counts them as there."""
    from ray.util import placement_group, remove_placement_group

    held = placement_group([{"CPU": 1}])
    assert held.wait(30)
    try:
        document = {**compute(start_seconds=2), "grid": {"pretrain.seed": [0, 1]}}
        plan, report = run(document, labelled_storage, until="pretrain")
    finally:
        remove_placement_group(held)
    assert report.failed == {}
    assert plan.pending == []
    assert report.retries["lost"] == 1


def test_a_failed_trial_leaves_the_others_done(ray_session: None, labelled_storage: Storage) -> None:
    document = {**EXPERIMENT, "grid": {"pretrain.optimiser.learning_rate": [0.01, 1e30]}}
    plan, report = run(document, labelled_storage, until="pretrain")
    good, bad = (cell.roles["pretrain"].key for cell in plan.cells)
    assert good in plan.done
    assert set(report.failed) == report.input_errors == {bad}
    assert "images of the batch: " in report.failed[bad]
