"""What the files of a data set held when they were read, so that an edited file of the same size is noticed.

An image or label file is known by name and size. Whoever reads files of a pool leaves their SHA-256 on the storage. A
plan compares size and time of every file with those that the last run saw in that folder; where they differ, and
something was read of that file before, the content is looked at. A file with another content than was read is told by
it from then on: it changes the digests that it is in, and with them the keys of what is computed from it. All other
files, and so a fresh checkout with other times, keep theirs.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from orchestrator.ledger.keys import digest
from orchestrator.ledger.layout import INPUTS, contents_path, inputs_folder, is_seen, seen_path
from orchestrator.storage.store import Storage
from workloads.datasets import AnyDatasetConfig, Dataset, DatasetConfig, ImageEntry, open_dataset
from workloads.datasets.base import FileKind
from workloads.errors import InputError

_LOG = logging.getLogger("lookbeyond.inputs")

# `told`: found by a plan to differ from what was read before, and known by its content since.
_CONTENTS = pa.schema([("file", pa.string()), ("sha256", pa.string()), ("told", pa.bool_())])
_SEEN = pa.schema([("file", pa.string()), ("size", pa.int64()), ("modified", pa.int64()), ("sha256", pa.string())])
_CONFIG: TypeAdapter[AnyDatasetConfig] = TypeAdapter(DatasetConfig)
_READERS = 16


@dataclass(frozen=True)
class Files:
    """The images of a pool, or its label files, in one folder."""

    config: AnyDatasetConfig
    root: str | None
    pool: str
    kind: FileKind

    def __str__(self) -> str:
        return f"{self.kind} of pool {self.pool} of {self.config.name}"

    @property
    def seen_path(self) -> str:
        """Where it is kept what was last seen in this folder."""
        return seen_path(_name(open_dataset(self.config, self.root), self.pool, self.kind), digest(self.root))


def _name(dataset: Dataset, pool: str, kind: FileKind) -> str:
    return digest({"dataset": dataset.identity(), "pool": pool, "kind": kind})


def leave_contents(storage: Storage, dataset: Dataset) -> None:
    """Leave on the storage what was read of a data set in this process since it was last asked for."""
    for (pool, kind), read in dataset.take_contents().items():
        rows = {name: (sha256, False) for name, sha256 in read.items()}
        _write_contents(storage, _name(dataset, pool, kind), rows)


def _write_contents(storage: Storage, files: str, rows: dict[str, tuple[str, bool]]) -> None:
    names = sorted(rows)
    columns = {"file": names, "sha256": [rows[name][0] for name in names], "told": [rows[name][1] for name in names]}
    data = _to_bytes(pa.table(columns, schema=_CONTENTS))
    # Named by what is in it: jobs that read the same files leave one.
    path = contents_path(files, hashlib.sha256(data).hexdigest())
    if not storage.exists(path):
        storage.create(path, data)


@dataclass
class InputFiles:
    """Tells files that have changed, for one plan; what it sees is kept on the storage where it may `write`."""

    storage: Storage
    write: bool
    changed: dict[str, list[str]] = field(default_factory=dict)

    def told(self, files: Files, dataset: Dataset, listed: Sequence[ImageEntry]) -> list[ImageEntry]:
        """The listed files, with the content of those that have another than was read before."""
        if not any(entry.modified for entry in listed):
            return list(listed)
        before = _read_table(self.storage, files.seen_path, _SEEN)
        now = pa.table({name: [getattr(entry, of) for entry in listed] for name, of in _NOW.items()}, schema=_AT_HAND)
        if before is not None and before.select(_AT_HAND.names).equals(now):
            contents = before.column("sha256").to_pylist()
        else:
            contents = self._look(files, dataset, listed, _rows(before))
            if self.write:
                origin = {"config": files.config.model_dump_json(), "root": files.root or ""}
                origin |= {"pool": files.pool, "kind": files.kind}
                table = now.append_column("sha256", pa.array(contents, pa.string())).replace_schema_metadata(origin)
                self.storage.replace(files.seen_path, _to_bytes(table))
        pairs = zip(listed, contents, strict=True)
        return [replace(entry, sha256=sha256) if sha256 else entry for entry, sha256 in pairs]

    def _look(
        self, files: Files, dataset: Dataset, listed: Sequence[ImageEntry], before: dict[str, tuple[int, int, str]]
    ) -> list[str]:
        """By file its content where that is not what was read before, else nothing."""
        seen = {name: sha256 for name, (_, _, sha256) in before.items()}
        unsure = [entry.id for entry in listed if before.get(entry.id, ())[:2] != (entry.size, entry.modified)]
        name = _name(dataset, files.pool, files.kind)
        read, told = _read_contents(self.storage, name)
        at_hand = _contents(dataset, files, [image for image in unsure if image in read or image in told])
        marks: dict[str, tuple[str, bool]] = {}
        for image, sha256 in at_hand.items():
            first = read[image] - told[image]
            seen[image] = "" if sha256 is None or first == {sha256} else sha256
            if seen[image] and sha256 not in told[image]:
                marks[image] = (seen[image], True)
        if marks:
            self.changed.setdefault(str(files), []).extend(marks)
            if self.write:
                _write_contents(self.storage, name, marks)
        unread = {image for image in unsure if image not in at_hand}
        return ["" if entry.id in unread else seen[entry.id] for entry in listed]


def changed_files(storage: Storage) -> Iterator[tuple[str, str]]:
    """Read the data sets of a storage again: each file that is not what was read, and what is wrong with it."""
    for file in storage.files(INPUTS, deep=True):
        if not is_seen(file.path):
            continue
        table = _read_table(storage, file.path, _SEEN)
        if table is None:
            continue
        origin = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        try:
            config = _CONFIG.validate_json(origin["config"])
            files = Files(config, origin["root"] or None, origin["pool"], origin["kind"])
            dataset = open_dataset(files.config, files.root)
        except (KeyError, ValueError) as error:
            yield file.path, f"names a data set that cannot be read here ({error})"
            continue
        read, told = _read_contents(storage, _name(dataset, files.pool, files.kind))
        seen = {image: sha256 for image, (_, _, sha256) in _rows(table).items()}
        known = {image: {sha256} if sha256 else read[image] - told[image] for image, sha256 in seen.items()}
        at_hand = _contents(dataset, files, [image for image, expected in known.items() if expected])
        for image, sha256 in at_hand.items():
            if sha256 is None:
                yield f"{files.root}: {files}: {image}", "cannot be read any more"
            elif known[image] != {sha256}:
                yield f"{files.root}: {files}: {image}", "has another content than was read"


def inputs_problem(storage: Storage, path: str) -> str | None:
    """What is wrong with a file of this module, or None."""
    if _read_table(storage, path, _SEEN if is_seen(path) else _CONTENTS) is None:
        return "cannot be read"
    if is_seen(path) or path == contents_path(path.split("/")[1], hashlib.sha256(storage.read(path)).hexdigest()):
        return None
    return "holds other contents than those it is named after"


def _contents(dataset: Dataset, files: Files, images: Sequence[str]) -> dict[str, str | None]:
    """The SHA-256 of files as they are now; None of those that cannot be read."""
    if images:
        _LOG.info("looking at the content of %d %s", len(images), files)
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda image: dataset.content(files.pool, files.kind, image), images)
        return dict(zip(images, found, strict=True))


def _read_contents(storage: Storage, files: str) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """What was ever read of each file, and which of that files are told by."""
    paths = [file.path for file in storage.files(inputs_folder(files)) if not is_seen(file.path)]
    read: dict[str, set[str]] = defaultdict(set)
    told: dict[str, set[str]] = defaultdict(set)
    for table in storage.each(lambda path: _read_table(storage, path, _CONTENTS), paths):
        for name, (sha256, is_told) in _rows(table).items():
            (told if is_told else read)[name].add(sha256)
    return read, told


def _rows(table: pa.Table | None) -> dict[str, Any]:
    """The rows of a table by their first column."""
    if table is None:
        return {}
    names, *others = (column.to_pylist() for column in table.columns)
    return dict(zip(names, zip(*others, strict=True), strict=True))


def _to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _read_table(storage: Storage, path: str, schema: pa.Schema) -> pa.Table | None:
    """A table as it was written; None where there is none, or it is damaged: it only saves work."""
    try:
        with pa.ipc.open_file(pa.BufferReader(storage.read(path))) as reader:
            table = reader.read_all()
        table.validate(full=True)
        if not table.schema.equals(schema) or any(column.null_count for column in table.columns):
            raise ValueError(f"it has the columns {table.schema.names}")
    except FileNotFoundError:
        return None
    except InputError:
        raise
    except (pa.ArrowException, ValueError) as error:
        _LOG.warning("%s is damaged (%s) and taken for absent", storage.locate(path), error)
        return None
    return table


_NOW = {"file": "id", "size": "size", "modified": "modified"}
_AT_HAND = pa.schema(list(_SEEN)[:3])
