"""The ledger: what has been done, as plain JSON beside the data.

The model: a shard is done when its record exists, a step when its manifest exists; both are written last and only if
absent, and readers follow them and nothing else. Files are written under an attempt's name, so a killed attempt leaves
only files nobody refers to. The failure this guards against: taking a half-written or abandoned file for a result.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from orchestrator.ledger.layout import STEPS, manifest_path, record_path, stem, stream_folder
from orchestrator.ledger.shards import Quarantined, ShardRecord
from orchestrator.storage.store import Storage
from workloads.errors import InputError

FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """A finished step: its meaning, what it was computed from, its shards, its results and where they come from."""

    kind: str
    key: str
    meaning: dict[str, Any]
    inputs: dict[str, str]
    shards: list[ShardRecord]
    results: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def quarantined(self) -> list[Quarantined]:
        """The images that were quarantined, over all shards."""
        return [item for shard in self.shards for item in shard.quarantined]

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(shard.size for shard in self.shards)

    def to_bytes(self) -> bytes:
        """The manifest as JSON text."""
        data = {
            "format": FORMAT,
            "kind": self.kind,
            "key": self.key,
            "meaning": self.meaning,
            "inputs": self.inputs,
            "shards": [shard.to_json() for shard in self.shards],
            "results": self.results,
            "provenance": self.provenance,
        }
        return json.dumps(data, indent=1).encode()

    @staticmethod
    def from_bytes(data: bytes) -> "Manifest":
        """The manifest that `to_bytes` wrote.

        Raises:
            ValueError: the bytes are not a manifest, or one of another version.
        """
        document = _mapping(data)
        if document.pop("format", None) != FORMAT:
            raise ValueError("the manifest was written by another version of lookbeyond")
        try:
            shards = [ShardRecord.from_json(record) for record in document.pop("shards")]
            return Manifest(**document, shards=shards)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a manifest: {error}") from None


@dataclass(frozen=True)
class Ledger:
    """Reads and commits shard records and manifests on a storage."""

    storage: Storage

    def manifest(self, kind: str, key: str) -> Manifest | None:
        """The manifest of a finished step, or None.

        Raises:
            InputError: the file is damaged.
        """
        path = manifest_path(kind, key)
        try:
            return Manifest.from_bytes(self.storage.read(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise self._damaged(path, error) from None

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
        for file in self.storage.files(STEPS, deep=True):
            if not file.path.endswith(".json"):
                continue
            try:
                yield Manifest.from_bytes(self.storage.read(file.path))
            except ValueError as error:
                raise self._damaged(file.path, error) from None

    def forget(self, kind: str, key: str) -> None:
        """Remove a step's manifest, so that the step runs again; its shards are left to `forget_shard`."""
        self.storage.delete(manifest_path(kind, key))

    def shard(self, stream: str, digest: str) -> ShardRecord | None:
        """The record of a finished shard, or None.

        Raises:
            InputError: the file is damaged.
        """
        path = record_path(stream, digest)
        try:
            return read_record(self.storage.read(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise self._damaged(path, error) from None

    def finished_shards(self, stream: str) -> set[str]:
        """The names of the shards of a stream that have a record, from one listing."""
        return {stem(file.path) for file in self.storage.files(stream_folder(stream)) if file.path.endswith(".json")}

    def commit_shard(self, stream: str, digest: str, record: ShardRecord) -> ShardRecord:
        """Declare a shard finished. When another attempt was first, its record stands and is returned."""
        data = json.dumps(record.to_json()).encode()
        if self.storage.create(record_path(stream, digest), data):
            return record
        self.storage.delete(record.path)
        standing = self.shard(stream, digest)
        assert standing is not None, "a shard's record is never removed while steps run"
        return standing

    def forget_shard(self, stream: str, digest: str) -> None:
        """Remove a shard's record, so that the shard is computed again."""
        self.storage.delete(record_path(stream, digest))

    def _damaged(self, path: str, error: ValueError) -> InputError:
        return InputError(
            f"{self.storage.locate(path)} is damaged ({error}); `lookbeyond verify {self.storage.uri} --repair` "
            "forgets it, so that `run` makes it again"
        )


def read_record(data: bytes) -> ShardRecord:
    """The record of a shard from the bytes of its file.

    Raises:
        ValueError: the bytes are not a record.
    """
    try:
        return ShardRecord.from_json(_mapping(data))
    except (KeyError, TypeError) as error:
        raise ValueError(f"not the record of a shard: {error}") from None


def _mapping(data: bytes) -> dict[str, Any]:
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError(f"a mapping is expected, got {type(document).__name__}")
    return document
