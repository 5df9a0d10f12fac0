"""The ledger: what has been done, as plain JSON beside the data.

The model: a shard is done when its record exists, a step when its manifest exists; both are written last and only if
absent, and readers follow them and nothing else. Files are written under an attempt's name, so a killed attempt leaves
only files nobody refers to. The failure this guards against: taking a half-written or abandoned file for a result.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, TypeAdapter

from orchestrator.ledger.documents import damaged, read_document, write_document
from orchestrator.ledger.layout import STEPS, is_attempt_at, manifest_path, record_path, stem, stream_folder
from orchestrator.ledger.shards import RECORD, Quarantined, ShardRecord
from orchestrator.storage.store import Storage
from workloads.errors import InputError

Read = TypeVar("Read")


class _Images(BaseModel):
    pool: str
    requested: int | None
    available: int
    used: int


class _Provenance(BaseModel):
    images: _Images | None = None
    started: float = 0.0
    wall_seconds: float = 0.0
    work_seconds: float = 0.0
    host: str = ""
    device: str = ""
    versions: dict[str, str] = {}


def _provenance(given: dict[str, Any]) -> dict[str, Any]:
    _Provenance.model_validate(given, strict=True)
    return given


class OutdatedError(Exception):
    """What a step is computed from was made anew since, and came out otherwise."""


@dataclass(frozen=True)
class Manifest:
    """A finished step: its meaning, what it was computed from, what it made and where that comes from.

    By role, `inputs` are the keys of the steps it was computed from, `made_of` what these had made (see `content`).
    Shards are in the order of the images; other files have names. All that is read here may have been written by
    somebody else.
    """

    kind: str
    key: str
    meaning: dict[str, Any]
    inputs: dict[str, str]
    shards: list[ShardRecord]
    results: dict[str, Any] = field(default_factory=dict)
    provenance: Annotated[dict[str, Any], AfterValidator(_provenance)] = field(default_factory=dict)
    files: dict[str, ShardRecord] = field(default_factory=dict)
    made_of: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """What tells all that the step made from what it may have made: two trainings may end in different networks.

        Of shards it is what they were made by, where that is known: one that the same network has mended is no other.
        """
        made_by = sorted({record.origin for record in self.shards if record.origin})
        shards = made_by or [record.sha256 for record in self.shards]
        files = [record.sha256 for record in self.files.values()]
        return hashlib.sha256("".join([*shards, *files]).encode()).hexdigest()

    @property
    def records(self) -> list[ShardRecord]:
        """All files of the step: its shards, and those that have a name."""
        return [*self.shards, *self.files.values()]

    @property
    def quarantined(self) -> list[Quarantined]:
        """The images that were quarantined, over all files."""
        return [item for record in self.records for item in record.quarantined]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(record.size for record in self.records)

    def file(self, name: str) -> ShardRecord:
        """The file of a name, such as the network of a training.

        Raises:
            InputError: the step has no such file, so that its manifest is not one that a run has written.
        """
        if name not in self.files:
            there = ", ".join(self.files) or "none"
            raise InputError(f"{manifest_path(self.kind, self.key)} names no file {name!r}; it names: {there}")
        return self.files[name]

    def to_bytes(self) -> bytes:
        """The manifest as JSON text."""
        return write_document(asdict(self))


_MANIFEST = TypeAdapter(Manifest)


def read_manifest(path: str, data: bytes) -> Manifest:
    """The manifest of a file of the given path and content.

    Raises:
        ValueError: the content is not a manifest, or one of another step.
    """
    manifest = read_document(data, _MANIFEST)
    if manifest_path(manifest.kind, manifest.key) != path:
        raise ValueError(f"it is the manifest of {manifest.kind} {manifest.key[:12]}")
    return manifest


def read_record(path: str, data: bytes) -> ShardRecord:
    """The record of a shard in a file of the given path and content.

    Raises:
        ValueError: the content is not a record, or one of another shard.
    """
    record = read_document(data, RECORD)
    if not is_attempt_at(path, record.path):
        raise ValueError(f"it is the record of {record.path}")
    return record


@dataclass(frozen=True)
class Ledger:
    """Reads and commits shard records and manifests on a storage."""

    storage: Storage

    def manifest(self, kind: str, key: str) -> Manifest | None:
        """The manifest of a finished step, or None.

        Raises:
            InputError: the file is damaged.
        """
        return self._read(manifest_path(kind, key), read_manifest)

    def finished(self, kind: str, key: str) -> Manifest:
        """The manifest of a step that others wait for, and that is done when they are."""
        manifest = self.manifest(kind, key)
        assert manifest is not None, f"what needs a {kind} step waits for it"
        return manifest

    def commit(self, manifest: Manifest) -> Manifest:
        """Declare a step finished. When another run was first, its manifest stands and is returned."""
        if self.storage.create(manifest_path(manifest.kind, manifest.key), manifest.to_bytes()):
            return manifest
        standing = self.manifest(manifest.kind, manifest.key)
        assert standing is not None, "a manifest is never removed while steps run"
        return standing

    def manifests(self) -> Iterator[Manifest]:
        """All finished steps.

        Raises:
            InputError: a file is damaged.
        """
        paths = [file.path for file in self.storage.files(STEPS, deep=True) if file.path.endswith(".json")]
        found = self.storage.each(lambda path: self._read(path, read_manifest), paths)
        yield from (manifest for manifest in found if manifest is not None)

    def manifests_of(self, steps: Iterable[tuple[str, str]]) -> dict[str, Manifest]:
        """The manifests of those of the steps (kind and key) that are finished, by key.

        Raises:
            InputError: a file is damaged.
        """
        found = self.storage.each(lambda step: self.manifest(*step), steps)
        return {manifest.key: manifest for manifest in found if manifest is not None}

    def forget(self, kind: str, key: str) -> None:
        """Remove a step's manifest, so that the step runs again; its shards are left to `forget_shard`."""
        self.storage.delete(manifest_path(kind, key))

    def shard(self, stream: str, digest: str, origin: str | None = None) -> ShardRecord | None:
        """The record of a finished shard, or None; also where it was made by something else than `origin`.

        Raises:
            InputError: the file is damaged.
        """
        record = self._read(record_path(stream, digest), read_record)
        return record if record is None or origin in (None, record.origin) else None

    def shards(self, stream: str, digests: Iterable[str]) -> dict[str, ShardRecord]:
        """The records of those of the shards that are finished, by digest.

        Raises:
            InputError: a file is damaged.
        """
        digests = list(digests)
        found = self.storage.each(lambda one: self.shard(stream, one), digests)
        return {one: record for one, record in zip(digests, found, strict=True) if record is not None}

    def finished_shards(self, stream: str) -> set[str]:
        """The names of the shards of a stream that have a record, from one listing."""
        return {stem(file.path) for file in self.storage.files(stream_folder(stream)) if file.path.endswith(".json")}

    def commit_shard(self, stream: str, digest: str, record: ShardRecord) -> ShardRecord:
        """Declare a shard finished. When another attempt was first, its record stands and is returned.

        One that was made by something else is replaced.
        """
        path, data = record_path(stream, digest), write_document(asdict(record))
        if self.storage.create(path, data):
            return record
        standing = self.shard(stream, digest)
        assert standing is not None, "a shard's record is never removed while steps run"
        if standing.origin != record.origin:
            self.storage.replace(path, data)
            return record
        self.storage.delete(record.path)
        return standing

    def forget_shard(self, stream: str, digest: str) -> None:
        """Remove a shard's record, so that the shard is computed again."""
        self.storage.delete(record_path(stream, digest))

    def _read(self, path: str, read: Callable[[str, bytes], Read]) -> Read | None:
        data = self.storage.find(path)
        try:
            return None if data is None else read(path, data)
        except ValueError as error:
            raise damaged(self.storage, path, error) from None
