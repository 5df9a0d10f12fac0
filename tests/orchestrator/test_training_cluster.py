"""Trainings as trials on a real Ray: the same weights whatever is killed, and no waiting in vain."""

import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
import yaml
from ray.util.placement_group import placement_group_table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from test_training_jobs import DOCUMENT, assert_equal

from orchestrator.cluster.rounds import RunReport, run_plan
from orchestrator.jobs.traces import read_history
from orchestrator.jobs.training_runs import read_tensors
from orchestrator.ledger import Ledger
from orchestrator.plan import Plan, make_plan
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from workloads.errors import InputError

EXPERIMENT: dict[str, Any] = {
    **DOCUMENT,
    "name": "grid",
    "labels": {
        "extractor": {"arch": "filters", "output_stride": 8, "batch_size": 2},
        "sampling": {"pixels_per_image": 40},
        "superpixels": {"n_segments": 40},
    },
    "pretrain": {
        "steps": 4,
        "batch_size": 4,
        # In float32 every step multiplies the rounding of the one before; float64 tells rounding from mistakes.
        "precision": "float64",
        "segmentor": DOCUMENT["finetune"]["segmentor"],
        "views": {"image_size": [64, 96], "crop_mode": "fixed", "crop": [48, 64], "cutout": [0, 8]},
        "contrast": {"anchors_per_image": 16, "embedding_dim": 16},
    },
    "compute": {"train_cores": 1, "checkpoint_seconds": 0},
}
Trained = tuple[Storage, Plan]


def run(document: dict[str, Any], storage: Storage, until: Any = "finetune") -> tuple[Plan, RunReport]:
    plan = make_plan(document, storage, write_listings=True, until=until)
    with Progress() as progress:
        report = run_plan(plan, storage, progress, address=None, dashboard=False)
    return plan, report


def compute(**changes: Any) -> dict[str, Any]:
    return {**EXPERIMENT, "compute": EXPERIMENT["compute"] | changes}


def weights(storage: Storage, kind: str) -> dict[str, dict[str, torch.Tensor]]:
    """The weights that each step of a kind ended with, by key."""
    found = [manifest for manifest in Ledger(storage).manifests() if manifest.kind == kind]
    return {manifest.key: read_tensors(storage, manifest.shards[0].path) for manifest in found}


@pytest.fixture(scope="module")
def labelled(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage that holds the labels, and no training."""
    folder = tmp_path_factory.mktemp("labelled") / "storage"
    _, report = run(EXPERIMENT, Storage(str(folder)), until="labels")
    assert report.failed == {}
    return folder


@pytest.fixture(scope="module")
def trained(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The experiment, run to its end by one worker and undisturbed."""
    folder = tmp_path_factory.mktemp("trained") / "storage"
    shutil.copytree(labelled, folder)
    plan, report = run(EXPERIMENT, Storage(str(folder)))
    assert report.failed == {}
    assert [plan.steps[key].kind.value for key in report.executed] == ["pretrain", "finetune"]
    return Storage(str(folder)), plan


@pytest.fixture
def storage(labelled: Path, tmp_path: Path) -> Storage:
    """A copy of the labels."""
    shutil.copytree(labelled, tmp_path / "storage")
    return Storage(str(tmp_path / "storage"))


def test_a_second_run_executes_nothing_and_tensorboard_has_curves(trained: Trained) -> None:
    storage, plan = trained
    _, again = run(EXPERIMENT, storage)
    assert again.executed == []
    for step in plan.steps.values():
        if step.kind.value in ("pretrain", "finetune"):
            (folder,) = Path(storage.locate("tune/grid")).glob(f"{step.kind}-{step.key[:8]}*")
            events = EventAccumulator(str(folder))
            events.Reload()
            curves = {tag.removeprefix("ray/tune/") for tag in events.Tags()["scalars"]}
            assert {"loss", "learning_rate", "images_per_second"} <= curves
            assert {"glance_miou", "miou"} <= curves or step.kind.value == "pretrain"
            content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
            values = HParamsPluginData.FromString(content).session_start_info.hparams
            assert values["config/key"].string_value == step.key
            assert values["config/steps"].number_value == step.meaning["config"]["steps"]
    (cell,) = plan.cells
    assert plan.done[cell.roles["finetune"].key].results["miou"] >= 0


def test_more_trials_than_cores_end_and_one_seed_gives_the_same_bits(trained: Trained, storage: Storage) -> None:
    _, report = run({**EXPERIMENT, "grid": {"pretrain.seed": [0, 1, 2]}}, storage, until="pretrain")
    assert report.failed == {}
    found = weights(storage, "pretrain")
    assert len(found) == 3
    for key, reference in weights(trained[0], "pretrain").items():
        assert_equal(found[key], reference)
    wait_until(lambda: "TrainController" not in actors())


def test_two_workers_give_the_losses_of_one(trained: Trained, storage: Storage) -> None:
    plan, report = run(compute(train_workers=2), storage, until="pretrain")
    assert report.failed == {}
    key = plan.cells[0].roles["pretrain"].key
    one = [row["loss"] for row in read_history(trained[0], key)]
    two = [row["loss"] for row in read_history(storage, key)]
    # Sums over a batch are taken in another order, no more.
    assert two == pytest.approx(one, rel=1e-6)


def test_a_killed_worker_changes_no_bit(trained: Trained, storage: Storage) -> None:
    killer = Killer(storage)
    killer.start()
    _, report = run(EXPERIMENT, storage, until="pretrain")
    killer.join()
    assert killer.victim, "no worker of a training was seen with a state to go on from"
    assert report.retries.get("lost", 0) >= 1, "the run did not notice that a worker was killed"
    for key, reference in weights(trained[0], "pretrain").items():
        assert_equal(weights(storage, "pretrain")[key], reference)


class Killer(threading.Thread):
    """Kills a worker of a training once there is a state to go on from."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(daemon=True)
        self._states = Path(storage.locate("checkpoints"))
        self.victim = 0

    def run(self) -> None:
        workers: list[psutil.Process] = []
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            if not workers:
                workers = [one for one in psutil.Process().children(recursive=True) if self._trains(one)]
            elif list(self._states.glob("*.pt")):
                workers[0].send_signal(signal.SIGKILL)
                self.victim = workers[0].pid
                return
            time.sleep(0.005)

    @staticmethod
    def _trains(process: psutil.Process) -> bool:
        try:
            return " ".join(process.cmdline()).startswith("ray::RayTrainWorker")
        except psutil.Error:
            return False


def test_a_killed_driver_and_the_same_command_again(trained: Trained, labelled: Path, lookbeyond: Any) -> None:
    shutil.copytree(labelled, lookbeyond.folder / "storage")
    (lookbeyond.folder / "grid.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    command = ("run", "grid.yaml", "--until", "pretrain")
    process = lookbeyond.start(*command)
    while not list(lookbeyond.folder.glob("storage/checkpoints/*.pt")) and process.poll() is None:
        time.sleep(0.005)
    assert process.poll() is None, f"the run ended before it could be killed: {process.communicate()[1]}"
    process.kill()
    process.communicate()
    again = lookbeyond(*command)
    assert again.returncode == 0, again.stderr
    found = weights(Storage(str(lookbeyond.folder / "storage")), "pretrain")
    for key, reference in weights(trained[0], "pretrain").items():
        assert_equal(found[key], reference)


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
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    wait_until(lambda: actors() <= before | STAYS)
    assert {group["state"] for group in placement_group_table().values()} == {"REMOVED"}
    wait_until(lambda: ray.available_resources().get("CPU") == 2)


# Ray's own: one for all that is trained on a cluster.
STAYS = {"_AutoscalingCoordinatorActor"}


def actors() -> set[str]:
    """The classes of the actors that run on the cluster of the tests, and Ray's own agents."""
    names = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and not title.startswith("ray::IDLE"):
                names.add(title.removeprefix("ray::").split(".")[0].strip())
    return names


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, f"still there: {actors()}"
        time.sleep(0.1)


def test_what_can_never_be_placed_is_refused_at_once(ray_session: None, storage: Storage) -> None:
    with pytest.raises(InputError, match=r"1 core and 1 GPU each.* never have more than 1 machine with 2 cores"):
        run(compute(device="cuda"), storage)
    with pytest.raises(InputError, match=r"3 workers of 1 core and 0 GPUs each.* never have more than 1 machine"):
        run(compute(train_workers=3), storage)


def test_workers_that_do_not_start_are_a_named_error(ray_session: None, storage: Storage) -> None:
    from ray.util import placement_group, remove_placement_group

    held = placement_group([{"CPU": 1}])
    assert held.wait(30)
    try:
        _, report = run(compute(train_workers=2, start_seconds=3), storage, until="pretrain")
    finally:
        remove_placement_group(held)
    (error,) = set(report.failed.values())
    assert "2 workers of 1 core" in error
    assert "did not start within 3 s (compute.start_seconds)" in error
    assert "0 GPUs" in error
    assert report.input_errors == set()


def test_a_training_that_finds_no_room_is_run_after_the_others(ray_session: None, storage: Storage) -> None:
    """Cores were lost while a wave ran: here somebody takes them, and Ray still counts them as there."""
    from ray.util import placement_group, remove_placement_group

    held = placement_group([{"CPU": 1}])
    assert held.wait(30)
    try:
        document = {**compute(start_seconds=2), "grid": {"pretrain.seed": [0, 1]}}
        plan, report = run(document, storage, until="pretrain")
    finally:
        remove_placement_group(held)
    assert report.failed == {}
    assert plan.pending == []
    assert report.retries["lost"] == 1


def test_a_failed_trial_leaves_the_others_done(ray_session: None, storage: Storage) -> None:
    document = {**EXPERIMENT, "grid": {"pretrain.optimiser.learning_rate": [0.01, 1e30]}}
    plan, report = run(document, storage, until="pretrain")
    good, bad = (cell.roles["pretrain"].key for cell in plan.cells)
    assert good in plan.done
    assert set(report.failed) == report.input_errors == {bad}
    assert "images of the batch: " in report.failed[bad]
