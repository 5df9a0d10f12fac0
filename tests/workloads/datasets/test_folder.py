import os
from pathlib import Path

import numpy as np
import pytest

from workloads.datasets import open_dataset
from workloads.datasets.folder import FolderConfig
from workloads.errors import BrokenImageError, InputError
from workloads.own_output import mark


def test_the_whole_tree_is_one_pool(tmp_path: Path, save, photo: np.ndarray) -> None:
    for name in ("a.png", "b.JPG", "deep/er/c.bmp", "deep/d.webp", "deep/e.tif", "val/f.jpeg", "a.jpg"):
        save(tmp_path / name, photo)
    save(tmp_path / ".thumbnails/g.png", photo)
    (tmp_path / "._a.png").write_bytes(b"macOS")
    (tmp_path / "notes.txt").write_text("no picture")
    data = open_dataset(FolderConfig(), tmp_path)
    assert data.pools == ("train",)
    ids = [entry.id for entry in data.entries("train")]
    assert ids == ["a.jpg", "a.png", "b.JPG", "deep/d.webp", "deep/e.tif", "deep/er/c.bmp", "val/f.jpeg"]
    assert all(data.read_image("train", image_id).shape == photo.shape for image_id in ids)
    assert not data.labelled("train") and data.classes == ()


def test_folders_named_after_pools_are_the_pools(tmp_path: Path, save, photo: np.ndarray) -> None:
    for name in ("train/city/a.png", "val/b.png", "elsewhere/c.png", "d.png"):
        save(tmp_path / name, photo)
    data = open_dataset(FolderConfig(), tmp_path)
    assert data.pools == ("train", "val")
    assert [entry.id for entry in data.entries("train")] == ["city/a.png"]
    assert [entry.id for entry in data.entries("val")] == ["b.png"]
    with pytest.raises(InputError, match="no pool 'elsewhere' here; pools: train, val"):
        data.entries("elsewhere")


def test_the_number_of_classes_is_the_users(tmp_path: Path) -> None:
    data = open_dataset(FolderConfig(num_classes=7), tmp_path)
    assert data.num_classes == 7 and data.palette.shape == (7, 3)
    assert data.identity() == {"name": "folder", "num_classes": 7}
    plain = open_dataset(FolderConfig(), tmp_path)
    assert plain.num_classes is None and plain.palette.shape == (0, 3)


def test_no_images_and_a_file_as_root(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'train' is empty"):
        open_dataset(FolderConfig(), tmp_path).entries("train")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        open_dataset(FolderConfig(), tmp_path / "file")


def test_a_link_that_leads_back_up_ends(tmp_path: Path, save, photo: np.ndarray) -> None:
    save(tmp_path / "a/b.png", photo)
    (tmp_path / "a/again").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    ids = [entry.id for entry in open_dataset(FolderConfig(), tmp_path).entries("train")]
    assert ids == ["a/b.png", "linked/b.png"]


def test_broken_pictures_are_listed_and_fail_one_by_one(tmp_path: Path, save, photo: np.ndarray) -> None:
    save(tmp_path / "good.png", photo)
    (tmp_path / "text.png").write_text("hello")
    data = open_dataset(FolderConfig(), tmp_path)
    assert len(data.entries("train")) == 2
    with pytest.raises(BrokenImageError, match=r"^text\.png: is not an image"):
        data.read_image("train", "text.png")


def test_a_folder_has_no_ground_truth(tmp_path: Path, save, photo: np.ndarray) -> None:
    save(tmp_path / "a.png", photo)
    with pytest.raises(InputError, match="has no ground truth"):
        open_dataset(FolderConfig(), tmp_path).read_ground_truth("train", "a.png")


def test_a_link_to_nothing_or_to_itself_is_one_broken_image(tmp_path: Path, save, photo: np.ndarray) -> None:
    save(tmp_path / "a.png", photo)
    (tmp_path / "gone.png").symlink_to("/no/such.png")
    (tmp_path / "self.png").symlink_to("self.png")
    data = open_dataset(FolderConfig(), tmp_path)
    assert [entry.id for entry in data.entries("train")] == ["a.png", "gone.png", "self.png"]
    with pytest.raises(BrokenImageError, match=r"is a link to /no/such\.png, which is not there"):
        data.read_image("train", "gone.png")
    with pytest.raises(BrokenImageError, match="cannot be read: Too many levels"):
        data.read_image("train", "self.png")


def test_what_is_passed_over_is_said_and_pipes_are_left_alone(tmp_path: Path, save, photo: np.ndarray) -> None:
    for name in ("a.ppm", "b.jfif", "c.gif", "d.jp2"):
        save(tmp_path / "read" / name, photo)
    for name in ("e.heic", "f.heic", "noext", "h.png~", "notes.txt"):
        (tmp_path / "read" / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "read/pipe.png")
    data = open_dataset(FolderConfig(), tmp_path / "read")
    ids = [entry.id for entry in data.entries("train")]
    assert ids == ["a.ppm", "b.jfif", "c.gif", "d.jp2"]
    assert all(data.read_image("train", image_id).shape == photo.shape for image_id in ids)
    (line,) = data.passed_over("train")
    assert line.startswith(f"4 files in {tmp_path / 'read'} passed over (2 .heic, 1 ")
    assert "1 without a suffix" in line and "1 .png~" in line and line.endswith(", .jp2")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.heic").write_bytes(b"x")
    with pytest.raises(InputError, match=r"is empty; .*1 file in .* passed over \(1 \.heic\)"):
        open_dataset(FolderConfig(), tmp_path / "other").entries("train")


def test_what_the_product_wrote_is_never_read_as_images(tmp_path: Path, save, photo: np.ndarray) -> None:
    save(tmp_path / "a.png", photo)
    save(tmp_path / "out/deep/b.png", photo)
    mark(tmp_path / "out", "label maps")
    assert [entry.id for entry in open_dataset(FolderConfig(), tmp_path).entries("train")] == ["a.png"]
    with pytest.raises(InputError, match="out: holds label maps of lookbeyond, which is never read as images"):
        open_dataset(FolderConfig(), tmp_path / "out").entries("train")
