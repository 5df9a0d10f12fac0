"""A whole run on s3://: the bytes of a run on a path, though requests fail, and nothing torn is left."""

import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from s3_server import KINDS, S3Server
from without_ray import run

from orchestrator import retrying
from orchestrator.ledger import Ledger
from orchestrator.retrying import Patience
from orchestrator.storage import Storage
from orchestrator.verifying import verify


@pytest.fixture
def labels() -> dict[str, Any]:
    return {
        "name": "small",
        "dataset": {"name": "scenes", "image_size": [64, 96], "num_train": 8, "num_val": 4},
        "labels": {
            "extractor": {"arch": "filters", "output_stride": 8, "batch_size": 2},
            "sampling": {"pixels_per_image": 20},
            "clustering": {"k": 4},
            "superpixels": {"n_segments": 30},
        },
        "compute": {"shard_images": 2},
    }


SIZE, CROP = [64, 96], [49, 65]
TRAININGS = {
    "pretrain": {"recipe": "small", "steps": 6, "batch_size": 2, "views": {"image_size": SIZE, "crop": CROP}},
    "finetune": {"recipe": "small", "steps": 3, "batch_size": 2, "augmentation": {"image_size": SIZE, "crop": CROP}},
}


class Bystander(threading.Thread):
    """Verifies the storage over and over while a run writes to it, and kills a worker that trains and has a state."""

    def __init__(self, storage: Storage, run: "subprocess.Popen[str]") -> None:
        super().__init__(daemon=True)
        self.storage = storage
        self.run_process = run
        self.seen_steps: list[int] = []
        self.damaged: dict[str, str] = {}
        self.killed = 0

    def run(self) -> None:
        while self.run_process.poll() is None:
            found = verify(self.storage, repair=False)
            self.seen_steps.append(found.steps)
            self.damaged |= found.damaged
            if not self.killed and any(file.path.endswith(".pt") for file in self.storage.files("checkpoints")):
                self._kill()

    def _kill(self) -> None:
        for process in psutil.Process(self.run_process.pid).children(recursive=True):
            try:
                if " ".join(process.cmdline()).startswith("ray::RayTrainWorker"):
                    process.send_signal(signal.SIGKILL)
                    self.killed = process.pid
                    return
            except psutil.Error:
                continue


def outcomes(storage: Storage) -> dict[str, Any]:
    """What every step made: the SHA-256 of its shards and its results."""
    return {
        f"{manifest.kind}/{manifest.key}": ([record.sha256 for record in manifest.shards], manifest.results)
        for manifest in Ledger(storage).manifests()
    }


def test_the_same_bytes_on_s3_though_requests_fail(
    labels: dict[str, Any], bucket: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "PATIENCE", Patience(seconds=60, first_pause=0.01, longest_pause=0.1))
    on_a_path, on_s3 = Storage(str(tmp_path)), Storage(f"s3://{bucket}/some/folder")
    assert not run(labels, on_a_path).failed
    s3.trouble.begin(0.15, seed=3)
    try:
        assert not run(labels, on_s3).failed
        assert set(s3.trouble.made) == set(KINDS)
    finally:
        s3.trouble.end()
    assert len(outcomes(on_a_path)) == 7
    assert outcomes(on_s3) == outcomes(on_a_path)
    found = verify(on_s3, repair=False)
    assert (found.damaged, found.steps) == ({}, 7)


def test_trainings_on_ray_keep_their_states_on_s3_though_requests_fail(
    labels: dict[str, Any], bucket: str, s3: S3Server, tmp_path: Path, lookbeyond: Any
) -> None:
    """A worker is killed in the middle: what it goes on from lies in the bucket alone."""
    document = labels | TRAININGS | {"compute": {"shard_images": 2, "train_cores": 1, "checkpoint_seconds": 0}}
    on_a_path, on_s3 = Storage(str(tmp_path / "path")), Storage(f"s3://{bucket}/some/folder")
    assert not run(document, on_a_path).failed
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(document))
    s3.trouble.begin(0.03, seed=5)
    try:
        process = lookbeyond.start("run", "small.yaml", "--storage", on_s3.uri)
        bystander = Bystander(on_s3, process)
        bystander.start()
        _, err = process.communicate(timeout=240)
        bystander.join()
        assert set(s3.trouble.made) == set(KINDS)
    finally:
        s3.trouble.end()
    assert process.returncode == 0, err
    assert bystander.killed
    assert "continues from its last state" in err
    assert bystander.damaged == {}
    assert max(bystander.seen_steps) > 0
    assert len(outcomes(on_a_path)) == 9
    assert outcomes(on_s3) == outcomes(on_a_path)
    found = verify(on_s3, repair=False)
    assert (found.damaged, found.steps) == ({}, 9)
