"""Image sets: the first n images of one seeded order of a pool, cut into shards.

The model: a pool has one order; n images are its first n, so 500 lie inside 2 000 inside 5 000. Shards are cut at
fixed multiples, and a shard is identified by the images in it alone: a longer prefix reuses every full shard of a
shorter one. The list itself lies on the storage as an Arrow file, so that a worker reads its slice and a task carries
two integers.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa

from orchestrator.ledger.layout import listing_path
from orchestrator.storage.store import Storage
from workloads.datasets import Dataset
from workloads.datasets.base import ImageEntry
from workloads.datasets.order import seeded_order

_SCHEMA = pa.schema([("image", pa.string()), ("size", pa.int64())])


@dataclass(frozen=True)
class ShardRange:
    """Images start to stop (exclusive) of an image set; `digest` identifies exactly these images in this order."""

    start: int
    stop: int
    digest: str


@dataclass(frozen=True)
class ImageSet:
    """The first `count` images of a pool. `requested` is what the user asked for, None for all."""

    pool: str
    count: int
    requested: int | None
    available: int
    digest: str
    shards: tuple[ShardRange, ...]
    listing: str


def build_image_set(
    dataset: Dataset,
    pool: str,
    requested: int | None,
    *,
    order_seed: int,
    shard_images: int,
    storage: Storage | None,
) -> ImageSet:
    """List a pool, put it in its seeded order, take the prefix and write the listing to the storage (when given).

    Raises:
        InputError: the pool is unknown, missing or empty.
    """
    ordered = seeded_order(dataset.entries(pool), order_seed)
    count = len(ordered) if requested is None else min(requested, len(ordered))
    chosen = ordered[:count]
    whole = _digest(chosen)
    shards = tuple(
        ShardRange(start, min(start + shard_images, count), _digest(chosen[start : start + shard_images]))
        for start in range(0, count, shard_images)
    )
    listing = listing_path(whole)
    if storage is not None and not storage.exists(listing):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, _SCHEMA) as writer:
            table = {"image": [entry.id for entry in chosen], "size": [entry.size for entry in chosen]}
            writer.write_table(pa.table(table, schema=_SCHEMA))
        storage.create(listing, sink.getvalue().to_pybytes())
    return ImageSet(pool, count, requested, len(ordered), whole, shards, listing)


def read_listing(storage: Storage, listing: str, start: int, stop: int) -> list[str]:
    """The ids of images start to stop (exclusive) of a listing."""
    return _open_listing(storage, listing).slice(start, stop - start).to_pylist()


def listing_problem(storage: Storage, listing: str) -> str | None:
    """What is wrong with a listing's file, or None: it is named by the digest of what is in it."""
    try:
        data = storage.read(listing)
    except FileNotFoundError:
        return "is missing"
    try:
        with pa.ipc.open_file(pa.BufferReader(data)) as reader:
            table = reader.read_all()
        table.validate(full=True)
        columns = (table.column(name).to_pylist() for name in _SCHEMA.names)
        whole = _digest([ImageEntry(*row) for row in zip(*columns, strict=True)])
    except (pa.ArrowException, OSError, ValueError, KeyError, AttributeError, OverflowError) as error:
        return f"cannot be read ({error})"
    return None if listing_path(whole) == listing else "lists other images than those it is named after"


@lru_cache(maxsize=8)
def _open_listing(storage: Storage, listing: str) -> pa.ChunkedArray:
    with pa.ipc.open_file(storage.open(listing)) as reader:
        return reader.read_all().column("image")


def ground_truth_digest(dataset: Dataset, pool: str, image_ids: Iterable[str]) -> str:
    """Identifies the label files of images by their names and sizes, as images themselves are identified."""
    return _digest([ImageEntry(name, dataset.ground_truth_size(pool, name)) for name in image_ids])


def _digest(entries: Sequence[ImageEntry]) -> str:
    hasher = hashlib.sha256()
    for entry in entries:
        name = entry.id.encode()
        hasher.update(len(name).to_bytes(4, "little") + name + entry.size.to_bytes(8, "little", signed=True))
    return hasher.hexdigest()
