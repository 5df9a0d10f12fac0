"""Files on a path, s3:// or gs://, and the two ways of writing that the ledger stands on.

The model: `replace` makes a file appear whole or not at all; `create` does so only where there is none yet and says who
won. Nothing else writes. The failure this guards against: a half-written file taken for a whole one after a kill.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from workloads.errors import InputError

_LISTING_ATTEMPTS = 10


class StorageFullError(InputError):
    """The storage has no room left; what was being written is not visible to any reader."""


@dataclass(frozen=True)
class FileFacts:
    """A file of the storage: its path relative to the root, its size in bytes and its age's origin."""

    path: str
    size: int
    modified: float


class Storage:
    """A tree of files. Paths given to it are relative to its root and use forward slashes."""

    def __init__(self, uri: str) -> None:
        """Nothing is written or made yet.

        Raises:
            InputError: the URI is empty, of a kind that is not known, or a file.
        """
        if not uri:
            raise InputError("storage '' is empty; give a path, s3:// or gs://")
        if "://" in uri:
            self.uri = uri
            try:
                self._filesystem, self._root = fs.FileSystem.from_uri(uri)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise InputError(f"storage {uri!r} cannot be used ({error}); allowed: a path, s3:// or gs://") from None
        else:
            self.uri = str(Path(uri).expanduser().absolute())
            self._filesystem, self._root = fs.LocalFileSystem(), self.uri
        self.is_local = isinstance(self._filesystem, fs.LocalFileSystem)
        if self.is_local and self._filesystem.get_file_info(str(self._root)).type == fs.FileType.File:
            raise InputError(f"storage {self.uri} is a file; give a folder, s3:// or gs://")

    def __reduce__(self) -> tuple[type["Storage"], tuple[str]]:
        return Storage, (self.uri,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and (self._root, self.uri) == (other._root, other.uri)

    def __hash__(self) -> int:
        return hash((self._root, self.uri))

    def locate(self, path: str) -> str:
        """The path as a person would open it."""
        return f"{self._root}/{path}" if self.is_local else f"{self.uri.rstrip('/')}/{path}"

    def check_writable(self) -> None:
        """Write and remove a small file, so that a read-only storage is refused before any work is done.

        Raises:
            InputError: the storage cannot be written.
        """
        probe = f".write-probe-{secrets.token_hex(4)}"
        try:
            self.replace(probe, b"probe")
            self.delete(probe)
        except StorageFullError:
            raise
        except OSError as error:
            raise InputError(
                f"storage {self.uri} cannot be written ({error.strerror or error}); give a writable one with --storage"
            ) from None

    def require_folder(self) -> None:
        """Refuse a storage that is not there: a misspelt path must not pass for an empty, faultless storage.

        Raises:
            InputError: there is no such folder.
        """
        if self._filesystem.get_file_info(str(self._root)).type != fs.FileType.Directory:
            raise InputError(f"storage {self.uri} does not exist; give the folder that a run has written to")

    def exists(self, path: str) -> bool:
        """Whether there is a file at the path."""
        return self._filesystem.get_file_info(self._at(path)).type == fs.FileType.File

    def read(self, path: str) -> bytes:
        """The whole file.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._filesystem.open_input_stream(self._at(path)) as stream:
            return stream.read()

    def open(self, path: str) -> pa.NativeFile:
        """A random-access file for reading, memory-mapped where the storage is a local path."""
        if self.is_local:
            return pa.memory_map(self._at(path))
        return self._filesystem.open_input_file(self._at(path))

    def replace(self, path: str, data: bytes | pa.Buffer) -> None:
        """Write the file whole, in place of what may be there.

        Raises:
            StorageFullError: no room is left.
        """
        if not self.is_local:
            with self._filesystem.open_output_stream(self._at(path)) as stream:
                stream.write(data)
            return
        temporary = self._write_temporary(path, data)
        Path(temporary).replace(self._at(path))

    def create(self, path: str, data: bytes) -> bool:
        """Write the file whole if there is none. True when this call made it.

        On a local path the file system decides between two writers. An object store has no such call in pyarrow;
        there the last of two writers within one round trip wins, which is harmless because both write what equal work
        produced.
        """
        if not self.is_local:
            if self.exists(path):
                return False
            self.replace(path, data)
            return True
        temporary = self._write_temporary(path, data)
        try:
            os.link(temporary, self._at(path))
        except FileExistsError:
            return False
        finally:
            Path(temporary).unlink(missing_ok=True)
        return True

    def delete(self, path: str) -> None:
        """Remove the file if it is there."""
        try:
            self._filesystem.delete_file(self._at(path))
        except FileNotFoundError:
            return

    def files(self, directory: str, *, deep: bool = False) -> Iterator[FileFacts]:
        """The files below a directory (none when it does not exist), sorted by path."""
        selector = fs.FileSelector(self._at(directory), allow_not_found=True, recursive=deep)
        found = [info for info in self._list(selector) if info.type == fs.FileType.File]
        prefix = len(str(self._root)) + 1
        for info in sorted(found, key=lambda info: info.path):
            modified = info.mtime_ns / 1e9 if info.mtime_ns is not None else 0.0
            yield FileFacts(info.path[prefix:], info.size, modified)

    def _list(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        for _ in range(_LISTING_ATTEMPTS):
            try:
                return self._filesystem.get_file_info(selector)
            except FileNotFoundError:
                # pyarrow looks twice; a folder that another process makes in between is an error to it.
                continue
        return self._filesystem.get_file_info(selector)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else str(self._root)

    def _write_temporary(self, path: str, data: bytes | pa.Buffer) -> str:
        target = Path(self._at(path))
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFullError(f"storage {self.uri} is full: no room for {len(data)} bytes of {path}") from None
            raise
        return str(temporary)
