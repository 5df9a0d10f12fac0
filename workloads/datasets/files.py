"""Data sets that are files in folders: listing them, reading one image, reading its label file.

The model: a subclass says where a pool's images and labels lie and how label values map to classes;
everything that can go wrong with files is handled here, once. Listing uses one scan of each folder and no
second stat. The failure this guards against: a folder that is not mounted on one machine taken for ten
thousand broken images.
"""

import errno
import hashlib
import os
import stat
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from workloads.bucket_paths import AnyPath, BucketPath, ObjectStat, matches
from workloads.datasets.base import Dataset, FileKind, ImageEntry, Picture, UInt8Array, check_root, map_values
from workloads.datasets.decode import IMAGE_SUFFIXES, decode_labels, decode_picture, label_doubts, picture_size
from workloads.datasets.depth import SixteenBit
from workloads.errors import BrokenImageError, InputError
from workloads.formats import counted
from workloads.own_output import MARK, read_mark

# What a file has for good; any other error of the system may pass, and is for whoever tries again.
_UNREADABLE = (errno.EACCES, errno.EPERM, errno.ENODEV, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

# What lies beside pictures and is taken for none by anyone.
_NO_PICTURES = (".txt", ".md", ".json", ".yaml", ".yml", ".xml", ".csv", ".html", ".py", ".log", ".pdf", ".zip")


# Names that a message shows of a folder.
_LISTED = 3


class FileFacts(NamedTuple):
    """Bytes of a file, and when it was last changed in nanoseconds of Unix time."""

    size: int
    modified: int

    @staticmethod
    def of(found: os.stat_result | ObjectStat) -> "FileFacts":
        """What the system says of the file."""
        return FileFacts(found.st_size, found.st_mtime_ns)


class FileDataset(Dataset):
    """Images and label files below one root folder, on this machine or in a bucket.

    Attributes:
        sixteen_bit: how images of more than 8 bits become 8 bits.
        of_missing_labels: what to do about an image without its label file, after a message that says so.

    Raises:
        InputError: ``root`` is not a folder.
    """

    sixteen_bit: SixteenBit = None
    of_missing_labels = ""

    def __init__(self, root: AnyPath) -> None:
        check_root(root)
        self.root = root
        self._contents: dict[tuple[str, FileKind], dict[str, str]] = {}

    @abstractmethod
    def image_folder(self, pool: str) -> AnyPath:
        """The folder that holds the pool's images, for messages."""

    @abstractmethod
    def scan(self, pool: str) -> Iterator[ImageEntry]:
        """The pool's images in any order."""

    @abstractmethod
    def image_path(self, pool: str, image_id: str) -> AnyPath:
        """The file of one image."""

    def label_path(self, pool: str, image_id: str) -> AnyPath:
        """The label file of one image; called for labelled pools only."""
        raise AssertionError(f"{self.name} has no label files in pool {pool}")

    def label_values(self, path: AnyPath) -> npt.NDArray[np.int16]:
        """The lookup table int16 (65536,) for one label file."""
        raise AssertionError(f"{self.name} has no label files")

    def entries(self, pool: str) -> list[ImageEntry]:
        """See :meth:`Dataset.entries`."""
        check_root(self.root)
        self.require_pool(pool)
        entries = sorted(self.scan(pool), key=lambda entry: entry.id)
        if not entries:
            folder = self.image_folder(pool)
            looked = f"looked for images in {folder}" + (
                "" if folder.is_dir() else f", which is not there; {present(folder)}"
            )
            passed_over = "; ".join((looked, *self.passed_over(pool)))
            raise InputError(f"{self.name} pool {pool!r} is empty; {passed_over}", key="pool", value=pool)
        for before, after in pairwise(entries):
            if before.id == after.id:
                raise InputError(f"{self.image_folder(pool)}: two files give the same image id {after.id!r}")
        return entries

    def passed_over(self, pool: str) -> list[str]:
        """See :meth:`Dataset.passed_over`; hidden files, text and tables are nothing to speak of."""
        names = (path.name for path, _ in scan_tree(self.image_folder(pool), ("",)))
        ends = Counter(_end(name) for name in names if not name.lower().endswith((*IMAGE_SUFFIXES, *_NO_PICTURES)))
        if not ends:
            return []
        shown = ", ".join(f"{count} {end}" for end, count in ends.most_common(5)) + (", ..." if len(ends) > 5 else "")
        read = f"names of images end in {', '.join(IMAGE_SUFFIXES)}"
        return [f"{counted(ends.total(), 'file')} in {self.image_folder(pool)} passed over ({shown}); {read}"]

    def read_picture(self, pool: str, image_id: str) -> Picture:
        """See :meth:`Dataset.read_picture`."""
        self.require_pool(pool)
        data = self._read(self.image_path(pool, image_id), image_id)
        self._note(pool, "images", image_id, data)
        return decode_picture(data, image_id, self.sixteen_bit)

    def read_ground_truth(self, pool: str, image_id: str) -> UInt8Array:
        """See :meth:`Dataset.read_ground_truth`."""
        self.require_pool(pool)
        if not self.labelled(pool):
            raise InputError(f"{self.name} pool {pool!r} has no ground truth", key="pool")
        path = self.label_path(pool, image_id)
        data = self._read_labels(path, image_id)
        self._note(pool, "labels", image_id, data)
        labels = self.decode_ground_truth(data, path)
        # The header of the image tells its size; images that cannot be read are the reader's concern, not the
        # label's.
        size = picture_size(self.image_path(pool, image_id))
        if size is not None and size != labels.shape:
            raise InputError(f"{path}: labels are {_sides(labels.shape)}, the image is {_sides(size)} (height x width)")
        return labels

    def decode_ground_truth(self, data: bytes, path: AnyPath) -> UInt8Array:
        """Classes uint8 (H, W) of the bytes of a label file, 255 ignored."""
        return map_values(decode_labels(data, str(path)), self.label_values(path), str(path))

    def ground_truth_doubts(self, pool: str, image_id: str) -> tuple[str, ...]:
        """See :meth:`Dataset.ground_truth_doubts`."""
        path = self.label_path(pool, image_id)
        data = self._read_labels(path, image_id)
        return label_doubts(data, decode_labels(data, str(path)))

    def _read_labels(self, path: AnyPath, image_id: str) -> bytes:
        try:
            return _content(path)
        except FileNotFoundError:
            raise InputError(f"{image_id}: label file {path} is missing{self.of_missing_labels}") from None
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            raise InputError(f"{image_id}: label file {path} cannot be read: {error.strerror}") from None

    def place(self, pool: str) -> str:
        """See :meth:`Dataset.place`."""
        return str(self.image_folder(pool))

    def suffix(self, pool: str, image_id: str) -> str:
        """See :meth:`Dataset.suffix`."""
        return self.image_path(pool, image_id).suffix

    def label_entry(self, pool: str, image_id: str) -> ImageEntry:
        """See :meth:`Dataset.label_entry`; size -1 where there is no such file, which reading it reports."""
        try:
            return ImageEntry(image_id, *FileFacts.of(self.label_path(pool, image_id).stat()))
        except OSError:
            return ImageEntry(image_id, -1)

    def content(self, pool: str, kind: FileKind, image_id: str) -> str | None:
        """See :meth:`Dataset.content`."""
        try:
            path = self.image_path(pool, image_id) if kind == "images" else self.label_path(pool, image_id)
            return content_hash(_content(path))
        except (OSError, InputError):
            return None

    def take_contents(self) -> dict[tuple[str, FileKind], dict[str, str]]:
        """See :meth:`Dataset.take_contents`."""
        found, self._contents = self._contents, {}
        return found

    def _note(self, pool: str, kind: FileKind, image_id: str, data: bytes) -> None:
        self._contents.setdefault((pool, kind), {})[image_id] = content_hash(data)

    def _read(self, path: AnyPath, image_id: str) -> bytes:
        try:
            return _content(path)
        except FileNotFoundError:
            check_root(self.root)
            missing = (
                f"is a link to {path.readlink()}, which is not there"
                if isinstance(path, Path) and path.is_symlink()
                else "the file is missing"
            )
            raise BrokenImageError(image_id, missing) from None
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            raise BrokenImageError(image_id, f"the file cannot be read: {error.strerror}") from None


def _content(path: AnyPath) -> bytes:
    """The bytes of a file; a pipe that nobody writes to would be waited for without end."""
    if isinstance(path, Path):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.ENODEV, "it is a pipe, a socket or a device", str(path))
    return path.read_bytes()


def content_hash(data: bytes) -> str:
    """What tells the content of a file: SHA-256, which processors know; here twice as fast as BLAKE2."""
    return hashlib.sha256(data).hexdigest()


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)


def scan_files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, FileFacts]]:
    """Names, sizes and times of the files in ``folder`` itself whose names end in one of ``suffixes``.

    Suffixes are compared without regard to case; hidden files are left out. A missing folder has no files. A file that
    cannot be looked at, as a link to nothing, has size -1: whoever reads it says what is wrong with it.
    """
    for entry in _scandir(folder):
        if entry.name.lower().endswith(suffixes) and (facts := _facts(entry)) is not None:
            yield entry.name, facts


def scan_folders(folder: Path) -> list[str]:
    """Names of the folders directly in ``folder``, sorted; hidden ones are left out."""
    return sorted(entry.name for entry in _scandir(folder) if _is_folder(entry))


def scan_tree(folder: AnyPath, suffixes: tuple[str, ...]) -> Iterator[tuple[PurePosixPath, FileFacts]]:
    """Relative paths, sizes and times of all matching files below ``folder``; links back up are not followed.

    Folders that the product itself writes to are left out: pictures of a run are not the images of the next one.

    Raises:
        InputError: ``folder`` itself is such a one.
    """
    if (held := read_mark(folder)) is not None:
        raise InputError(f"{folder}: holds {held} of lookbeyond, which is never read as images")
    if isinstance(folder, BucketPath):
        yield from _objects(folder, suffixes)
    else:
        yield from _walk(folder, PurePosixPath(), (os.path.realpath(folder),), suffixes)


def scan_glob(folder: AnyPath, pattern: str, suffixes: tuple[str, ...]) -> Iterator[tuple[PurePosixPath, FileFacts]]:
    """Relative paths, sizes and times of the matching files below ``folder`` that a glob finds; no hidden ones."""
    # As from Python 3.13 on, ** at the end is files, too.
    pattern = f"{pattern}/*" if pattern.endswith("**") else pattern
    return (one for one in scan_tree(folder, suffixes) if matches(one[0], pattern))


def present(folder: AnyPath) -> str:
    """What is in a folder where something else was looked for, or in the nearest one above it that is there."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{folder} holds {', '.join(names[:_LISTED]) or 'nothing'}{more}"


def _objects(folder: BucketPath, suffixes: tuple[str, ...]) -> Iterator[tuple[PurePosixPath, FileFacts]]:
    found = folder.walk_files()
    marked = {path.parent for path, _ in found if path.name == MARK}
    for path, facts in found:
        hidden = any(part.startswith(".") for part in path.parts) or not marked.isdisjoint(path.parents)
        if not hidden and path.name.lower().endswith(suffixes):
            yield path, FileFacts.of(facts)


def _walk(
    folder: Path, inside: PurePosixPath, above: tuple[str, ...], suffixes: tuple[str, ...]
) -> Iterator[tuple[PurePosixPath, FileFacts]]:
    for entry in _scandir(folder):
        if _is_folder(entry):
            real = os.path.realpath(entry.path) if entry.is_symlink() else f"{above[-1]}{os.sep}{entry.name}"
            if real not in above:
                yield from _walk(folder / entry.name, inside / entry.name, (*above, real), suffixes)
        elif entry.name.lower().endswith(suffixes) and (facts := _facts(entry)) is not None:
            yield inside / entry.name, facts


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _facts(entry: os.DirEntry[str]) -> FileFacts | None:
    """Size and time of a file, -1 and 0 where that cannot be told; None for what is no file, as a pipe or a folder."""
    try:
        facts = entry.stat()
    except OSError:
        return FileFacts(-1, 0)
    return FileFacts.of(facts) if stat.S_ISREG(facts.st_mode) else None


def _end(name: str) -> str:
    end = Path(name).suffix.lower()
    return end if 1 < len(end) <= 12 else "without a suffix"


def _scandir(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            every = list(found)
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise InputError(f"{folder}: the folder cannot be listed: {error.strerror}") from None
    if any(entry.name == MARK for entry in every):
        return []
    # "._name.jpg" files of macOS are no images; neither are other hidden files.
    entries = [entry for entry in every if not entry.name.startswith(".")]
    for entry in entries:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{folder}: file name {entry.name!r} is not valid UTF-8; rename it") from None
    return entries


def find_with_suffix(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path:
    """The file that :func:`scan_files` lists with this stem; with the first of ``suffixes`` where there is none."""
    for suffix in suffixes:
        path = folder / f"{stem}{suffix}"
        if os.path.lexists(path):
            return path
    try:
        written = _written_otherwise(folder, folder.stat().st_mtime_ns, suffixes).get(stem)
    except OSError:
        written = None
    return folder / (written or f"{stem}{suffixes[0]}")


@lru_cache(maxsize=64)
def _written_otherwise(folder: Path, changed: int, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Names by stem of the files whose suffix is one of ``suffixes`` but for its case; ``changed`` outdates a list."""
    lower = tuple(suffix.lower() for suffix in suffixes)
    named = [name for name, _ in scan_files(folder, lower)]
    return {name[: -len(next(filter(name.lower().endswith, lower)))]: name for name in named}
