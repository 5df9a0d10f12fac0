"""Places in buckets, with as much of `pathlib.Path` as data sets use, so that they read s3:// and gs:// as folders.

What is in a directory is asked for once and kept for as long as the tree that its places share, which is as long as a
data set is open: a bucket answers about a thousand objects as fast as about one.
"""

import fnmatch
import io
import posixpath
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, TypeAlias, cast

from workloads.buckets import SCHEMES, BucketReader, ObjectFacts, Ranges
from workloads.errors import InputError
from workloads.places import expanded
from workloads.storage_retries import retry


class ObjectStat(NamedTuple):
    """Of an object what `os.stat_result` says of a file: bytes, and when it was written in nanoseconds of Unix time."""

    st_size: int
    st_mtime_ns: int


class _Tree:
    """A bucket, and what its directories were found to hold."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.reader = BucketReader(uri)
        self._folders: dict[str, tuple[dict[str, ObjectFacts], set[str]]] = {}
        self._lock = threading.Lock()

    def folder(self, path: str) -> tuple[dict[str, ObjectFacts], set[str]]:
        """The objects of a directory by name, and the names of the directories in it."""
        with self._lock:
            if path not in self._folders:
                objects, folders = retry(lambda: self.reader.folder(path), f"listing {self.uri}/{path}")
                self._folders[path] = (
                    {posixpath.basename(one.path): one for one in objects},
                    {posixpath.basename(one.rstrip("/")) for one in folders},
                )
            return self._folders[path]


class BucketPath:
    """An object of a bucket, or a directory of them; methods are those of `pathlib.Path`."""

    def __init__(self, tree: _Tree, inside: PurePosixPath) -> None:
        self._tree = tree
        self._inside = inside

    @staticmethod
    def of(uri: str) -> "BucketPath":
        """The place of a URI.

        Raises
        ------
        InputError
            It names no bucket, or holds credentials.
        """
        scheme, _, rest = uri.partition("://")
        bucket, _, path = rest.partition("/")
        return BucketPath(_Tree(f"{scheme.lower()}://{bucket}"), PurePosixPath()) / path

    def __str__(self) -> str:
        return f"{self._tree.uri}/{self._key}".rstrip("/")

    def __repr__(self) -> str:
        return f"BucketPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: "BucketPath") -> bool:
        return str(self) < str(other)

    def __truediv__(self, other: str | PurePosixPath) -> "BucketPath":
        joined = posixpath.normpath(self._inside / str(other).lstrip("/"))
        if joined.startswith(".."):
            raise InputError(f"{self}/{other} leads out of its bucket")
        return BucketPath(self._tree, PurePosixPath(joined))

    @property
    def name(self) -> str:
        """The last part."""
        return self._inside.name

    @property
    def suffix(self) -> str:
        """What follows the last dot of the name, with the dot."""
        return self._inside.suffix

    @property
    def parent(self) -> "BucketPath":
        """The directory that it is in."""
        return BucketPath(self._tree, self._inside.parent)

    @property
    def bucket(self) -> "BucketPath":
        """The bucket itself, whose places know what was asked for already."""
        return BucketPath(self._tree, PurePosixPath())

    def is_file(self) -> bool:
        """Whether there is an object."""
        return self.name in self._tree.folder(self.parent._key)[0]

    def is_dir(self) -> bool:
        """Whether objects lie below."""
        return any(self._tree.folder(self._key))

    def exists(self) -> bool:
        """Whether there is an object, or some below."""
        return self.is_file() or self.name in self._tree.folder(self.parent._key)[1]

    def is_symlink(self) -> bool:
        """Never."""
        return False

    def stat(self) -> ObjectStat:
        """Size and time of the object."""
        try:
            found = self._tree.folder(self.parent._key)[0][self.name]
        except KeyError:
            raise FileNotFoundError(f"there is no object {self}") from None
        return ObjectStat(found.size, int(found.modified * 1e9))

    def read_bytes(self) -> bytes:
        """The whole object."""
        return retry(lambda: self._tree.reader.read(self._key), f"reading {self}")

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole object as text."""
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "rb") -> BinaryIO:
        """The object, fetched as it is read."""
        assert mode == "rb"

        def fetch(start: int, end: int) -> bytes:
            return retry(lambda: self._tree.reader.read_range(self._key, start, end), f"reading {self}")

        return cast("BinaryIO", io.BufferedReader(Ranges(fetch, self.stat().st_size)))

    def iterdir(self) -> Iterator["BucketPath"]:
        """What is in the directory."""
        files, folders = self._tree.folder(self._key)
        return (self / name for name in sorted({*files, *folders}))

    def walk_files(self) -> list[tuple[PurePosixPath, ObjectStat]]:
        """Every object below by its path below, with its size and time; placeholders of directories are none."""
        found = retry(lambda: list(self._tree.reader.objects(self._key, deep=True)), f"listing {self}")
        below = ((PurePosixPath(one.path).relative_to(self._inside), one) for one in found)
        return [(path, ObjectStat(one.size, int(one.modified * 1e9))) for path, one in below if path.parts]

    @property
    def _key(self) -> str:
        return "" if self._inside == PurePosixPath() else str(self._inside)


AnyPath: TypeAlias = Path | BucketPath


def is_uri(place: str) -> bool:
    """Whether a place is in a bucket."""
    return place.partition("://")[0].lower() in SCHEMES and "://" in place


def any_path(place: str, key: str) -> AnyPath:
    """A place as it is written in an experiment file: in a bucket, or on this machine with ``~`` filled in.

    Raises
    ------
    InputError
        It is meant for a URI and is none that is read.
    """
    if is_uri(place):
        return BucketPath.of(place)
    scheme, found, rest = place.partition("://")
    if (found and scheme.lower() != "file") or place.lower().startswith(tuple(f"{name}:" for name in SCHEMES)):
        raise InputError(f"{place!r} cannot be read", key=key, value=place, allowed="allowed: a path, s3:// or gs://")
    return expanded(rest if found else place, key)


def absolute(place: str, key: str) -> str:
    """The place for a process that may run in another folder."""
    return place if is_uri(place) else str(cast("Path", any_path(place, key)).absolute())


def matches(path: PurePosixPath, pattern: str) -> bool:
    """Whether a glob finds the path: as `pathlib.Path.glob`, ``**`` is any number of directories."""
    return _match(path.parts, PurePosixPath(pattern).parts)


def _match(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _match(parts, pattern[1:]) or (bool(parts) and _match(parts[1:], pattern))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _match(parts[1:], pattern[1:])
