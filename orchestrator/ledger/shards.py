"""Shards: Arrow IPC files of what was computed for a run of images, and how they are read back.

The model: one record batch per image (or one for a whole table), no pickles, the schema in the file. A shard is named
by its stream (what is computed) and by the images in it; its record says rows, bytes, SHA-256 and which images
were quarantined.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.storage.store import Storage, StorageUnavailableError
from workloads.errors import InputError

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
# empty. Only with them can a score count an outlier against the label it was taken from.
LABEL_SCHEMA = MAP_SCHEMA.append(pa.field("removed", pa.list_(pa.uint16())))


def sample_schema(channels: int) -> pa.Schema:
    """Feature pixels: image, index of the cell in the (h, w) feature map in row-major order, feature."""
    feature = pa.list_(pa.float32(), channels)
    return pa.schema([("image", pa.string()), ("cell", pa.int32()), ("feature", feature)])


@dataclass(frozen=True)
class Quarantined:
    """An image that was quarantined, and why."""

    image: str
    reason: str


@dataclass(frozen=True)
class ShardRecord:
    """What the ledger knows of a shard: enough to find it, to check it and to count it."""

    path: str
    rows: int
    size: int
    sha256: str
    columns: list[str]
    images: int
    quarantined: list[Quarantined] = field(default_factory=list)
    seconds: float = 0.0

    @staticmethod
    def of(path: str, data: bytes, *, rows: int, columns: list[str], images: int) -> "ShardRecord":
        """The record of a file with the given content."""
        return ShardRecord(path, rows, len(data), hashlib.sha256(data).hexdigest(), columns, images)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "ShardRecord":
        """The record that `to_json` wrote.

        Raises:
            KeyError, TypeError: not a record.
            ValueError: it names a file outside the storage.
        """
        path = PurePosixPath(data["path"])
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"{data['path']!r} lies outside the storage")
        quarantined = [Quarantined(**item) for item in data["quarantined"]]
        return ShardRecord(**{**data, "quarantined": quarantined})


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

    def write(self, storage: Storage, path: str, seconds: float) -> ShardRecord:
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


def label_batch(image: str, labels: np.ndarray, removed: np.ndarray) -> pa.RecordBatch:
    """A label map (H, W) of uint16 and the former labels (r,) of its ignored pixels (or none), one row."""
    return pa.record_batch([*_map_columns(image, labels), _list_of(removed)], schema=LABEL_SCHEMA)


def _map_columns(image: str, values: np.ndarray) -> list[pa.Array]:
    height, width = values.shape
    return [pa.array([image]), pa.array([height], pa.int32()), pa.array([width], pa.int32()), _list_of(values)]


def _list_of(values: np.ndarray) -> pa.ListArray:
    offsets = pa.array(np.array([0, values.size], dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values, dtype=np.uint16).reshape(-1)))


def read_batches(storage: Storage, path: str) -> Iterator[pa.RecordBatch]:
    """The record batches of a shard, one at a time; memory-mapped on a local path.

    Raises:
        InputError: the shard is missing or damaged.
    """
    with _open_arrow(storage, path) as reader:
        for index in range(reader.num_record_batches):
            try:
                batch = reader.get_batch(index)
            except StorageUnavailableError:
                raise
            except (pa.ArrowInvalid, OSError) as error:
                raise _damaged(storage, path, error) from None
            yield batch


def read_maps(storage: Storage, path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Image id and map (H, W) uint16 of every image of a map or label shard."""
    for batch in read_batches(storage, path):
        yield batch.column("image")[0].as_py(), map_of(batch)


def read_judged_labels(storage: Storage, path: str) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Image id, label map (H, W), and the former labels of its ignored pixels (None where they were not kept)."""
    for batch in read_batches(storage, path):
        removed = batch.column("removed").flatten().to_numpy() if "removed" in batch.schema.names else None
        yield batch.column("image")[0].as_py(), map_of(batch), removed


def _open_arrow(storage: Storage, path: str) -> pa.ipc.RecordBatchFileReader:
    try:
        return pa.ipc.open_file(storage.open(path))
    except StorageUnavailableError:
        # A storage that does not answer says nothing about the shard.
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(storage, path, error) from None


def _damaged(storage: Storage, path: str, error: Exception) -> InputError:
    what = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
    return InputError(
        f"{storage.locate(path)} {what}; `lookbeyond verify {storage.uri} --repair` forgets it, so that `run` makes it "
        "again"
    )


def map_of(batch: pa.RecordBatch) -> np.ndarray:
    """The map (H, W) of a one-row batch of a map or label shard."""
    shape = (batch.column("height")[0].as_py(), batch.column("width")[0].as_py())
    return batch.column("values").flatten().to_numpy(zero_copy_only=True).reshape(shape)


def read_samples(storage: Storage, path: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Image id, cells (n,) and features (n, d) of every image of a sample shard."""
    for batch in read_batches(storage, path):
        if batch.num_rows == 0:
            continue
        feature = batch.column("feature")
        features = feature.flatten().to_numpy(zero_copy_only=True).reshape(batch.num_rows, feature.type.list_size)
        yield batch.column("image")[0].as_py(), batch.column("cell").to_numpy(), features


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
    with _open_arrow(storage, path) as reader:
        batch = reader.get_batch(0)
        arrays = {}
        for index, column_field in enumerate(reader.schema):
            shape = tuple(int(size) for size in column_field.metadata[b"shape"].decode().split(",") if size)
            flat = batch.column(index).flatten().to_numpy(zero_copy_only=True)
            arrays[column_field.name] = flat.reshape(shape)
        return arrays
