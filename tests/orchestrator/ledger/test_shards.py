"""Shards: what is read is what was written, bit for bit, and the record says what was written."""

import hashlib
import json
import struct
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from orchestrator.ledger.documents import read_json
from orchestrator.ledger.shards import (
    LABEL_SCHEMA,
    MAP_SCHEMA,
    RECORD,
    Quarantined,
    ShardWriter,
    label_batch,
    map_batch,
    read_arrays,
    read_judged_labels,
    read_maps,
    read_samples,
    sample_batch,
    sample_schema,
    write_arrays,
)
from orchestrator.storage.store import Storage
from workloads.errors import InputError

# Examples overwrite one file, so that they may share a folder.
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)

NAMES = st.text(min_size=1, max_size=12)
IMAGES = st.from_regex(r"[^/.\0]{1,5}(/[^/.\0]{1,5})?", fullmatch=True)
MAPS = hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
DTYPES = st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint8, np.uint16])
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


@same_folder
@given(maps=st.dictionaries(IMAGES, MAPS, max_size=4), compression=st.sampled_from([None, "lz4", "zstd"]))
def test_maps_of_any_size_come_back(storage: Storage, maps: dict[str, np.ndarray], compression: str | None) -> None:
    writer = ShardWriter(MAP_SCHEMA, compression=compression)
    for image, values in maps.items():
        writer.add(map_batch(image, values))
    record = writer.write(storage, "maps.arrow", 0.5)
    found = dict(read_maps(storage, "maps.arrow"))
    assert list(found) == list(maps)
    for image, values in maps.items():
        assert found[image].dtype == np.uint16
        np.testing.assert_array_equal(found[image], values)
    assert (record.rows, record.images) == (len(maps), len(maps))


@same_folder
@given(
    pixels=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    channels=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_samples_of_any_number_of_pixels_come_back(
    storage: Storage, pixels: list[int], channels: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    writer = ShardWriter(sample_schema(channels), compression=None)
    written = {}
    for number, count in enumerate(pixels):
        cells = rng.permutation(100)[:count]
        features = rng.standard_normal((count, channels)).astype(np.float32)
        writer.add(sample_batch(f"image {number}", cells, features))
        if count:
            written[f"image {number}"] = (cells, features)
    record = writer.write(storage, "sample.arrow", 0.0)
    found = {image: (cells, features) for image, cells, features in read_samples(storage, "sample.arrow")}
    assert list(found) == list(written)
    for image, (cells, features) in written.items():
        np.testing.assert_array_equal(found[image][0], cells)
        assert found[image][1].dtype == np.float32
        np.testing.assert_array_equal(found[image][1], features)
    assert (record.rows, record.images) == (sum(pixels), len(pixels))


@same_folder
@given(arrays=st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=4))
def test_arrays_of_any_shape_come_back(storage: Storage, arrays: dict[str, np.ndarray]) -> None:
    storage.replace("arrays.arrow", write_arrays(arrays))
    found = read_arrays(storage, "arrays.arrow")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_views_that_are_not_contiguous_come_back(storage: Storage) -> None:
    grid = np.arange(24, dtype=np.uint16).reshape(4, 6)
    views = {"transposed": grid.T, "strided": grid[::2, ::3], "flipped": grid[:, ::-1]}
    storage.replace("arrays.arrow", write_arrays(views))
    for name, array in read_arrays(storage, "arrays.arrow").items():
        np.testing.assert_array_equal(array, views[name])
    writer = ShardWriter(MAP_SCHEMA, compression="lz4")
    writer.add(map_batch("transposed", grid.T))
    writer.write(storage, "maps.arrow", 0.0)
    np.testing.assert_array_equal(dict(read_maps(storage, "maps.arrow"))["transposed"], grid.T)


def test_special_values_of_floats_come_back(storage: Storage) -> None:
    special = np.array([np.inf, -np.inf, np.nan, -0.0, np.finfo(np.float32).tiny], dtype=np.float32)
    storage.replace("arrays.arrow", write_arrays({"limits": special}))
    assert read_arrays(storage, "arrays.arrow")["limits"].tobytes() == special.tobytes()


def test_a_record_says_what_was_written(storage: Storage) -> None:
    writer = ShardWriter(MAP_SCHEMA, compression="lz4")
    writer.add(map_batch("a.png", np.full((30, 40), 7, dtype=np.uint16)))
    writer.quarantine("b.png", "truncated after 12 bytes")
    record = writer.write(storage, "shards/x.arrow", 1.23456789)
    data = storage.read("shards/x.arrow")
    assert record.size == len(data) < 30 * 40 * 2
    assert record.sha256 == hashlib.sha256(data).hexdigest()
    assert record.columns == ["image: string", "height: int32", "width: int32", "values: list<item: uint16>"]
    assert record.quarantined == [Quarantined("b.png", "truncated after 12 bytes")]
    assert (record.rows, record.images, record.seconds) == (1, 1, 1.2346)
    assert read_json(json.dumps(asdict(record)).encode(), RECORD) == record


def shard_of_maps(storage: Storage, image: str = "a.png", *, judged: bool = False) -> bytes:
    """A shard of one map of 7 x 11 pixels, uncompressed, so that a test knows its bytes."""
    writer = ShardWriter(LABEL_SCHEMA if judged else MAP_SCHEMA, compression=None)
    values = np.arange(77, dtype=np.uint16).reshape(7, 11)
    removed = np.array([7, 7], dtype=np.uint16)
    writer.add(label_batch(image, values, removed, 2) if judged else map_batch(image, values))
    writer.write(storage, "maps.arrow", 0.0)
    return storage.read("maps.arrow")


def overwrite(data: bytes, what: bytes, other: bytes) -> bytes:
    """The last such bytes are of the values; what describes them stands before them."""
    head, found, tail = data.rpartition(what)
    assert len(found) == len(other)
    return head + other + tail


OFFSETS, HEIGHT = struct.pack("<ii", 0, 77), struct.pack("<ixxxx", 7)


@pytest.mark.parametrize(
    ("what", "other"),
    [
        (OFFSETS, struct.pack("<ii", -4, 77)),
        (OFFSETS, struct.pack("<ii", 0, 500_000_000)),
        (OFFSETS, struct.pack("<ii", 0, 76)),
        (OFFSETS, struct.pack("<ii", 77, 0)),
        (HEIGHT, struct.pack("<ixxxx", 4)),
        (HEIGHT, struct.pack("<ixxxx", -3)),
        (b"a.png", b"a.p\xffg"),
    ],
)
def test_a_map_that_was_tampered_with_is_one_message_and_never_read_beyond(
    storage: Storage, what: bytes, other: bytes
) -> None:
    storage.replace("maps.arrow", overwrite(shard_of_maps(storage), what, other))
    with pytest.raises(InputError, match=r"maps\.arrow is damaged .*verify.*--repair") as refused:
        list(read_maps(storage, "maps.arrow"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("image", ["../x", "/etc/x", "a/../../x", ".."])
def test_an_image_that_leads_out_of_its_folder_is_damage(storage: Storage, image: str) -> None:
    shard_of_maps(storage, image)
    with pytest.raises(InputError, match=r"maps\.arrow is damaged .*leads out of its folder"):
        list(read_maps(storage, "maps.arrow"))


def test_former_labels_that_are_not_one_for_each_ignored_pixel_are_damage(storage: Storage) -> None:
    shard_of_maps(storage, judged=True)
    with pytest.raises(InputError, match=r"maps\.arrow is damaged .*2 former labels"):
        list(read_judged_labels(storage, "maps.arrow"))


def test_a_shard_of_another_kind_is_damage(storage: Storage) -> None:
    writer = ShardWriter(sample_schema(2), compression=None)
    writer.add(sample_batch("a.png", np.array([3, 1]), np.array([[1, 2], [3, 4]], dtype=np.float32)))
    writer.write(storage, "sample.arrow", 0.0)
    shard_of_maps(storage)
    for read, path in ((read_maps, "sample.arrow"), (read_samples, "maps.arrow"), (read_arrays, "maps.arrow")):
        with pytest.raises(InputError, match=rf"{path} is damaged"):
            list(read(storage, path))


@same_folder
@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_any_changed_byte_is_read_as_some_map_or_is_one_message(storage: Storage, place: int, value: int) -> None:
    data = bytearray(shard_of_maps(storage))
    data[place % len(data)] = value
    storage.replace("maps.arrow", bytes(data))
    try:
        found = list(read_maps(storage, "maps.arrow"))
    except InputError as error:
        assert "maps.arrow is damaged" in str(error)
    else:
        assert all(values.size <= 77 for _, values in found)


def test_arrays_whose_shape_does_not_fit_are_damage(storage: Storage) -> None:
    data = write_arrays({"points": np.zeros((3, 4), dtype=np.float32)})
    for shape in (b"3,5", b"-1,", b"3,x"):
        # The schema is at the head of the file and in its footer.
        storage.replace("arrays.arrow", data.replace(b"3,4", shape))
        with pytest.raises(InputError, match=r"arrays\.arrow is damaged"):
            read_arrays(storage, "arrays.arrow")


def test_a_shard_of_broken_images_alone_is_a_shard(storage: Storage) -> None:
    writer = ShardWriter(sample_schema(8), compression=None)
    writer.quarantine("a.png", "not an image")
    record = writer.write(storage, "sample.arrow", 0.0)
    assert (record.rows, record.images, len(record.quarantined)) == (0, 0, 1)
    assert list(read_samples(storage, "sample.arrow")) == []


def test_equal_content_gives_equal_bytes(storage: Storage) -> None:
    for path in ("first", "second"):
        writer = ShardWriter(MAP_SCHEMA, compression="lz4")
        writer.add(map_batch("a.png", np.arange(5000, dtype=np.uint16).reshape(50, 100)))
        writer.write(storage, path, 0.0)
    assert storage.read("first") == storage.read("second")


def test_a_shard_is_arrow_that_anything_can_read(storage: Storage) -> None:
    writer = ShardWriter(sample_schema(2), compression=None)
    writer.add(sample_batch("a.png", np.array([3, 1]), np.array([[1, 2], [3, 4]], dtype=np.float32)))
    writer.write(storage, "sample.arrow", 0.0)
    with pa.ipc.open_file(storage.locate("sample.arrow")) as reader:
        table = reader.read_all()
    assert table.to_pylist() == [
        {"image": "a.png", "cell": 3, "feature": [1.0, 2.0]},
        {"image": "a.png", "cell": 1, "feature": [3.0, 4.0]},
    ]
