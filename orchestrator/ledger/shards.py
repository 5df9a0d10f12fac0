"""Shards: Arrow IPC files of what was computed for a run of images, and how they are read back.

The model: one record batch per image (or one for a whole table), no pickles, the schema in the file. A shard is named
by its stream (what is computed) and by the images in it; its record says rows, bytes, SHA-256 and which images
were quarantined.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, Field, TypeAdapter

from orchestrator.ledger.documents import damaged
from orchestrator.ledger.layout import data_path
from orchestrator.storage.store import Storage, StorageUnavailableError
from workloads.datasets.base import confined
from workloads.errors import InputError
from workloads.ignored import IGNORE_LABEL

# Maps compress by a factor of ten or more at several GB/s; features are noise to a compressor.
MAP_COMPRESSION = "lz4"

MAP_SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("values", pa.list_(pa.uint16())),
    ]
)
# `removed` holds the former labels of the ignored pixels in row-major order, where labels are to be judged; else it is
# empty. Only with them can a score count an outlier against the label it was taken from. `outliers` is the number of
# pixels that were taken out before the vote.
LABEL_SCHEMA = MAP_SCHEMA.append(pa.field("removed", pa.list_(pa.uint16()))).append(pa.field("outliers", pa.int64()))


def sample_schema(channels: int) -> pa.Schema:
    """Feature pixels: image, index of the cell in the (h, w) feature map in row-major order, feature."""
    feature = pa.list_(pa.float32(), channels)
    return pa.schema([("image", pa.string()), ("cell", pa.int32()), ("feature", feature)])


@dataclass(frozen=True)
class Quarantined:
    """An image that was quarantined, and why."""

    image: str
    reason: str


_Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class ShardRecord:
    """What the ledger knows of a shard, or of another file of a step: enough to find, check and count it.

    `origin` is the SHA-256 of the networks and clusters that it was made by, where a step trained or fitted them: the
    key of such a step says how they were made, and not what came out.
    """

    path: Annotated[str, AfterValidator(data_path)]
    rows: _Count
    size: _Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    columns: list[str]
    images: _Count
    quarantined: list[Quarantined] = field(default_factory=list)
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    origin: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""

    @staticmethod
    def of(path: str, data: bytes, *, rows: int, columns: list[str], images: int) -> "ShardRecord":
        """The record of a file with the given content."""
        return ShardRecord(path, rows, len(data), hashlib.sha256(data).hexdigest(), columns, images)


RECORD = TypeAdapter(ShardRecord)


def origin_of(*sha256s: str) -> str:
    """The `origin` of what was made by files of these SHA-256 (empty: there is none), in this order."""
    given = [sha256 for sha256 in sha256s if sha256]
    return hashlib.sha256("".join(given).encode()).hexdigest() if given else ""


class ShardWriter:
    """Collects record batches of one shard in memory (compressed) and writes the file whole."""

    def __init__(self, schema: pa.Schema, *, compression: str | None) -> None:
        self._schema = schema
        self._sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=compression)
        self._writer = pa.ipc.new_file(self._sink, schema, options=options)
        self._rows = 0
        self._images = 0
        self._quarantined: list[Quarantined] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """One image's rows."""
        self._writer.write_batch(batch)
        self._rows += batch.num_rows
        self._images += 1

    def quarantine(self, image: str, reason: str) -> None:
        """An image that has no rows, and why."""
        self._quarantined.append(Quarantined(image, reason))

    def write(self, storage: Storage, path: str, seconds: float, origin: str = "") -> ShardRecord:
        """Close the shard and put it on the storage; the record is not yet a commit."""
        self._writer.close()
        data = self._sink.getvalue()
        storage.replace(path, data)
        return ShardRecord(
            path=path,
            rows=self._rows,
            size=data.size,
            sha256=hashlib.sha256(data).hexdigest(),
            columns=[f"{column.name}: {column.type}" for column in self._schema],
            images=self._images,
            quarantined=self._quarantined,
            seconds=round(seconds, 4),
            origin=origin,
        )


def sample_batch(image: str, cells: np.ndarray, features: np.ndarray) -> pa.RecordBatch:
    """Sampled features (n, d) float32 of one image at row-major feature cells (n,)."""
    channels = features.shape[1]
    flat = pa.array(np.ascontiguousarray(features, dtype=np.float32).reshape(-1))
    columns = [
        pa.array([image] * len(cells), pa.string()),
        pa.array(cells.astype(np.int32)),
        pa.FixedSizeListArray.from_arrays(flat, channels),
    ]
    return pa.record_batch(columns, schema=sample_schema(channels))


def map_batch(image: str, values: np.ndarray) -> pa.RecordBatch:
    """A map (H, W) of uint16 of one image, one row."""
    return pa.record_batch(_map_columns(image, values), schema=MAP_SCHEMA)


def label_batch(image: str, labels: np.ndarray, removed: np.ndarray, outliers: int) -> pa.RecordBatch:
    """A label map (H, W) of uint16, the former labels (r,) of its ignored pixels (or none), its outliers: one row."""
    own = [_list_of(removed), pa.array([outliers], pa.int64())]
    return pa.record_batch([*_map_columns(image, labels), *own], schema=LABEL_SCHEMA)


def _map_columns(image: str, values: np.ndarray) -> list[pa.Array]:
    height, width = values.shape
    return [pa.array([image]), pa.array([height], pa.int32()), pa.array([width], pa.int32()), _list_of(values)]


def _list_of(values: np.ndarray) -> pa.ListArray:
    offsets = pa.array(np.array([0, values.size], dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values, dtype=np.uint16).reshape(-1)))


@dataclass(frozen=True)
class Shard:
    """A shard that is open for reading, one record batch at a time; memory-mapped on a local path.

    What is read may be damaged, or have been made by somebody else to do damage: a batch is checked from end to end
    before a value of it is looked at.
    """

    storage: Storage
    path: str
    _reader: pa.ipc.RecordBatchFileReader = field(repr=False)

    @staticmethod
    def open(storage: Storage, path: str, schema: pa.Schema) -> "Shard":
        """Open a shard that has at least the columns of the schema.

        Raises:
            InputError: the shard is missing or damaged.
        """
        with _described(storage, path):
            reader = pa.ipc.open_file(storage.open(path))
            for wanted in schema:
                found = reader.schema.field(wanted.name)
                if found.type != wanted.type:
                    raise ValueError(f"column {wanted.name} is {found.type}, wanted is {wanted.type}")
        return Shard(storage, path, reader)

    def __len__(self) -> int:
        """How many record batches there are."""
        return int(self._reader.num_record_batches)

    def batch(self, index: int) -> pa.RecordBatch:
        """A record batch that is whole and sound.

        Raises:
            InputError: the shard is damaged.
        """
        with _described(self.storage, self.path):
            batch = self._reader.get_batch(index)
            batch.validate(full=True)
            if any(column.null_count for column in batch.columns):
                raise ValueError("it has rows without values")
            return batch

    def map(self, index: int) -> "StoredMap":
        """The map of a batch of a map or label shard.

        Raises:
            InputError: the shard is damaged.
        """
        batch = self.batch(index)
        with _described(self.storage, self.path):
            if batch.num_rows != 1:
                raise ValueError(f"a map is one row, not {batch.num_rows}")
            height, width = batch.column("height")[0].as_py(), batch.column("width")[0].as_py()
            flat = batch.column("values").flatten().to_numpy(zero_copy_only=True)
            if min(height, width) < 0 or height * width != len(flat):
                raise ValueError(f"a map of {height} x {width} pixels has {len(flat)} values")
            removed, outliers = None, 0
            if "removed" in batch.schema.names:
                removed, outliers = batch.column("removed").flatten().to_numpy(), batch.column("outliers")[0].as_py()
            return StoredMap(confined(batch.column("image")[0].as_py()), flat.reshape(height, width), removed, outliers)


@dataclass(frozen=True)
class StoredMap:
    """A map (H, W) uint16 of an image, and the former labels (r,) of its ignored pixels where such were kept.

    `outliers` is the number of pixels that cast no vote.
    """

    image: str
    values: np.ndarray
    removed: np.ndarray | None
    outliers: int


def read_maps(storage: Storage, path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Image id and map (H, W) uint16 of every image of a map or label shard."""
    for stored in _maps(storage, path):
        yield stored.image, stored.values


def read_judged_labels(storage: Storage, path: str) -> Iterator[StoredMap]:
    """Every label map of a shard, with what was taken out of it.

    Raises:
        InputError: the shard is missing or damaged.
    """
    for stored in _maps(storage, path):
        kept = stored.removed is not None and len(stored.removed)
        with _described(storage, path):
            if kept and kept != np.count_nonzero(stored.values == IGNORE_LABEL):
                raise ValueError(f"{kept} former labels are not one for each ignored pixel")
        yield stored


def _maps(storage: Storage, path: str) -> Iterator[StoredMap]:
    shard = Shard.open(storage, path, MAP_SCHEMA)
    return (shard.map(index) for index in range(len(shard)))


@contextmanager
def _described(storage: Storage, path: str) -> Iterator[None]:
    """Whatever is wrong with a file, in one sentence that names it."""
    try:
        yield
    except (StorageUnavailableError, InputError):
        # A storage that does not answer or refuses says nothing about the file.
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise damaged(storage, path, error) from None


def read_samples(storage: Storage, path: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Image id, cells (n,) and features (n, d) of every image of a sample shard.

    Raises:
        InputError: the shard is missing or damaged.
    """
    shard = Shard.open(storage, path, pa.schema([("image", pa.string()), ("cell", pa.int32())]))
    for index in range(len(shard)):
        batch = shard.batch(index)
        if batch.num_rows == 0:
            continue
        with _described(storage, path):
            feature = batch.column("feature")
            if not pa.types.is_fixed_size_list(feature.type) or feature.type.value_type != pa.float32():
                raise ValueError(f"column feature is {feature.type}")
            features = feature.flatten().to_numpy(zero_copy_only=True).reshape(batch.num_rows, feature.type.list_size)
            image = confined(batch.column("image")[0].as_py())
        yield image, batch.column("cell").to_numpy(), features


def write_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A few named arrays as one Arrow IPC file: one row of flat lists, the shapes in the schema's metadata."""
    columns, fields = [], []
    for name, array in arrays.items():
        flat = pa.array(np.ascontiguousarray(array).reshape(-1))
        offsets = pa.array(np.array([0, len(flat)], dtype=np.int64))
        column = pa.LargeListArray.from_arrays(offsets, flat)
        shape = ",".join(str(size) for size in array.shape)
        columns.append(column)
        fields.append(pa.field(name, column.type, metadata={"shape": shape}))
    sink = pa.BufferOutputStream()
    schema = pa.schema(fields)
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return sink.getvalue().to_pybytes()


def read_arrays(storage: Storage, path: str) -> dict[str, np.ndarray]:
    """The arrays that `write_arrays` wrote; read-only views of the file on a local path.

    Raises:
        InputError: the file is missing or damaged.
    """
    with _described(storage, path):
        reader = pa.ipc.open_file(storage.open(path))
        batch = reader.get_batch(0)
        batch.validate(full=True)
        arrays = {}
        for index, column_field in enumerate(reader.schema):
            shape = tuple(int(size) for size in column_field.metadata[b"shape"].decode().split(",") if size)
            flat = batch.column(index).flatten().to_numpy(zero_copy_only=True)
            if min(shape, default=0) < 0 or math.prod(shape) != len(flat):
                raise ValueError(f"{column_field.name} of shape {shape} has {len(flat)} values")
            arrays[column_field.name] = flat.reshape(shape)
        return arrays
