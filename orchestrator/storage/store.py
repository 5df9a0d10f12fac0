"""Files on a path, s3:// or gs://, and the ways of writing that the ledger stands on.

The model: `replace` makes a file appear whole or not at all; `create` does so only where there is none yet and says who
won; nothing else writes, and a reader sees a whole file or none. This holds on all storages: on a path the file system
decides between two creators (a link, or a lock where there are no links), on s3:// and gs:// the service does (a
conditional request). What is written survives a power cut, `write_nondurable` excepted. A call that meets a storage
that is slow, failing or away is repeated for two minutes, which every call here can be: a `create` whose answer was
lost knows its own content again. The failure this guards against: a half-written file taken for a whole one after a
kill, and a run lost to a storage that was away for a moment.
"""

import errno
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pyarrow as pa

from orchestrator.storage import faults
from orchestrator.storage.buckets import Bucket
from orchestrator.storage.files import Change, Content, FileFacts, Files
from orchestrator.storage.folders import Folder
from workloads.errors import InputError
from workloads.own_output import is_unused, mark
from workloads.places import expanded
from workloads.storage_retries import StorageUnavailableError, retry

__all__ = ["FileFacts", "Storage", "StorageFullError", "StorageUnavailableError"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")

# Requests of a bucket take tens of milliseconds each, whatever is asked for.
_AT_ONCE = 32

_SCHEMES = ("s3", "gs")
# What is meant for a URI, whatever stands behind it.
_MEANT = (*_SCHEMES, "file", "s3a", "s3n", "gcs", "az", "abfs", "hdfs", "http", "https")


class StorageFullError(InputError):
    """The storage has no room left; what was being written is not visible to any reader."""


class Storage:
    """A tree of files. Paths given to it are relative to its root and use forward slashes."""

    def __init__(self, uri: str) -> None:
        """Nothing is written or made yet.

        Raises:
            InputError: the URI is empty, of a kind that is not known, holds credentials, or names a file.
        """
        if not uri:
            raise InputError("storage '' is empty; give a path, s3:// or gs://")
        scheme, found, rest = _parts(uri)
        self._files: Files
        if found and scheme in _SCHEMES:
            bucket = Bucket(f"{scheme}://{rest}")
            self.uri, self._files, self.is_local = bucket.uri, bucket, False
            return
        if found and scheme != "file":
            raise InputError(f"storage {_without_credentials(uri)!r} cannot be used; allowed: a path, s3:// or gs://")
        folder = expanded(rest if found else uri, "storage").absolute()
        if folder.is_file():
            raise InputError(f"storage {folder} is a file; give a folder, s3:// or gs://")
        self.uri, self._files, self.is_local = str(folder), Folder(folder), True

    def __reduce__(self) -> tuple[type["Storage"], tuple[str]]:
        return Storage, (self.uri,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and self.uri == other.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    def locate(self, path: str) -> str:
        """The path as a person would open it."""
        return f"{self.uri}/{path}"

    def check_writable(self) -> None:
        """Write and remove a small file, so that a read-only storage is refused before any work is done; a new folder
        is marked, so that none of its pictures is ever taken for an image.

        Raises:
            InputError: the storage cannot be written.
        """
        probe = f".write-probe-{secrets.token_hex(4)}"
        try:
            self.write_nondurable(probe, b"probe")
            self.delete(probe)
            if self.is_local and is_unused(Path(self.uri)):
                mark(Path(self.uri), "a storage")
        except OSError as error:
            raise InputError(
                f"storage {self.uri} cannot be written ({error.strerror or error}); give a writable one with --storage"
            ) from None

    def require_folder(self) -> None:
        """Refuse a storage that is not there: a misspelt path must not pass for an empty, faultless storage.

        Raises:
            InputError: there is no such folder.
        """
        if not self._reading("", self._files.is_there):
            raise InputError(f"storage {self.uri} does not exist; give the folder that a run has written to")

    def exists(self, path: str) -> bool:
        """Whether there is a file at the path."""
        return self._reading(path, lambda: self._files.exists(path))

    def read(self, path: str) -> bytes:
        """The whole file.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._reading(path, lambda: self._files.read(path))

    def find(self, path: str) -> bytes | None:
        """The whole file; None where there is none."""
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def open(self, path: str) -> pa.NativeFile:
        """A random-access file for reading: mapped into memory on a path, fetched as it is read elsewhere."""
        return self._reading(path, lambda: self._files.open(path, lambda fetch: self._reading(path, fetch)))

    def replace(self, path: str, data: Content) -> None:
        """Write the file whole, in place of what may be there; it survives a power cut.

        Raises:
            StorageFullError: no room is left.
        """
        self._writing(path, data, lambda: self._files.replace(path, data))

    def write_nondurable(self, path: str, data: Content) -> None:
        """Write the file whole, in place of what may be there, for whoever looks at it now: cheaper, as it may be lost
        in a power cut.

        Raises:
            StorageFullError: no room is left.
        """
        self._writing(path, data, lambda: self._files.write_nondurable(path, data))

    def create(self, path: str, data: bytes) -> bool:
        """Write the file whole if there is none. True when what stands there now is what this call was to write.

        Two writers of one content are both told True; whoever must know the winner writes something of their own.

        Raises:
            StorageFullError: no room is left.
        """
        while not self._writing(path, data, lambda: self._files.create(path, data)):
            try:
                # The answer to an earlier try may have been lost on its way.
                return self.read(path) == data
            except FileNotFoundError:
                # Removed meanwhile, or another creation is under way that may yet fail.
                continue
        return True

    def update(self, path: str, change: Change) -> bool:
        """Write what `change` makes of a file, unless somebody else removes or rewrites it in between; not durable.

        False when there is no file, or `change` leaves it alone. It may be called more than once.
        """
        return self._writing(path, b"", lambda: self._files.update(path, change))

    def delete(self, path: str) -> None:
        """Remove the file if it is there."""
        self._writing(path, b"", lambda: self._files.delete(path))

    def files(self, directory: str, *, deep: bool = False) -> Iterator[FileFacts]:
        """The files below a directory (none when it does not exist), sorted by path."""
        found = self._reading(directory, lambda: list(self._files.files(directory, deep=deep)))
        yield from sorted(found, key=lambda facts: facts.path)

    def each(self, call: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
        """The answers of a call of this storage for each item, in their order; many wait for the storage at once."""
        with ThreadPoolExecutor(_AT_ONCE, "storage") as pool:
            yield from pool.map(call, items)

    def _reading(self, path: str, call: Callable[[], Answer]) -> Answer:
        def once() -> Answer:
            faults.storage_fault(("storage.slow", "storage.read"), path)
            return call()

        return retry(once, f"reading {self.locate(path)}")

    def _writing(self, path: str, data: Content, call: Callable[[], Answer]) -> Answer:
        def once() -> Answer:
            faults.storage_fault(("storage.slow", "storage.write", "storage.full"), path)
            return call()

        try:
            return retry(once, f"writing {self.locate(path)}")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFullError(f"storage {self.uri} is full: no room for {len(data)} bytes of {path}") from None
            raise


def _parts(uri: str) -> tuple[str, str, str]:
    """Scheme, ``://`` and the rest of a URI; of a path two empty words and the path.

    Raises:
        InputError: it is neither, but was meant to be the one: ``s3:/bucket`` would be a folder called ``s3:``.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme.lower() not in _MEANT:
        return uri.partition("://") if "://" in uri else ("", "", uri)
    scheme, plain = scheme.lower(), rest.lstrip("/")
    if scheme == "file" and not rest.startswith("///"):
        raise InputError(f"storage {uri!r} is no URI; give file:///{plain}, or a path")
    if not rest.startswith("//"):
        shown = _without_credentials(uri)
        raise InputError(f"storage {shown!r} is no URI; give {scheme}://{plain}, or ./{shown} for a folder")
    return scheme, "://", rest[2:]


def _without_credentials(uri: str) -> str:
    netloc = urlsplit(uri).netloc
    return uri.replace(netloc, netloc.rpartition("@")[2]) if "@" in netloc else uri
