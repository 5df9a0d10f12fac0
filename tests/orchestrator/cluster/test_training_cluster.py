"""Trainings on a real Ray: the same weights whatever is killed and however many work."""

import os
import pickle
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray.util.placement_group import placement_group_table
from support.training_on_ray import EXPERIMENT, actors, compute, run, wait_until, weights
from support.trainings import assert_equal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from orchestrator.ledger.training_states import read_history
from orchestrator.planning.plan import Plan
from orchestrator.storage.store import Storage

pytestmark = pytest.mark.slow

Trained = tuple[Storage, Plan]


@pytest.fixture(scope="module")
def trained(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The experiment, run to its end by one worker and undisturbed."""
    folder = tmp_path_factory.mktemp("trained") / "storage"
    shutil.copytree(labelled, folder)
    plan, report = run(EXPERIMENT, Storage(str(folder)))
    assert report.failed == {}
    assert [plan.steps[key].kind for key in report.executed] == ["pretrain", "finetune"]
    return Storage(str(folder)), plan


def test_a_second_run_executes_nothing_and_tensorboard_has_curves(trained: Trained) -> None:
    storage, plan = trained
    _, again = run(EXPERIMENT, storage)
    assert again.executed == []
    for step in plan.steps.values():
        if step.kind in ("pretrain", "finetune"):
            (folder,) = Path(storage.locate("tune/grid")).glob(f"{step.kind}-*-{step.key[:8]}")
            events = EventAccumulator(str(folder))
            events.Reload()
            curves = {tag for tag in events.Tags()["scalars"] if not tag.startswith("objective/")}
            mious = {"mIoU/val_subset", "mIoU/val"} if step.kind == "finetune" else set()
            assert curves == {"loss", "learning_rate", "images_per_second"} | mious
            content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
            values = HParamsPluginData.FromString(content).session_start_info.hparams
            assert values["kind"].string_value == step.kind
            assert "pmiou" in values or step.kind != "pretrain"
    (cell,) = plan.cells
    assert plan.done[cell.roles["finetune"].key].results["miou"] >= 0


def test_trainings_of_one_run_are_the_same_bits_and_one_that_fails_fails_alone(
    trained: Trained, labelled_storage: Storage, tmp_path: Path
) -> None:
    """More of them than cores, with decoded images kept; what lies where Tune once kept its own is not read, let alone
    executed.
    """
    executed = tmp_path / "executed"
    for folder in ("grid", "grid/trial"):
        place = Path(labelled_storage.locate(f"tune/{folder}"))
        place.mkdir(parents=True, exist_ok=True)
        for name in ("error.pkl", "tuner.pkl", "trainable.pkl", "experiment_state-2026-01-01_00-00-00.json"):
            (place / name).write_bytes(pickle.dumps(Malicious(executed)))
    rows = [
        {"row": "diverges", "set": {"pretrain.optimiser.learning_rate": 1e30}},
        {"row": "as alone", "set": {"pretrain.optimiser.learning_rate": 0.01}},
        {"row": "another seed", "set": {"pretrain.optimiser.learning_rate": 0.01, "pretrain.seed": 1}},
    ]
    plan, report = run({**compute(decoded_cache_gb=0.01), "rows": rows}, labelled_storage, until="pretrain")
    diverges, as_alone, another = [cell.roles["pretrain"].key for cell in plan.cells]
    assert set(report.failed) == report.input_errors == {diverges}
    assert "images of the batch: " in report.failed[diverges]
    found = weights(labelled_storage, "pretrain")
    assert found.keys() == {as_alone, another}
    ((key, reference),) = weights(trained[0], "pretrain").items()
    assert key == as_alone
    assert_equal(found[key], reference)
    wait_until(lambda: "RayTrainWorker" not in actors())
    assert {group["state"] for group in placement_group_table().values()} <= {"REMOVED"}
    assert not executed.exists()
    shown = {path.name for path in Path(labelled_storage.locate("tune")).rglob("*") if path.is_file()}
    assert not {name for name in shown if name.endswith(".pkl")} - {"error.pkl", "tuner.pkl", "trainable.pkl"}
    assert {"params.json", "result.json", "progress.csv"} <= shown


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._path),)


@pytest.mark.long
def test_two_workers_give_the_losses_of_one(trained: Trained, labelled_storage: Storage) -> None:
    plan, report = run(compute(train_workers=2), labelled_storage, until="pretrain")
    assert report.failed == {}
    key = plan.cells[0].roles["pretrain"].key
    one = [row["loss"] for row in read_history(trained[0], key)]
    two = [row["loss"] for row in read_history(labelled_storage, key)]
    # Sums over a batch are taken in another order, no more.
    assert two == pytest.approx(one, rel=1e-6)


def test_a_killed_worker_changes_no_bit(trained: Trained, labelled_storage: Storage) -> None:
    killer = Killer(labelled_storage)
    killer.start()
    _, report = run(EXPERIMENT, labelled_storage, until="pretrain")
    killer.join()
    assert killer.victim, "no worker of a training was seen with a state to go on from"
    assert report.retries.get("lost", 0) >= 1, "the run did not notice that a worker was killed"
    for key, reference in weights(trained[0], "pretrain").items():
        assert_equal(weights(labelled_storage, "pretrain")[key], reference)


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


@pytest.mark.long
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
