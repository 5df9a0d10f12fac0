"""What the user mends is seen: corrected labels are judged again, and a mended image comes out of quarantine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.without_ray import run

from orchestrator.planning.plan import make_plan
from orchestrator.spec.loading import load_experiment
from orchestrator.storage.store import Storage
from workloads.errors import InputError

SIZE = (40, 48)


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """Four train and two val images in CamVid's layout."""
    root = tmp_path / "camvid"
    random = np.random.default_rng(0)
    for pool, count in (("train", 4), ("val", 2)):
        for folder in (pool, f"{pool}annot"):
            (root / folder).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / pool / f"{pool}{index}.png")
            labels = random.integers(0, 11, SIZE, dtype=np.uint8)
            Image.fromarray(labels).save(root / f"{pool}annot" / f"{pool}{index}.png")
    return root


def document(root: Path) -> dict[str, Any]:
    return {
        "name": "mended",
        "dataset": {"name": "camvid", "root": str(root)},
        "labels": {
            "extractor": {"arch": "filters", "output_stride": 8, "batch_size": 2},
            "sampling": {"pixels_per_image": 12},
            "clustering": {"k": 4},
            "superpixels": None,
        },
        "compute": {"shard_images": 2},
    }


def test_a_corrected_label_file_is_judged_again(camvid: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "storage"))
    before = run(document(camvid), storage)
    assert not before.failed
    Image.fromarray(np.zeros(SIZE, dtype=np.uint8)).save(camvid / "valannot" / "val0.png")
    plan = make_plan(document(camvid), storage, write_listings=True)
    assert [step.kind for step in plan.pending] == ["score"]


def test_a_mended_image_of_the_same_size_comes_out_of_quarantine(camvid: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "storage"))
    names = [camvid / "train" / f"train{index}.png" for index in range(3)]
    whole = [name.read_bytes() for name in names]
    for name, data in zip(names, whole, strict=True):
        name.write_bytes(b"x" * len(data))
    broken = run(document(camvid), storage)
    assert {step.kind for step in broken.failed} >= {"sample", "cluster"}
    for name, data in zip(names, whole, strict=True):
        name.write_bytes(data)
    mended = run(document(camvid), storage)
    assert not mended.failed
    assert not [item for manifest in mended.plan.done.values() for item in manifest.quarantined]


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("name: twice\nlabels: {images: 3}\nlabels: {images: 4}\n")
    with pytest.raises(InputError, match="'labels' is given twice"):
        load_experiment(path, [])
