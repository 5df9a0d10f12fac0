"""Images and masks in buckets: what is read there is what is read from a folder."""

import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import S3Store
from PIL import Image
from pydantic import TypeAdapter
from support.s3_server import S3Server

from workloads import storage_retries
from workloads.bucket_paths import BucketPath, matches
from workloads.datasets import Dataset, DatasetConfig, open_dataset
from workloads.errors import InputError
from workloads.storage_retries import RetryPolicy

CLASSES = {7: "road", 9: "sky"}


def opened(root: Any, **options: Any) -> Dataset:
    config: Any = TypeAdapter(DatasetConfig).validate_python(options)
    return open_dataset(config, root)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of images and masks, with what is no image beside them."""
    random = np.random.default_rng(0)
    for pool, count in (("train", 3), ("val", 2)):
        for number in range(count):
            for folder, size in (("images", (6, 8, 3)), ("masks", (6, 8))):
                pixels = random.integers(0, 255, size) if folder == "images" else random.choice([7, 9], size)
                path = tmp_path / "mine" / folder / pool / f"ulm #{number % 2}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    mine = tmp_path / "mine"
    (mine / "images" / "train" / "Thumbs.db").write_bytes(b"x")
    (mine / "images" / "train" / ".hidden.png").write_bytes(b"x")
    (mine / "images" / "train" / "drawn").mkdir()
    (mine / "images" / "train" / "drawn" / ".lookbeyond").write_text("a gallery\n")
    (mine / "images" / "train" / "drawn" / "0.png").write_bytes(b"x")
    (mine / "train.txt").write_text("images/train/ulm #0/0.png\nimages/train/ulm #1/1.png\n")
    lines = ["image,mask,pool", *(f"images/{p},masks/{p},{p.split('/')[0]}" for p in names(mine, "masks"))]
    (mine / "data.csv").write_text("\n".join(lines) + "\n")
    return mine


def names(mine: Path, folder: str) -> list[str]:
    return sorted(str(path.relative_to(mine / folder)) for path in (mine / folder).rglob("*.png"))


def upload(folder: Path, bucket: str, prefix: str) -> str:
    store = S3Store(bucket, client_options={"allow_http": True})
    for path in folder.rglob("*"):
        if path.is_file():
            obstore.put(store, f"{prefix}/{path.relative_to(folder)}", path.read_bytes())
    return f"s3://{bucket}/{prefix}"


FOLDERS = {pool: {"images": f"images/{pool}", "masks": f"masks/{pool}"} for pool in ("train", "val")}
WAYS: dict[str, dict[str, Any]] = {
    "folders": {"name": "masks", "classes": CLASSES, "pools": FOLDERS},
    "glob": {
        "name": "masks",
        "classes": CLASSES,
        "pools": FOLDERS | {"train": {"images": "images/train/*/?.png", "masks": "masks/train/{inside}/{name}"}},
    },
    "list": {
        "name": "masks",
        "classes": CLASSES,
        "pools": FOLDERS | {"train": {"images": "train.txt", "masks": "masks/train/ulm #{stem}/{name}"}},
    },
    "folder": {"name": "folder"},
    "table": {"name": "table", "file": "data.csv", "classes": CLASSES},
}


# What differs between services is below what differs between data sets.
@pytest.mark.parametrize(("scheme", "way"), [*(("s3", way) for way in WAYS), ("gs", "folders")])
def test_a_bucket_is_read_as_the_folder_that_was_copied_there(way: str, scheme: str, mine: Path, bucket: str) -> None:
    root = upload(mine, bucket, "some data/mine").replace("s3://", f"{scheme}://")
    here, there = opened(mine, **WAYS[way]), opened(root, **WAYS[way])
    assert here.pools == there.pools
    assert here.identity() == there.identity()
    for pool in here.pools:
        assert here.entries(pool) == there.entries(pool)
        assert [line.replace(str(mine), root) for line in here.passed_over(pool)] == there.passed_over(pool)
        for entry in here.entries(pool):
            np.testing.assert_array_equal(here.read_image(pool, entry.id), there.read_image(pool, entry.id))
            assert here.content(pool, "images", entry.id) == there.content(pool, "images", entry.id)
            if here.labelled(pool):
                np.testing.assert_array_equal(
                    here.read_ground_truth(pool, entry.id), there.read_ground_truth(pool, entry.id)
                )
                assert here.label_entry(pool, entry.id) == there.label_entry(pool, entry.id)


def test_a_table_on_this_machine_names_images_and_masks_in_buckets(mine: Path, bucket: str, tmp_path: Path) -> None:
    root = upload(mine, bucket, "mine")
    text = (mine / "data.csv").read_text().replace("images/", f"{root}/images/").replace("masks/", f"{root}/masks/")
    (tmp_path / "data.csv").write_text(text)
    here = opened(mine, name="table", file="data.csv", classes=CLASSES)
    there = opened(None, name="table", file=str(tmp_path / "data.csv"), classes=CLASSES)
    for pool in ("train", "val"):
        assert here.entries(pool) == there.entries(pool)
        for entry in here.entries(pool):
            np.testing.assert_array_equal(
                here.read_ground_truth(pool, entry.id), there.read_ground_truth(pool, entry.id)
            )
    (tmp_path / "remote.csv").write_text("image\nimages/train/ulm #0/0.png\n")
    remote = upload(tmp_path, bucket, "mine") + "/remote.csv"
    assert opened(None, name="table", file=remote).read_image("train", "0").shape == (6, 8, 3)


def test_a_directory_is_asked_for_once_and_an_outage_is_waited_for(
    mine: Path, bucket: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_retries, "POLICY", RetryPolicy(seconds=30, first_pause=0.01, longest_pause=0.05))
    there = opened(upload(mine, bucket, "mine"), **WAYS["folders"])
    entries = there.entries("train")
    for entry in entries:
        there.label_entry("train", entry.id)
    before = s3.trouble.requests
    for entry in entries:
        there.label_entry("train", entry.id)
    assert s3.trouble.requests == before
    s3.trouble.begin(1.0, seed=0, cap=7, kinds=("503", "drop before"))
    try:
        assert there.read_image("train", entries[0].id).shape == (6, 8, 3)
    finally:
        s3.trouble.end()


@pytest.mark.parametrize(
    ("root", "options", "said"),
    [
        ("s3://{bucket}/nothing", {"name": "folder"}, r"dataset\.root: there is no object below s3://.*/nothing"),
        ("s3://{bucket}x/mine", {"name": "folder"}, "there is no bucket"),
        ("s3://user:word@{bucket}/mine", {"name": "folder"}, "credentials or options in its URI"),
        ("s3:/{bucket}/mine", {"name": "folder"}, r"dataset\.root: .* cannot be read; allowed: a path, s3:// or gs://"),
        ("s3://{bucket}/mine", {"name": "camvid"}, r"in a bucket, and camvid is read from a folder of this machine"),
        (
            "s3://{bucket}/mine",
            {"name": "masks", "pools": {"train": {"images": "images/train", "masks": "mask/{stem}.png"}}},
            r"gives s3://.*/mine/mask/0\.png for images/train/ulm #0/0\.png, which is not there; s3://.*/mine holds "
            r"data\.csv, images, masks",
        ),
        (
            "s3://{bucket}/mine",
            {"name": "masks", "pools": {"train": {"images": "pictures"}}},
            r"looked for images in s3://.*/pictures, which is not there; s3://.*/mine holds data\.csv, images, masks",
        ),
    ],
)
def test_a_wrong_place_gets_one_message(root: str, options: dict[str, Any], said: str, mine: Path, bucket: str) -> None:
    upload(mine, bucket, "mine")
    with pytest.raises(InputError, match=said):
        opened(root.format(bucket=bucket), **options).entries("train")


def test_a_place_does_not_lead_out_of_its_bucket() -> None:
    place = BucketPath.of("s3://bucket/a/b")
    assert str(place / "../c") == "s3://bucket/a/c"
    with pytest.raises(InputError, match="leads out of its bucket"):
        place / "../../../other/c"


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["a", "b.png", "*", "?", "**", "b*", "[ab]"]), min_size=1, max_size=4))
def test_a_glob_finds_in_a_bucket_what_it_finds_in_a_folder(tmp_path_factory: Any, parts: list[str]) -> None:
    folder = tmp_path_factory.getbasetemp() / "globbed"
    if not folder.exists():
        for name in ("a/b.png", "b.png", "a/a/b.png", "c/a/c/b.png", "a/c/d.png"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    # What ** finds at the end differs between versions of Python.
    pattern = "/".join([*parts, "*"])
    files = [PurePosixPath(os.path.relpath(path, folder)) for path in folder.rglob("*") if path.is_file()]
    expected = {path for path in folder.glob(pattern) if path.is_file()}
    assert {folder / path for path in files if matches(path, pattern)} == expected
