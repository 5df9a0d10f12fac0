"""Threads that decode and vote beside a device: they change when things are made, and nothing of what."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.without_ray import run

from orchestrator.ledger.manifests import Ledger
from orchestrator.planning.plan import Plan
from orchestrator.storage.store import Storage

EXPERIMENT: dict[str, Any] = {
    "name": "helped",
    "dataset": {"name": "folder"},
    "labels": {
        "extractor": {"arch": "filters", "output_stride": 8, "batch_size": 2},
        "clustering": {"k": 3},
        "superpixels": {"n_segments": 20},
        "outliers": 0.1,
    },
    "grid": {"labels.outliers": [0.0, 0.1]},
    "compute": {"quarantine_limit": 0.5},
}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eleven pictures of three sizes, two of them cut off."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(11):
        height = 40 + 8 * (number % 3)
        pixels = np.random.default_rng(number).integers(0, 256, (height, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    for number in (3, 8):
        path = folder / f"{number:02d}.png"
        path.write_bytes(path.read_bytes()[:200])
    return folder


def files(storage: Storage, plan: Plan) -> dict[str, tuple[str, list[str]]]:
    """Hash and quarantined images of every shard, by its step and images."""
    found = {}
    for step in plan.steps.values():
        for record in Ledger(storage).finished(step.kind, step.key).shards:
            # What follows the dash tells one try from another.
            found[record.path.rpartition("-")[0]] = (record.sha256, [one.image for one in record.quarantined])
    return found


def test_helpers_change_no_byte(pictures: Path, tmp_path: Path) -> None:
    made = []
    for helpers in (1, 4):
        storage = Storage(str(tmp_path / f"storage-{helpers}"))
        document = EXPERIMENT | {"dataset": {"name": "folder", "root": str(pictures)}}
        ended = run(document, storage, helpers=helpers)
        assert not ended.failed
        made.append(files(storage, ended.plan))
    assert made[0] == made[1]
    assert ["03.png", "08.png"] in [quarantined for _, quarantined in made[0].values()]


def test_an_error_in_a_helper_is_the_jobs_own(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> np.ndarray:
        raise RuntimeError("the vote failed")

    monkeypatch.setattr("orchestrator.steps.feature_shards.vote", fails)
    document = EXPERIMENT | {"dataset": {"name": "folder", "root": str(pictures)}}
    ended = run(document, Storage(str(tmp_path / "storage")), helpers=3)
    assert {step.kind for step in ended.failed} == {"label"}
    assert "the vote failed" in str(next(iter(ended.execution.failed.values())))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("helper")]
