"""Data sets that are files in folders: listing them, reading one image, reading its label file.

The model: a subclass says where a pool's images and labels lie and how label values map to classes;
everything that can go wrong with files is handled here, once. Listing uses one scan of each folder and no
second stat. The failure this guards against: a folder that is not mounted on one machine taken for ten
thousand broken images.
"""

import os
from abc import abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from workloads.datasets.base import Dataset, ImageEntry, Picture, UInt8Array, check_root, map_values
from workloads.datasets.decode import decode_labels, decode_picture, picture_size
from workloads.errors import BrokenImage, InputError


class FileDataset(Dataset):
    """Images and label files below one root folder.

    Raises:
        InputError: ``root`` is not a folder.
    """

    def __init__(self, root: Path) -> None:
        check_root(root)
        self.root = root

    @abstractmethod
    def image_folder(self, pool: str) -> Path:
        """The folder that holds the pool's images, for messages."""

    @abstractmethod
    def scan(self, pool: str) -> Iterator[ImageEntry]:
        """The pool's images in any order."""

    @abstractmethod
    def image_path(self, pool: str, image_id: str) -> Path:
        """The file of one image."""

    def label_path(self, pool: str, image_id: str) -> Path:
        """The label file of one image; called for labelled pools only."""
        raise AssertionError(f"{self.name} has no label files in pool {pool}")

    def label_values(self, path: Path) -> npt.NDArray[np.int16]:
        """The lookup table int16 (65536,) for one label file."""
        raise AssertionError(f"{self.name} has no label files")

    def entries(self, pool: str) -> list[ImageEntry]:
        """See :meth:`Dataset.entries`."""
        check_root(self.root)
        self.require_pool(pool)
        entries = sorted(self.scan(pool), key=lambda entry: entry.id)
        if not entries:
            raise InputError(
                f"pool: {self.name} pool {pool!r} is empty; looked for images in {self.image_folder(pool)}"
            )
        for before, after in pairwise(entries):
            if before.id == after.id:
                raise InputError(f"{self.image_folder(pool)}: two files give the same image id {after.id!r}")
        return entries

    def read_picture(self, pool: str, image_id: str) -> Picture:
        """See :meth:`Dataset.read_picture`."""
        self.require_pool(pool)
        return decode_picture(self._read(self.image_path(pool, image_id), image_id), image_id)

    def read_ground_truth(self, pool: str, image_id: str) -> UInt8Array:
        """See :meth:`Dataset.read_ground_truth`."""
        self.require_pool(pool)
        if not self.labelled(pool):
            raise InputError(f"pool: {self.name} pool {pool!r} has no ground truth")
        path = self.label_path(pool, image_id)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise InputError(f"{image_id}: label file {path} is missing") from None
        values = decode_labels(data, str(path))
        # The header of the image tells its size; images that cannot be read are the reader's concern, not the
        # label's.
        size = picture_size(self.image_path(pool, image_id))
        if size is not None and size != values.shape:
            raise InputError(f"{path}: labels are {_size(values.shape)}, the image is {_size(size)} (height x width)")
        return map_values(values, self.label_values(path), str(path))

    def ground_truth_size(self, pool: str, image_id: str) -> int:
        """See :meth:`Dataset.ground_truth_size`; -1 where the file is missing, which reading it reports."""
        try:
            return self.label_path(pool, image_id).stat().st_size
        except FileNotFoundError:
            return -1

    def _read(self, path: Path, image_id: str) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            check_root(self.root)
            raise BrokenImage(image_id, "the file is missing") from None
        except (PermissionError, IsADirectoryError) as error:
            raise BrokenImage(image_id, f"the file cannot be read: {error.strerror}") from None


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)


def scan_files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Names and sizes in bytes of the files in ``folder`` itself whose names end in one of ``suffixes``.

    Suffixes are compared without regard to case; hidden files are left out. A missing folder has no files.
    """
    for entry in _scandir(folder):
        if entry.name.lower().endswith(suffixes) and entry.is_file():
            yield entry.name, _stat_size(entry)


def scan_folders(folder: Path) -> list[str]:
    """Names of the folders directly in ``folder``, sorted; hidden ones are left out."""
    return sorted(entry.name for entry in _scandir(folder) if entry.is_dir())


def scan_tree(folder: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[PurePosixPath, int]]:
    """Relative paths and sizes of all matching files below ``folder``; links back up are not followed."""
    yield from _walk(folder, PurePosixPath(), (os.path.realpath(folder),), suffixes)


def _walk(
    folder: Path, inside: PurePosixPath, above: tuple[str, ...], suffixes: tuple[str, ...]
) -> Iterator[tuple[PurePosixPath, int]]:
    for entry in _scandir(folder):
        if entry.is_dir():
            real = os.path.realpath(entry.path) if entry.is_symlink() else f"{above[-1]}{os.sep}{entry.name}"
            if real not in above:
                yield from _walk(folder / entry.name, inside / entry.name, (*above, real), suffixes)
        elif entry.name.lower().endswith(suffixes) and entry.is_file():
            yield inside / entry.name, _stat_size(entry)


def _stat_size(entry: os.DirEntry[str]) -> int:
    return entry.stat().st_size


def _scandir(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            # "._name.jpg" files of macOS are no images; neither are other hidden files.
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except FileNotFoundError:
        return []
    for entry in entries:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{folder}: file name {entry.name!r} is not valid UTF-8; rename it") from None
    return entries


def find_with_suffix(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path:
    """``folder/stem`` with the first of ``suffixes`` for which a file exists, else with the first of all."""
    for suffix in suffixes:
        path = folder / f"{stem}{suffix}"
        if path.exists():
            return path
    return folder / f"{stem}{suffixes[0]}"
