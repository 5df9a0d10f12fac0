"""Decoded images are kept: what is read from the cache is what was decoded, and its file is never in the way."""

import errno
import os
import tempfile
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from workloads.errors import BrokenImageError
from workloads.training.batches import Sample
from workloads.training.decoded import DecodedCache

SIZES = {"a": (5, 7), "b": (4, 4), "c": (6, 3)}
BYTES = sum(height * width * (3 + 2) for height, width in SIZES.values())


class Files:
    """Images of several sizes, with uint16 labels; how often each was decoded is counted."""

    ids = tuple(SIZES)

    def __init__(self) -> None:
        self.decoded: Counter[str] = Counter()

    def load(self, image_id: str) -> Sample:
        self.decoded[image_id] += 1
        if image_id == "broken":
            raise BrokenImageError(image_id, "truncated")
        random = np.random.default_rng(ord(image_id))
        size = SIZES[image_id]
        return Sample(random.integers(0, 256, (*size, 3), np.uint8), random.integers(0, 65536, size, np.uint16))


def assert_same(found: Sample, image_id: str) -> None:
    expected = Files().load(image_id)
    assert expected.labels is not None and found.labels is not None
    assert (found.image.dtype, found.labels.dtype) == (np.uint8, np.uint16)
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_every_image_is_decoded_once_and_read_as_it_was() -> None:
    files = Files()
    source = DecodedCache(BYTES / 1e9).of(files)
    assert source.ids == files.ids
    for image_id in 3 * files.ids:
        assert_same(source.load(image_id), image_id)
    assert files.decoded == dict.fromkeys(SIZES, 1)


def test_two_sources_of_one_cache_keep_images_of_the_same_name_apart() -> None:
    class Pictures(Files):
        def load(self, image_id: str) -> Sample:
            return Sample(super().load(image_id).image, None)

    cache = DecodedCache(1.0)
    labelled, unlabelled = cache.of(Files()), cache.of(Pictures())
    for _ in range(2):
        assert_same(labelled.load("a"), "a")
        assert unlabelled.load("a").labels is None


def test_what_does_not_fit_is_decoded_each_time() -> None:
    files = Files()
    source = DecodedCache((BYTES - 1) / 1e9).of(files)
    for image_id in 3 * files.ids:
        assert_same(source.load(image_id), image_id)
    assert files.decoded == {"a": 1, "b": 1, "c": 3}


def test_a_broken_image_stays_one() -> None:
    source = DecodedCache(1.0).of(Files())
    for _ in range(2):
        with pytest.raises(BrokenImageError, match="truncated"):
            source.load("broken")


def test_a_full_disk_ends_the_keeping_with_one_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = Files()
    source = DecodedCache(1.0).of(files)
    source.load("a")
    real, written = os.pwrite, 0

    def pwrite(file: int, data: bytes, offset: int) -> int:
        nonlocal written
        written += 1
        if written > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # As a disk that fills up: less than was asked for.
        return real(file, data[:3], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    for image_id in 2 * files.ids:
        assert_same(source.load(image_id), image_id)
    assert files.decoded == {"a": 1, "b": 2, "c": 2}
    assert [record.message for record in caplog.records] == [
        "no more decoded images are kept (compute.decoded_cache_gb): No space left on device"
    ]


def test_a_disk_that_is_nearly_full_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files()
    source = DecodedCache(1.0).of(files)
    blocks, size = 1000, 4096
    monkeypatch.setattr(os, "fstatvfs", lambda file: SimpleNamespace(f_frsize=size, f_blocks=blocks, f_bavail=50))
    source.load("a")
    monkeypatch.setattr(os, "fstatvfs", lambda file: SimpleNamespace(f_frsize=size, f_blocks=blocks, f_bavail=51))
    for _ in range(2):
        assert_same(source.load("a"), "a")
    assert files.decoded == {"a": 2}


def test_without_a_place_for_the_file_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    files = Files()
    source = DecodedCache(1.0).of(files)
    for _ in range(2):
        assert_same(source.load("a"), "a")
    assert files.decoded == {"a": 2}
    assert len(caplog.records) == 1
