"""Image sets: the first n images of one seeded order of a pool, cut into shards.

The model: a pool has one order; n images are its first n, so 500 lie inside 2 000 inside 5 000. Shards are cut at
fixed multiples, and a shard is identified by the images in it alone: a longer prefix reuses every full shard of a
shorter one. The list itself lies on the storage as an Arrow file, so that a worker reads its slice and a task carries
two integers.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa

from orchestrator.ledger.documents import damaged
from orchestrator.ledger.layout import listing_path
from orchestrator.storage.store import Storage
from workloads.datasets.base import ImageEntry, confined
from workloads.datasets.order import seeded_order
from workloads.errors import InputError

_SCHEMA = pa.schema([("image", pa.string()), ("size", pa.int64())])
# The content of files that are told by it; see `ledger.inputs`.
_TOLD = pa.field("sha256", pa.string())


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
    pool: str,
    entries: Iterable[ImageEntry],
    requested: int | None,
    *,
    order_seed: int,
    shard_images: int,
    storage: Storage | None,
) -> ImageSet:
    """Put the images of a pool in their seeded order, take the prefix and write the listing to the storage (if any)."""
    ordered = seeded_order(entries, order_seed)
    count = len(ordered) if requested is None else min(requested, len(ordered))
    chosen = ordered[:count]
    whole = entries_digest(chosen)
    shards = tuple(
        ShardRange(start, min(start + shard_images, count), entries_digest(chosen[start : start + shard_images]))
        for start in range(0, count, shard_images)
    )
    listing = listing_path(whole)
    if storage is not None and not storage.exists(listing):
        table = pa.table(
            {"image": [entry.id for entry in chosen], "size": [entry.size for entry in chosen]}, schema=_SCHEMA
        )
        if any(entry.sha256 for entry in chosen):
            table = table.append_column(_TOLD, pa.array([entry.sha256 for entry in chosen]))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        storage.create(listing, sink.getvalue().to_pybytes())
    return ImageSet(pool, count, requested, len(ordered), whole, shards, listing)


def read_listing(storage: Storage, listing: str, start: int, stop: int) -> list[str]:
    """The ids of images start to stop (exclusive) of a listing."""
    names = _open_listing(storage, listing).slice(start, stop - start).to_pylist()
    try:
        return [confined(name) for name in names]
    except ValueError as error:
        raise damaged(storage, listing, error) from None


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
        contents = table.column(_TOLD.name) if _TOLD.name in table.schema.names else [""] * len(table)
        columns = (*(table.column(name).to_pylist() for name in _SCHEMA.names), contents)
        rows = zip(*columns, strict=True)
        whole = entries_digest([ImageEntry(name, size, sha256=str(sha256)) for name, size, sha256 in rows])
    except (pa.ArrowException, OSError, ValueError, KeyError, AttributeError, OverflowError) as error:
        return f"cannot be read ({error})"
    return None if listing_path(whole) == listing else "lists other images than those it is named after"


@lru_cache(maxsize=8)
def _open_listing(storage: Storage, listing: str) -> pa.ChunkedArray:
    try:
        with pa.ipc.open_file(storage.open(listing)) as reader:
            names = reader.read_all().column("image")
        names.validate(full=True)
    except InputError:
        raise
    except (pa.ArrowException, FileNotFoundError, ValueError, KeyError) as error:
        raise damaged(storage, listing, error) from None
    return names


def entries_digest(entries: Iterable[ImageEntry]) -> str:
    """Identifies images or label files in their order: by names and sizes, and by content where that tells them."""
    hasher = hashlib.sha256()
    for entry in entries:
        name = entry.id.encode()
        hasher.update(len(name).to_bytes(4, "little") + name + entry.size.to_bytes(8, "little", signed=True))
        if entry.sha256:
            # No name is as long as this says.
            hasher.update(b"\xff\xff\xff\xff" + bytes.fromhex(entry.sha256))
    return hasher.hexdigest()
