"""A storage on a path: whole files, durable once they are there, and one winner among several creators.

The model: a file is written under a hidden name in the folder it is for, flushed to the disk, and then renamed
(`replace`) or linked (`create`) to its name, which the file system does wholly or not at all; the folder is flushed,
too, so that a power cut takes neither the content nor the name. `write_nondurable` leaves out the flushing. A file
system without hard links decides between creators by a lock, which the system takes back when its holder dies. The
failure this guards against: an empty or half-written file of the right name after a kill or a power cut.
"""

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from orchestrator.storage.files import Change, Content, Fetching, FileFacts
from workloads.own_output import MARK

_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_LOCK = ".create.lock"


class Folder:
    """The files below a folder. Paths are relative to it and use forward slashes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def is_there(self) -> bool:
        """Whether there is such a folder."""
        return self.root.is_dir()

    def exists(self, path: str) -> bool:
        """Whether there is a file at the path."""
        return self._at(path).is_file()

    def read(self, path: str) -> bytes:
        """The whole file."""
        return self._at(path).read_bytes()

    def open(self, path: str, fetching: Fetching) -> pa.NativeFile:
        """The file, mapped into memory."""
        return pa.memory_map(str(self._at(path)))

    def replace(self, path: str, data: Content) -> None:
        """Write the file whole, in place of what may be there; durable."""
        self._replace(path, data, durable=True)

    def write_nondurable(self, path: str, data: Content) -> None:
        """Write the file whole, in place of what may be there; it may not survive a power cut."""
        self._replace(path, data, durable=False)

    def create(self, path: str, data: Content) -> bool:
        """Write the file whole if there is none; durable. True when this call made it."""
        target = self._at(path)
        temporary = _write_temporary(target, data, durable=True)
        try:
            made = self._link(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        if made:
            _flush_folder(target.parent)
        return made

    def update(self, path: str, change: Change) -> bool:
        """Write what `change` makes of the file, unless there is none; not durable.

        It is written in place: where another process has removed the file in between, or made a new one of its name,
        the one that nobody sees any more is written.
        """
        try:
            stream = self._at(path).open("r+b", buffering=0)
        except FileNotFoundError:
            return False
        with stream:
            changed = change(stream.read())
            if changed is None:
                return False
            stream.seek(0)
            stream.write(changed)
            stream.truncate()
        return True

    def delete(self, path: str) -> None:
        """Remove the file if it is there."""
        self._at(path).unlink(missing_ok=True)

    def files(self, directory: str, *, deep: bool) -> Iterator[FileFacts]:
        """The files of a directory, or of the whole tree below it; none where it does not exist."""
        for folder, inner, names in os.walk(self._at(directory), onerror=_unless_it_went_away):
            for name in set(names) - {_LOCK, MARK}:
                place = Path(folder, name)
                try:
                    facts = place.stat()
                except FileNotFoundError:
                    # Removed since the listing.
                    continue
                yield FileFacts(place.relative_to(self.root).as_posix(), facts.st_size, facts.st_mtime)
            if not deep:
                inner.clear()

    def _at(self, path: str) -> Path:
        return self.root / path

    def _replace(self, path: str, data: Content, *, durable: bool) -> None:
        target = self._at(path)
        temporary = _write_temporary(target, data, durable=durable)
        try:
            temporary.replace(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            _flush_folder(target.parent)

    def _link(self, temporary: Path, target: Path) -> bool:
        try:
            os.link(temporary, target)
        except FileExistsError:
            # A network file system that had to ask twice calls its own first success an existing file.
            return temporary.stat().st_nlink > 1
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            return self._rename_under_lock(temporary, target)
        return True

    def _rename_under_lock(self, temporary: Path, target: Path) -> bool:
        with (self.root / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.exists():
                return False
            temporary.replace(target)
            return True


def _write_temporary(target: Path, data: Content, *, durable: bool) -> Path:
    _make_folder(target.parent)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _make_folder(folder: Path) -> None:
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        _flush_folder(new.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems keep names safe by themselves and refuse to be asked.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def _unless_it_went_away(error: OSError) -> None:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return None
    raise error
