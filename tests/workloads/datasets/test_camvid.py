import os
from pathlib import Path

import numpy as np
import pytest

from workloads.datasets import open_dataset
from workloads.datasets.camvid import Camvid, CamvidConfig
from workloads.errors import BrokenImageError, InputError


@pytest.fixture
def root(tmp_path: Path, save, photo) -> Path:
    save(tmp_path / "train" / "0001TP_006720.jpg", photo)
    save(tmp_path / "train" / "0001TP_006690.png", photo)
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8) % 12
    for stem in ("0001TP_006690", "0001TP_006720"):
        save(tmp_path / "trainannot" / f"{stem}.png", labels)
    save(tmp_path / "test" / "Seq05VD_f00000.png", photo)
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/0001TP_006690.png /SegNet/CamVid/trainannot/x.png\n")
    return tmp_path


def test_pools_entries_and_pixels(root: Path, photo: np.ndarray) -> None:
    data = open_dataset(CamvidConfig(), root)
    assert data.pools == ("train", "test", "fit", "held_out")
    entries = data.entries("train")
    assert [entry.id for entry in entries] == ["0001TP_006690", "0001TP_006720"]
    assert entries[0].size == (root / "train" / "0001TP_006690.png").stat().st_size
    np.testing.assert_array_equal(data.read_image("train", "0001TP_006690"), photo)
    assert data.read_image("train", "0001TP_006720").shape == photo.shape
    assert data.labelled("train") and not data.labelled("test")


def test_the_last_quarter_of_each_drive_of_train_can_be_held_out(root: Path, save, photo: np.ndarray) -> None:
    for number in (30, 60, 90, 120, 150, 180):
        save(root / "train" / f"0016E5_{number:05d}.png", photo)
    save(root / "train" / "0001TP_006750.png", photo)
    save(root / "train" / "0001TP_006780.png", photo)
    data = Camvid(root)
    parts = {pool: [entry.id for entry in data.entries(pool)] for pool in ("train", "fit", "held_out")}
    assert parts["held_out"] == ["0001TP_006780", "0016E5_00180"]
    assert sorted(parts["fit"] + parts["held_out"]) == parts["train"] and len(parts["fit"]) == 8
    assert data.labelled("fit")
    np.testing.assert_array_equal(
        data.read_ground_truth("fit", "0001TP_006690"), data.read_ground_truth("train", "0001TP_006690")
    )
    np.testing.assert_array_equal(data.read_image("held_out", "0016E5_00180"), photo)


def test_nothing_is_scored_on_images_that_it_was_trained_on() -> None:
    with pytest.raises(ValueError, match="val is 'held_out' with pool 'train'; allowed: 'fit'"):
        CamvidConfig(val="held_out")
    assert CamvidConfig(pool="fit", val="held_out").pool == "fit"


def test_suffixes_in_capitals_are_found_where_they_are_listed(root: Path, photo: np.ndarray) -> None:
    for file in [*(root / "train").iterdir(), *(root / "trainannot").iterdir()]:
        file.rename(file.with_suffix(file.suffix.title() if file.suffix == ".jpg" else file.suffix.upper()))
    data = Camvid(root)
    assert [entry.id for entry in data.entries("train")] == ["0001TP_006690", "0001TP_006720"]
    np.testing.assert_array_equal(data.read_image("train", "0001TP_006690"), photo)
    assert data.read_image("train", "0001TP_006720").shape == photo.shape
    for stem in ("0001TP_006690", "0001TP_006720"):
        assert data.read_ground_truth("train", stem).shape == (6, 8)
        assert data.label_entry("train", stem).size > 0


def test_a_label_file_that_is_a_folder_is_named(root: Path) -> None:
    (root / "trainannot/0001TP_006690.png").unlink()
    (root / "trainannot/0001TP_006690.png").mkdir()
    with pytest.raises(InputError, match=r"0001TP_006690: label file .* cannot be read: Is a directory"):
        Camvid(root).read_ground_truth("train", "0001TP_006690")


def test_eleven_is_ignored_and_the_rest_stays(root: Path) -> None:
    labels = open_dataset(CamvidConfig(), root).read_ground_truth("train", "0001TP_006690")
    expected = np.arange(48).reshape(6, 8) % 12
    expected[expected == 11] = 255
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected)


def test_classes_and_palette_are_segnets(root: Path) -> None:
    data = Camvid(root)
    assert data.classes[0] == "sky" and data.classes[3:6] == ("road", "pavement", "tree")
    assert data.num_classes == 11 and data.palette.shape == (11, 3)
    assert data.palette[10].tolist() == [0, 128, 192]
    assert data.identity() == {"name": "camvid"}


def test_a_value_out_of_range_names_file_value_and_range(root: Path, save) -> None:
    path = save(root / "trainannot" / "0001TP_006690.png", np.full((6, 8), 12, dtype=np.uint8))
    with pytest.raises(InputError) as caught:
        Camvid(root).read_ground_truth("train", "0001TP_006690")
    message = str(caught.value)
    assert str(path) in message and "12 not allowed" in message
    assert "0-10 (classes), 11 (ignored)" in message


def test_missing_label_other_size_and_unlabelled_pool(root: Path, save) -> None:
    data = Camvid(root)
    (root / "trainannot" / "0001TP_006690.png").unlink()
    with pytest.raises(InputError, match=r"0001TP_006690: label file .* is missing"):
        data.read_ground_truth("train", "0001TP_006690")
    save(root / "trainannot" / "0001TP_006720.png", np.zeros((3, 4), dtype=np.uint8))
    with pytest.raises(InputError, match="labels are 3 x 4, the image is 6 x 8"):
        data.read_ground_truth("train", "0001TP_006720")
    with pytest.raises(InputError, match="'test' has no ground truth"):
        data.read_ground_truth("test", "Seq05VD_f00000")


def test_a_broken_label_file_is_named(root: Path) -> None:
    path = root / "trainannot" / "0001TP_006690.png"
    path.write_text("not a picture")
    with pytest.raises(InputError, match="is not an image") as caught:
        Camvid(root).read_ground_truth("train", "0001TP_006690")
    assert str(path) in str(caught.value) and not isinstance(caught.value, BrokenImageError)


def test_missing_root_unknown_pool_empty_pool_no_layout(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):
        open_dataset(CamvidConfig(), tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"dataset\.root: is missing"):
        open_dataset(CamvidConfig(), None)
    with pytest.raises(InputError, match="no pool 'val' here; pools: train, test, fit, held_out"):
        Camvid(root).entries("val")
    (root / "val").mkdir()
    with pytest.raises(InputError, match="'val' is empty"):
        Camvid(root).entries("val")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="none of the folders train, val, test"):
        Camvid(tmp_path / "other")


def test_a_lost_image_is_broken_but_a_lost_root_is_not_blamed_on_images(root: Path) -> None:
    data = Camvid(root)
    with pytest.raises(BrokenImageError, match="the file is missing"):
        data.read_image("train", "no_such")
    root.rename(root.with_name("moved"))
    with pytest.raises(InputError, match="does not exist") as caught:
        data.read_image("train", "0001TP_006690")
    assert not isinstance(caught.value, BrokenImageError)


def test_two_files_of_one_id_are_refused(root: Path, save, photo: np.ndarray) -> None:
    save(root / "train" / "0001TP_006690.jpg", photo)
    with pytest.raises(InputError, match="two files give the same image id '0001TP_006690'"):
        Camvid(root).entries("train")


@pytest.mark.skipif(not os.environ.get("LOOKBEYOND_DATA"), reason="LOOKBEYOND_DATA is not set")
def test_the_real_camvid() -> None:
    data = Camvid(Path(os.environ["LOOKBEYOND_DATA"]) / "camvid")
    assert len(data.entries("train")) == 367
    val = data.entries("val")
    assert len(val) == 101
    seen = np.zeros(256, dtype=np.int64)
    for entry in val[::4]:
        assert data.read_image("val", entry.id).shape == (360, 480, 3)
        seen += np.bincount(data.read_ground_truth("val", entry.id).ravel(), minlength=256)
    assert (seen[:11] > 0).all() and seen[255] > 0 and seen[11:255].sum() == 0
    assert seen[3] > seen[2]  # more road than poles
