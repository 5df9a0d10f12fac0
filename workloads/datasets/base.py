"""What a data set is to everything else: pools of images with stable names, and one ground-truth convention.

The model: a data set has *pools* (train, val, sequence ...). A pool is a sorted list of image ids; an id is
the same on every machine and never a path. Ground truth is uint8 (H, W) with values 0..M-1 and 255 = ignore,
whatever the files hold: each data set maps its own values in memory. The failure this guards against: label
files read with another data set's convention (0 taken for a class, 255 counted as one), which shows only as a
poor or missing score much later.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from workloads.bucket_paths import AnyPath, BucketPath
from workloads.configs.base import HashedConfig
from workloads.errors import InputError
from workloads.ignored import IGNORE_CLASS

UInt8Array = npt.NDArray[np.uint8]
FileKind = Literal["images", "labels"]
Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image of a pool.

    Attributes:
        id: name of the image, unique and stable within its pool, e.g. ``aachen/aachen_000000_000019``.
        size: bytes of the image's file; 0 when the image is generated.
        modified: when the file was last changed, nanoseconds of Unix time; 0 when the image is generated.
        sha256: the content of a file that is told from others by it; empty for all that name and size tell.
    """

    id: str
    size: int
    modified: int = field(default=0, compare=False)
    sha256: str = ""

    def __post_init__(self) -> None:
        try:
            confined(self.id)
        except ValueError as error:
            raise InputError(f"image id {error}") from None


def confined(image_id: str) -> str:
    """An image's id, which is appended to folders and so must not lead out of them.

    Raises:
        ValueError: it does.
    """
    path = PurePosixPath(image_id)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in image_id:
        raise ValueError(f"{image_id!r} leads out of its folder")
    return image_id


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: uint8 (H, W, 3), RGB.
        notes: what had to be changed to get there, e.g. ``("16-bit",)``; empty for 8-bit RGB.
    """

    pixels: UInt8Array
    notes: tuple[str, ...] = ()


class Dataset(ABC):
    """Pools of images, some with ground truth. Holds paths and options only: cheap to send to a worker.

    Attributes:
        name: the data set's name, as in the configuration.
        classes: names of the M classes in the order of their values; () when there is no ground truth.
        palette: uint8 (M, 3), one RGB colour a class.
        pools: names of the pools that are there.
        config_type: of a data set that a plug-in adds, the type of its configuration.
    """

    name: str
    classes: tuple[str, ...]
    palette: UInt8Array
    pools: tuple[str, ...]
    config_type: ClassVar[type[HashedConfig]]

    @property
    def num_classes(self) -> int | None:
        """M, the number of classes; None when nothing states it."""
        return len(self.classes) or None

    @abstractmethod
    def entries(self, pool: str) -> list[ImageEntry]:
        """All images of a pool, sorted by id.

        Raises:
            InputError: the root is missing, there is no such pool, or the pool is empty.
        """

    @abstractmethod
    def read_picture(self, pool: str, image_id: str) -> Picture:
        """One image with notes on its conversion.

        Raises:
            BrokenImageError: the image cannot be read or decoded.
        """

    @abstractmethod
    def labelled(self, pool: str) -> bool:
        """Whether the pool has ground truth."""

    @abstractmethod
    def read_ground_truth(self, pool: str, image_id: str) -> UInt8Array:
        """Ground truth of one image: uint8 (H, W), values 0..M-1, or 255 = ignore.

        Raises:
            InputError: no ground truth, another size than the image's, or a value that is not allowed.
        """

    def ground_truth_doubts(self, pool: str, image_id: str) -> tuple[str, ...]:
        """What makes it likely that an image's ground truth is not what was once annotated."""
        del pool, image_id
        return ()

    def place(self, pool: str) -> str:
        """Where the pool's images lie, for people; empty where images are no files."""
        del pool
        return ""

    def suffix(self, pool: str, image_id: str) -> str:
        """How the name of an image's file ends; ``.png`` where images are no files."""
        del pool, image_id
        return ".png"

    def label_entry(self, pool: str, image_id: str) -> ImageEntry:
        """Size and time of one image's label file, so that a changed file can be told; 0 where labels are no files."""
        del pool
        return ImageEntry(image_id, 0)

    def content(self, pool: str, kind: FileKind, image_id: str) -> str | None:
        """The SHA-256 of an image's or label's file as it is now; None where there is none, or it cannot be read."""
        del pool, kind, image_id
        return None

    def take_contents(self) -> dict[tuple[str, FileKind], dict[str, str]]:
        """The SHA-256 by image of every file that was read since this was last asked for, by pool and kind."""
        return {}

    def left_out(self, pool: str) -> int:
        """Images of the pool's folder that its description leaves out."""
        return 0

    def passed_over(self, pool: str) -> list[str]:
        """A line for each kind of file among the pool's images that is not read, and why."""
        del pool
        return []

    @abstractmethod
    def identity(self) -> dict[str, Json]:
        """What decides the content apart from the files: name and options, never a path."""

    def image_identity(self) -> dict[str, Json]:
        """The part of the identity that decides the images, for work that does not look at their ground truth."""
        return self.identity()

    def read_image(self, pool: str, image_id: str) -> UInt8Array:
        """One image as uint8 (H, W, 3), RGB.

        Raises:
            BrokenImageError: the image cannot be read or decoded.
        """
        return self.read_picture(pool, image_id).pixels

    def require_pool(self, pool: str) -> None:
        """Raise InputError, naming the pools that are there, unless ``pool`` is one of them."""
        if pool not in self.pools:
            raise InputError(
                f"{self.name} has no pool {pool!r} here",
                key="pool",
                value=pool,
                allowed=f"pools: {', '.join(self.pools) or 'none'}",
            )


def check_root(root: AnyPath) -> None:
    """Raise InputError unless ``root`` is a folder on this machine, or objects lie below it."""
    if isinstance(root, BucketPath):
        if not root.is_dir():
            raise InputError(f"there is no object below {root}", key="dataset.root")
    elif not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise InputError(f"{root} {what} on this machine", key="dataset.root")


def value_table(mapping: Mapping[int, int]) -> npt.NDArray[np.int16]:
    """A lookup table int16 (65536,) from a file's value to the class; -1 where the value is not allowed."""
    table = np.full(65536, -1, dtype=np.int16)
    for value, label in mapping.items():
        table[value] = label
    return table


def map_values(values: npt.NDArray[np.uint16], table: npt.NDArray[np.int16], where: str) -> UInt8Array:
    """Map a file's values to classes.

    Args:
        values: uint16 (H, W), as stored in the file.
        table: int16 (65536,), see :func:`value_table`.
        where: the file, for the message.

    Returns:
        uint8 (H, W), values 0..M-1 or 255.

    Raises:
        InputError: a value that is not allowed; names the file, the values and what is allowed.
    """
    labels = table[values]
    if labels.min(initial=0) < 0:
        bad = np.unique(values[labels < 0])
        shown = ", ".join(str(value) for value in bad[:5]) + (", ..." if bad.size > 5 else "")
        word = "value" if bad.size == 1 else "values"
        raise InputError(f"{where}: label {word} {shown} not allowed; allowed: {describe_values(table)}")
    return labels.astype(np.uint8)


def describe_values(table: npt.NDArray[np.int16]) -> str:
    """The allowed values of a table in words, e.g. ``0-10 (classes), 11 (ignored)``."""
    classes = np.flatnonzero((table >= 0) & (table != IGNORE_CLASS)).tolist()
    ignored = np.flatnonzero(table == IGNORE_CLASS).tolist()
    parts = [f"{_ranges(classes)} (classes)"]
    if ignored:
        parts.append(f"{_ranges(ignored)} (ignored)")
    return ", ".join(parts)


def _ranges(values: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def distinct_palette(count: int) -> UInt8Array:
    """A palette uint8 (count, 3) for data sets that define none.

    The colour of class k spreads the bits of k + 1 over the high bits of red, green and blue, as Pascal VOC's
    palette does.
    """
    palette = np.zeros((count, 3), dtype=np.uint8)
    for index in range(count):
        rest = index + 1
        for bit in range(7, -1, -1):
            for channel in range(3):
                palette[index, channel] |= ((rest >> channel) & 1) << bit
            rest >>= 3
    return palette


def palette_of(colours: Iterable[tuple[int, int, int]]) -> UInt8Array:
    """A palette uint8 (M, 3) from RGB triples."""
    return np.array(list(colours), dtype=np.uint8).reshape(-1, 3)
