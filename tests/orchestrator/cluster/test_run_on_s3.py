"""A whole run on s3://: the bytes of a run on a path, though requests fail, and nothing torn is left."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.bystander import Bystander, outcomes
from support.s3_server import KINDS, S3Server
from support.without_ray import run

from orchestrator.ledger.verification import verify
from orchestrator.storage.store import Storage
from workloads import storage_retries as retrying
from workloads.storage_retries import RetryPolicy

pytestmark = pytest.mark.slow


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
TRAINING = {"recipe": "small", "steps": 6, "batch_size": 2, "views": {"image_size": SIZE, "crop": CROP}}


def test_the_same_bytes_on_s3_though_requests_fail(
    labels: dict[str, Any], bucket: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "POLICY", RetryPolicy(seconds=60, first_pause=0.01, longest_pause=0.1))
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


@pytest.mark.long
def test_a_training_on_ray_keeps_its_states_on_s3_though_requests_fail(
    labels: dict[str, Any], bucket: str, s3: S3Server, tmp_path: Path, lookbeyond: Any
) -> None:
    """A worker is killed in the middle: what it goes on from lies in the bucket alone."""
    document = labels | {
        "pretrain": TRAINING,
        "compute": {"shard_images": 2, "train_cores": 1, "checkpoint_seconds": 0},
    }
    on_a_path, on_s3 = Storage(str(tmp_path / "path")), Storage(f"s3://{bucket}/some/folder")
    assert not run(document, on_a_path, until="pretrain").failed
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(document))
    s3.trouble.begin(0.03, seed=5)
    try:
        process = lookbeyond.start("run", "small.yaml", "--storage", on_s3.uri, "--until", "pretrain")
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
    assert len(outcomes(on_a_path)) == 8
    assert outcomes(on_s3) == outcomes(on_a_path)
    found = verify(on_s3, repair=False)
    assert (found.damaged, found.steps) == ({}, 8)
