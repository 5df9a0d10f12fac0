from pathlib import Path

import numpy as np
import pytest

from workloads.datasets import open_dataset
from workloads.datasets.ade20k import Ade20kConfig
from workloads.errors import InputError


@pytest.fixture
def root(tmp_path: Path, save) -> Path:
    base = tmp_path / "ADEChallengeData2016"
    photo = np.zeros((12, 13, 3), dtype=np.uint8)
    labels = (np.arange(156) % 151).astype(np.uint8).reshape(12, 13)
    for split, stem in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        save(base / "images" / split / f"{stem}.jpg", photo)
        save(base / "annotations" / split / f"{stem}.png", labels)
    return tmp_path


@pytest.mark.parametrize("inside", [".", "ADEChallengeData2016"])
def test_zero_is_ignored_and_every_other_value_moves_down_by_one(root: Path, inside: str) -> None:
    data = open_dataset(Ade20kConfig(), root / inside)
    assert data.pools == ("train", "val")
    assert [entry.id for entry in data.entries("val")] == ["ADE_val_00000001"]
    stored = np.arange(156).reshape(12, 13) % 151
    np.testing.assert_array_equal(
        data.read_ground_truth("train", "ADE_train_00000001"), np.where(stored == 0, 255, stored - 1)
    )


def test_classes(root: Path) -> None:
    data = open_dataset(Ade20kConfig(), root)
    assert len(data.classes) == len(set(data.classes)) == 150
    assert data.classes[0] == "wall" and data.classes[12] == "person" and data.classes[149] == "flag"
    assert len({tuple(colour) for colour in data.palette.tolist()}) == 150


def test_value_151_is_refused(root: Path, save) -> None:
    path = root / "ADEChallengeData2016/annotations/training/ADE_train_00000001.png"
    save(path, np.full((12, 13), 151, dtype=np.uint8))
    with pytest.raises(InputError, match=r"151 not allowed; allowed: 1-150 \(classes\), 0 \(ignored\)"):
        open_dataset(Ade20kConfig(), root).read_ground_truth("train", "ADE_train_00000001")


def test_a_root_without_the_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither images/training nor images/validation"):
        open_dataset(Ade20kConfig(), tmp_path)
