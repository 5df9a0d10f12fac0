"""Image sets: prefixes of one order, cut so that a longer prefix shares the full shards of a shorter one."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from orchestrator.ledger.image_sets import ImageSet, build_image_set, read_listing
from orchestrator.storage.store import Storage
from workloads.datasets import Dataset, FolderConfig, ScenesConfig, open_dataset
from workloads.errors import InputError

SCENES = open_dataset(ScenesConfig(num_train=120, num_val=30), None)


def image_set(
    requested: int | None,
    *,
    dataset: Dataset = SCENES,
    pool: str = "train",
    order_seed: int = 0,
    shard_images: int = 16,
    storage: Storage | None = None,
) -> ImageSet:
    entries = dataset.entries(pool)
    return build_image_set(pool, entries, requested, order_seed=order_seed, shard_images=shard_images, storage=storage)


@given(st.integers(1, 120), st.integers(1, 120), st.sampled_from([1, 7, 16, 200]))
def test_a_longer_prefix_shares_every_full_shard_of_a_shorter(first: int, second: int, shard_images: int) -> None:
    short, long = (image_set(count, shard_images=shard_images) for count in sorted((first, second)))
    full = short.count // shard_images
    assert short.shards[:full] == long.shards[:full]
    if short.count == long.count:
        assert short == long
    else:
        assert short.digest != long.digest
        assert len(set(short.shards) & set(long.shards)) == full


@given(st.integers(1, 120), st.integers(1, 50))
def test_shards_cover_every_image_once(count: int, shard_images: int) -> None:
    images = image_set(count, shard_images=shard_images)
    assert [number for shard in images.shards for number in range(shard.start, shard.stop)] == list(range(count))
    assert all(shard.stop - shard.start <= shard_images for shard in images.shards)
    assert len({shard.digest for shard in images.shards}) == len(images.shards)


def test_more_than_there_is_gives_all_there_is_and_says_what_was_asked_for() -> None:
    everything, too_many = image_set(None), image_set(500)
    assert (everything.count, everything.requested, everything.available) == (120, None, 120)
    assert (too_many.count, too_many.requested, too_many.available) == (120, 500, 120)
    assert too_many.digest == everything.digest
    assert too_many.shards == everything.shards


def test_how_shards_are_cut_is_no_part_of_which_images_they_are() -> None:
    assert image_set(50, shard_images=4).digest == image_set(50, shard_images=16).digest


def test_another_seed_is_another_order() -> None:
    assert image_set(50).digest != image_set(50, order_seed=1).digest


def test_a_pool_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(InputError, match=r"'trian'.*train, val"):
        image_set(5, pool="trian")


def test_the_listing_on_the_storage_is_the_order(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    whole, prefix = image_set(120, storage=storage), image_set(40, storage=storage)
    names = read_listing(storage, whole.listing, 0, 120)
    assert sorted(names) == [entry.id for entry in SCENES.entries("train")]
    assert names != sorted(names)
    assert read_listing(storage, prefix.listing, 0, 40) == names[:40]
    assert read_listing(storage, prefix.listing, 32, 40) == names[32:40]
    assert image_set(120, storage=storage) == whole
    assert len(list(storage.files("images"))) == 2


def test_without_a_storage_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert image_set(10, storage=None).digest == image_set(10, storage=Storage(str(tmp_path / "s"))).digest
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def folder(root: Path, sizes: dict[str, int]) -> Dataset:
    for name, side in sizes.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, side, 3), side, dtype=np.uint8)).save(path)
    return open_dataset(FolderConfig(), root)


def test_a_picture_that_changes_its_size_changes_its_shard_alone(tmp_path: Path) -> None:
    names = {f"city/{number:02d}.png": 8 + number for number in range(12)}
    before = image_set(None, dataset=folder(tmp_path, names), shard_images=4)
    after = image_set(None, dataset=folder(tmp_path, names | {"city/05.png": 99}), shard_images=4)
    assert before.digest != after.digest
    assert sum(one != other for one, other in zip(before.shards, after.shards, strict=True)) == 1


def test_names_that_run_into_each_other_are_told_apart(tmp_path: Path) -> None:
    """ab + c and a + bc are different pairs of images."""
    first = image_set(None, dataset=folder(tmp_path / "1", {"ab.png": 8, "c.png": 8}))
    second = image_set(None, dataset=folder(tmp_path / "2", {"a.png": 8, "bc.png": 8}))
    assert first.digest != second.digest
