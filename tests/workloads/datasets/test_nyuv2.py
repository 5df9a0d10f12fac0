import pickle
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from workloads.datasets import open_dataset
from workloads.datasets.nyuv2 import Nyuv2Config
from workloads.errors import InputError


@pytest.fixture
def labels() -> np.ndarray:
    return (np.arange(48, dtype=np.uint8) % 41).reshape(6, 8)


@pytest.fixture(params=["NYUD_MT", "RGB and Label"])
def folders(request: pytest.FixtureRequest, tmp_path: Path, save, photo: np.ndarray, labels: np.ndarray) -> Path:
    images, segmentation = ("images", "segmentation") if request.param == "NYUD_MT" else ("RGB", "Label")
    for number in range(4):
        save(tmp_path / images / f"{number:04d}.jpg", photo)
        save(tmp_path / segmentation / f"{number:04d}.png", labels)
    if request.param == "NYUD_MT":
        (tmp_path / "gt_sets").mkdir()
        (tmp_path / "gt_sets/train.txt").write_text("0002\n0000\n")
        (tmp_path / "gt_sets/val.txt").write_text("0001\n")
    else:
        (tmp_path / "train.txt").write_text("RGB/0002.jpg Label/0002.png\nRGB/0000.jpg Label/0000.png\n\n")
        (tmp_path / "test.txt").write_text("0001")
    save(tmp_path / "raw/kitchen_0001/r-1.ppm", photo)
    save(tmp_path / "raw/kitchen_0002/r-1.png", photo)
    return tmp_path


def test_folder_layouts(folders: Path, photo: np.ndarray, labels: np.ndarray) -> None:
    data = open_dataset(Nyuv2Config(), folders)
    assert data.pools == ("train", "val", "raw")
    assert [entry.id for entry in data.entries("train")] == ["0000", "0002"]
    assert [entry.id for entry in data.entries("val")] == ["0001"]
    assert [entry.id for entry in data.entries("raw")] == ["kitchen_0001/r-1.ppm", "kitchen_0002/r-1.png"]
    np.testing.assert_array_equal(data.read_image("raw", "kitchen_0001/r-1.ppm"), photo)
    assert data.read_image("train", "0000").shape == photo.shape
    assert data.labelled("val") and not data.labelled("raw")
    expected = np.where(labels == 0, 255, labels.astype(int) - 1)
    np.testing.assert_array_equal(data.read_ground_truth("val", "0001"), expected)


def test_labels_converted_beforehand_are_found_out_by_255(folders: Path, save) -> None:
    for folder in ("segmentation", "Label"):
        save(folders / folder / "0001.png", np.full((6, 8), 255, dtype=np.uint8))
    with pytest.raises(InputError, match=r"255 not allowed; allowed: 1-40 \(classes\), 0 \(ignored\)"):
        open_dataset(Nyuv2Config(), folders).read_ground_truth("val", "0001")


def test_a_listed_image_that_is_not_there(folders: Path) -> None:
    for folder in ("images", "RGB"):
        (folders / folder / "0002.jpg").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"train\.txt: 1 of 2 listed images are not in .*'0002'"):
        open_dataset(Nyuv2Config(), folders).entries("train")


@pytest.fixture
def official(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)
    labels = random.integers(0, 895, (5, 6, 8)).astype(np.uint16)
    labels[:, 0, 0] = 0
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        # MATLAB's column order: every axis reversed.
        file["images"] = images.transpose(0, 3, 2, 1)
        file["labels"] = labels.transpose(0, 2, 1)
    mapping = random.integers(1, 41, (1, 894)).astype(np.uint8)
    savemat(tmp_path / "classMapping40.mat", {"mapClass": mapping})
    splits = {
        "trainNdxs": np.array([[3], [4], [5]], dtype=np.uint16),
        "testNdxs": np.array([[1], [2]], dtype=np.uint16),
    }
    savemat(tmp_path / "splits.mat", splits)
    np.savez(tmp_path / "truth.npz", images=images, labels=labels, mapping=mapping[0])
    return tmp_path


def test_the_official_file_one_based_transposed_and_mapped(official: Path) -> None:
    truth = np.load(official / "truth.npz")
    data = open_dataset(Nyuv2Config(), official)
    assert data.pools == ("train", "val")
    assert [entry.id for entry in data.entries("train")] == ["0003", "0004", "0005"]
    assert [entry.id for entry in data.entries("val")] == ["0001", "0002"]
    for pool, image_id, index in (("train", "0003", 2), ("val", "0001", 0)):
        np.testing.assert_array_equal(data.read_image(pool, image_id), truth["images"][index])
        found = data.read_ground_truth(pool, image_id)
        for row in range(6):
            for column in range(8):
                raw = int(truth["labels"][index, row, column])
                assert found[row, column] == (255 if raw == 0 else truth["mapping"][raw - 1] - 1)


def test_the_official_file_survives_being_sent_to_a_worker(official: Path) -> None:
    data = open_dataset(Nyuv2Config(), official)
    before = data.read_image("val", "0002")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data)).read_image("val", "0002"), before)


def test_the_official_file_without_its_companions_or_without_h5py(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "h5py", None)
        with pytest.raises(InputError, match=r"install lookbeyond\[nyuv2\]"):
            open_dataset(Nyuv2Config(), official)
    (official / "splits.mat").write_text("no MATLAB file")
    with pytest.raises(InputError, match=r"splits\.mat: not a readable MATLAB file"):
        open_dataset(Nyuv2Config(), official)
    (official / "classMapping40.mat").unlink()
    with pytest.raises(InputError, match=r"classMapping40\.mat: missing"):
        open_dataset(Nyuv2Config(), official)


def test_a_split_beyond_the_file(official: Path) -> None:
    splits = {"trainNdxs": np.array([[6]]), "testNdxs": np.array([[0]])}
    savemat(official / "splits.mat", splits)
    data = open_dataset(Nyuv2Config(), official)
    with pytest.raises(InputError, match="image number 6; allowed: 1-5"):
        data.entries("train")
    with pytest.raises(InputError, match="image number 0; allowed: 1-5"):
        data.entries("val")


def test_a_file_that_is_not_hdf5(official: Path) -> None:
    (official / "nyu_depth_v2_labeled.mat").write_bytes(b"half a download")
    with pytest.raises(InputError, match=r"not a readable MATLAB v7\.3"):
        open_dataset(Nyuv2Config(), official).entries("train")


def test_forty_classes_raw_only_and_no_layout(tmp_path: Path, save, photo: np.ndarray) -> None:
    with pytest.raises(InputError, match="holds no NYUv2 layout"):
        open_dataset(Nyuv2Config(), tmp_path)
    save(tmp_path / "raw/a/b.jpg", photo)
    data = open_dataset(Nyuv2Config(pool="raw"), tmp_path)
    assert data.pools == ("raw",)
    assert len(data.classes) == 40 and data.classes[0] == "wall" and data.classes[39] == "otherprop"
    assert len({tuple(colour) for colour in data.palette.tolist()}) == 40
