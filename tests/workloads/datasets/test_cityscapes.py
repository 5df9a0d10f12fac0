from pathlib import Path

import numpy as np
import pytest

from workloads.datasets import open_dataset
from workloads.datasets.cityscapes import Cityscapes, CityscapesConfig
from workloads.errors import InputError

# Written out from cityscapesScripts' table: evaluated ids in the order of their training ids.
EVALUATED = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
FRAME = "aachen_000000_000019"


@pytest.fixture
def root(tmp_path: Path, save, photo: np.ndarray) -> Path:
    for city, frame in (("aachen", FRAME), ("bochum", "bochum_000000_000313")):
        save(tmp_path / "leftImg8bit/train" / city / f"{frame}_leftImg8bit.png", photo)
        ids = (np.arange(48, dtype=np.uint8) % 34).reshape(6, 8)
        save(tmp_path / "gtFine/train" / city / f"{frame}_gtFine_labelIds.png", ids)
        save(tmp_path / "gtFine/train" / city / f"{frame}_gtFine_color.png", photo)
    save(tmp_path / "leftImg8bit/train_extra/augsburg/augsburg_000000_000000_leftImg8bit.png", photo)
    for number in range(3):
        save(tmp_path / f"leftImg8bit_sequence/train/aachen/aachen_000000_{number:06d}_leftImg8bit.png", photo)
    return tmp_path


def test_pools_and_ids(root: Path) -> None:
    data = open_dataset(CityscapesConfig(), root)
    assert data.pools == ("train", "train_extra", "sequence")
    assert [entry.id for entry in data.entries("train")] == [f"aachen/{FRAME}", "bochum/bochum_000000_000313"]
    assert len(data.entries("sequence")) == 3
    assert data.labelled("train") and not data.labelled("sequence") and not data.labelled("train_extra")
    assert data.read_image("sequence", "aachen/aachen_000000_000002").shape == (6, 8, 3)


def test_label_ids_become_the_nineteen_training_ids(root: Path) -> None:
    labels = open_dataset(CityscapesConfig(), root).read_ground_truth("train", f"aachen/{FRAME}").ravel()
    for position, label_id in enumerate(np.arange(48) % 34):
        expected = EVALUATED.index(label_id) if label_id in EVALUATED else 255
        assert labels[position] == expected, label_id


def test_training_id_files_are_read_where_there_are_no_label_ids(root: Path, save) -> None:
    folder = root / "gtFine/train/aachen"
    train_ids = np.array([0, 18, 255] * 16, dtype=np.uint8).reshape(6, 8)
    path = save(folder / f"{FRAME}_gtFine_labelTrainIds.png", train_ids)
    data = Cityscapes(root)
    assert data.read_ground_truth("train", f"aachen/{FRAME}").max() == 255
    (folder / f"{FRAME}_gtFine_labelIds.png").unlink()
    np.testing.assert_array_equal(data.read_ground_truth("train", f"aachen/{FRAME}"), train_ids)
    save(path, np.full((6, 8), 33, dtype=np.uint8))
    with pytest.raises(InputError, match=r"labelTrainIds\.png: label value 33 not allowed; allowed: 0-18"):
        data.read_ground_truth("train", f"aachen/{FRAME}")


def test_training_ids_saved_under_the_name_of_label_ids_are_found_out_by_255(root: Path, save) -> None:
    path = root / f"gtFine/train/aachen/{FRAME}_gtFine_labelIds.png"
    save(path, np.full((6, 8), 255, dtype=np.uint8))
    with pytest.raises(InputError, match="255 not allowed; allowed: 7-8, 11-13"):
        Cityscapes(root).read_ground_truth("train", f"aachen/{FRAME}")


@pytest.mark.parametrize("end", ["_leftImg8bit.PNG", "_leftImg8bit.jpg", "_LEFTIMG8BIT.JPG"])
def test_images_under_other_suffixes(root: Path, save, photo: np.ndarray, end: str) -> None:
    folder = root / "leftImg8bit/train/aachen"
    (folder / f"{FRAME}_leftImg8bit.png").unlink()
    save(folder / f"{FRAME}{end}", photo)
    labels = root / f"gtFine/train/aachen/{FRAME}_gtFine_labelIds.png"
    labels.rename(labels.with_suffix(".PNG"))
    data = Cityscapes(root)
    assert [entry.id for entry in data.entries("train")] == [f"aachen/{FRAME}", "bochum/bochum_000000_000313"]
    assert data.read_image("train", f"aachen/{FRAME}").shape == photo.shape
    assert data.read_ground_truth("train", f"aachen/{FRAME}").shape == (6, 8)


def test_classes_palette_identity(root: Path) -> None:
    data = Cityscapes(root)
    assert len(data.classes) == 19 and data.classes[13] == "car" and data.classes[18] == "bicycle"
    assert data.palette[13].tolist() == [0, 0, 142]
    assert data.identity() == {"name": "cityscapes", "classes": 19}


def test_the_environment_is_a_hint_and_nothing_more(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYSCAPES_DATASET", str(root))
    with pytest.raises(InputError, match=r"dataset\.root: is missing.*CITYSCAPES_DATASET="):
        open_dataset(CityscapesConfig(), None)
    monkeypatch.delenv("CITYSCAPES_DATASET")
    with pytest.raises(InputError) as caught:
        open_dataset(CityscapesConfig(), None)
    assert "CITYSCAPES" not in str(caught.value)


def test_a_root_without_the_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leftImg8bit_sequence/train"):
        Cityscapes(tmp_path)
