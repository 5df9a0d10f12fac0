"""NYUv2 with 40 classes: 795 training and 654 validation images, from the official file or from folders.

The model: three layouts are told apart by what lies in the root.

- ``nyu_depth_v2_labeled.mat`` with ``classMapping40.mat`` and ``splits.mat`` beside it (the official file;
  894 labels mapped to 40 in
  memory; needs h5py). Source of the mapping and the split: ankurhanda/nyuv2-meta-data.
- ``images/``, ``segmentation/`` and ``gt_sets/{train,val}.txt`` (NYUD_MT).
- ``RGB/``, ``Label/``, ``train.txt`` and ``test.txt``.

Label files of both folder layouts hold 0 = ignored and 1..40. The official test split is the pool ``val``. A
folder ``raw`` of unlabelled frames, at any depth, is the pool ``raw``: 5 000 images are more than the 1 449
labelled ones. The failure this guards against: labels shifted by one, splits shifted by one (they are
1-based), or transposed images, none of which raises by itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from workloads.bucket_paths import AnyPath
from workloads.configs.base import HashedConfig
from workloads.datasets.base import (
    FileKind,
    ImageEntry,
    Json,
    Picture,
    UInt8Array,
    check_root,
    distinct_palette,
    map_values,
    value_table,
)
from workloads.datasets.decode import IMAGE_SUFFIXES
from workloads.datasets.files import FileDataset, content_hash, find_with_suffix, scan_files, scan_tree
from workloads.errors import BrokenImageError, InputError
from workloads.ignored import IGNORE_CLASS

_NAMES = (
    "wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, blinds, "
    "desk, shelves, curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, refridgerator, "
    "television, paper, towel, shower curtain, box, whiteboard, person, night stand, toilet, sink, lamp, "
    "bathtub, bag, otherstructure, otherfurniture, otherprop"
)
CLASSES = tuple(_NAMES.split(", "))
LABELED_FILE = "nyu_depth_v2_labeled.mat"
MAPPING_FILE = "classMapping40.mat"
SPLITS_FILE = "splits.mat"
_RAW_SUFFIXES = (*IMAGE_SUFFIXES, ".ppm")


class Nyuv2Config(HashedConfig, tag="Nyuv2Config"):
    """NYUv2 with 40 classes."""

    name: Literal["nyuv2"] = Field("nyuv2", description="NYUv2, 40 classes, 795 training and 654 validation images")
    pool: str = Field("train", description="pool whose images are labelled: train, val, or raw (a folder raw)")
    val: str = Field("val", description="pool on which scores are measured; val is the official test split")


@dataclass(frozen=True)
class _Layout:
    images: str
    labels: str
    lists: dict[str, str]


_FOLDER_LAYOUTS = (
    _Layout("images", "segmentation", {"train": "gt_sets/train.txt", "val": "gt_sets/val.txt"}),
    _Layout("RGB", "Label", {"train": "train.txt", "val": "test.txt"}),
)


def open_nyuv2(root: Path) -> "Nyuv2":
    """NYUv2 in whichever layout ``root`` holds.

    Raises:
        InputError: ``root`` is missing or holds none of the layouts; h5py is needed and missing.
    """
    check_root(root)
    if (root / LABELED_FILE).is_file():
        return Nyuv2Official(root)
    for layout in _FOLDER_LAYOUTS:
        if (root / layout.images).is_dir() and any((root / name).is_file() for name in layout.lists.values()):
            return Nyuv2Folders(root, layout)
    if (root / "raw").is_dir():
        return Nyuv2(root)
    raise InputError(
        f"{root} holds no NYUv2 layout; known: "
        f"{LABELED_FILE} with {MAPPING_FILE} and {SPLITS_FILE}; "
        "images/ + segmentation/ + gt_sets/{train,val}.txt; "
        "RGB/ + Label/ + train.txt + test.txt; or a folder raw/",
        key="dataset.root",
    )


class Nyuv2(FileDataset):
    """What all layouts share; by itself, a root that holds unlabelled frames in ``raw`` only."""

    root: Path
    name = "nyuv2"
    classes = CLASSES
    palette = distinct_palette(len(CLASSES))

    def __init__(self, root: Path, labelled_pools: tuple[str, ...] = ()) -> None:
        super().__init__(root)
        self._labelled_pools = labelled_pools
        self.pools = (*labelled_pools, *(("raw",) if (root / "raw").is_dir() else ()))

    def image_folder(self, pool: str) -> Path:
        """``root/raw``."""
        return self.root / "raw"

    def scan(self, pool: str) -> Iterator[ImageEntry]:
        """Ids of raw frames are paths below ``raw``, suffix included."""
        for path, facts in scan_tree(self.image_folder(pool), _RAW_SUFFIXES):
            yield ImageEntry(str(path), *facts)

    def image_path(self, pool: str, image_id: str) -> Path:
        """The id below ``root/raw``."""
        return self.image_folder(pool) / image_id

    def labelled(self, pool: str) -> bool:
        """True for train and val."""
        return pool in self._labelled_pools

    def identity(self) -> dict[str, Json]:
        """The name and the number of classes, as 13 and 40 are both in use."""
        return {"name": self.name, "classes": len(CLASSES)}


class Nyuv2Folders(Nyuv2):
    """One of the two folder layouts."""

    def __init__(self, root: Path, layout: _Layout) -> None:
        pools = tuple(pool for pool, name in layout.lists.items() if (root / name).is_file())
        super().__init__(root, pools)
        self._layout = layout
        self._table = value_table({0: IGNORE_CLASS, **{label + 1: label for label in range(len(CLASSES))}})

    def image_folder(self, pool: str) -> Path:
        """The folder of images of this layout, or ``root/raw``."""
        return self.root / (self._layout.images if self.labelled(pool) else "raw")

    def scan(self, pool: str) -> Iterator[ImageEntry]:
        """Ids are the names in the list file, without folder and suffix."""
        if not self.labelled(pool):
            yield from super().scan(pool)
            return
        found = {_stem(name): facts for name, facts in scan_files(self.image_folder(pool), IMAGE_SUFFIXES)}
        list_file = self.root / self._layout.lists[pool]
        wanted = [_stem(line.split()[0]) for line in list_file.read_text(encoding="utf-8").splitlines() if line.strip()]
        missing = [image_id for image_id in wanted if image_id not in found]
        if missing:
            raise InputError(
                f"{list_file}: {len(missing)} of {len(wanted)} listed images are not in "
                f"{self.image_folder(pool)}, the first is {missing[0]!r}"
            )
        yield from (ImageEntry(image_id, *found[image_id]) for image_id in wanted)

    def image_path(self, pool: str, image_id: str) -> Path:
        """The image with any known suffix, or the raw frame."""
        if not self.labelled(pool):
            return super().image_path(pool, image_id)
        return find_with_suffix(self.image_folder(pool), image_id, IMAGE_SUFFIXES)

    def label_path(self, pool: str, image_id: str) -> Path:
        """``segmentation/{id}.png`` or ``Label/{id}.png``."""
        return find_with_suffix(self.root / self._layout.labels, image_id, (".png",))

    def label_values(self, path: AnyPath) -> npt.NDArray[np.int16]:
        """0 ignored, k to k - 1 for 1..40."""
        return self._table


class Nyuv2Official(Nyuv2):
    """The official file. MATLAB v7.3 is HDF5 with axes reversed: images (N, 3, W, H), labels (N, W, H)."""

    def __init__(self, root: Path) -> None:
        try:
            import h5py  # noqa: F401
        except ImportError:
            raise InputError(f"{root / LABELED_FILE}: reading it needs h5py; install lookbeyond[nyuv2]") from None
        mapping = _mat_vector(root / MAPPING_FILE, "mapClass")
        if mapping.min() < 1 or mapping.max() > len(CLASSES):
            low, high = mapping.min(), mapping.max()
            raise InputError(f"{root / MAPPING_FILE}: mapClass holds {low}..{high}; allowed: 1-{len(CLASSES)}")
        super().__init__(root, ("train", "val"))
        self._table = value_table(
            {0: IGNORE_CLASS, **{index + 1: int(label) - 1 for index, label in enumerate(mapping)}}
        )
        self._numbers = {
            "train": _mat_vector(root / SPLITS_FILE, "trainNdxs"),
            "val": _mat_vector(root / SPLITS_FILE, "testNdxs"),
        }
        self._file: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}  # an open file cannot be sent to a worker

    def image_folder(self, pool: str) -> Path:
        """The official file, or ``root/raw``."""
        return self.root / (LABELED_FILE if self.labelled(pool) else "raw")

    def scan(self, pool: str) -> Iterator[ImageEntry]:
        """Ids are the 1-based numbers of the split file, e.g. ``0003``; sizes count uncompressed pixels."""
        if not self.labelled(pool):
            yield from super().scan(pool)
            return
        images = self._dataset("images")
        size = int(np.prod(images.shape[1:]))
        for number in self._numbers[pool]:
            if not 1 <= number <= images.shape[0]:
                raise InputError(f"{self.root / SPLITS_FILE}: image number {number}; allowed: 1-{images.shape[0]}")
            yield ImageEntry(f"{number:04d}", size, self._modified)

    @property
    def _modified(self) -> int:
        return (self.root / LABELED_FILE).stat().st_mtime_ns

    def label_entry(self, pool: str, image_id: str) -> ImageEntry:
        """Values of the label map, and when the official file was last changed."""
        return ImageEntry(image_id, int(np.prod(self._dataset("labels").shape[1:])), self._modified)

    def content(self, pool: str, kind: FileKind, image_id: str) -> str | None:
        """See :meth:`Dataset.content`; of what the official file holds of the image."""
        if not self.labelled(pool):
            return super().content(pool, kind, image_id)
        try:
            return content_hash(self._dataset(kind)[int(image_id) - 1].tobytes())
        except (OSError, IndexError, ValueError):
            return None

    def read_picture(self, pool: str, image_id: str) -> Picture:
        """See :meth:`Dataset.read_picture`."""
        self.require_pool(pool)
        if not self.labelled(pool):
            return super().read_picture(pool, image_id)
        try:
            image_3WH = self._dataset("images")[int(image_id) - 1]
        except (OSError, IndexError, ValueError) as error:
            raise BrokenImageError(image_id, f"cannot be read from {LABELED_FILE}: {error}") from None
        self._note(pool, "images", image_id, image_3WH.tobytes())
        return Picture(np.ascontiguousarray(image_3WH.transpose(2, 1, 0)))

    def ground_truth_doubts(self, pool: str, image_id: str) -> tuple[str, ...]:
        """None: the official file holds what was annotated."""
        return ()

    def read_ground_truth(self, pool: str, image_id: str) -> UInt8Array:
        """See :meth:`Dataset.read_ground_truth`."""
        self.require_pool(pool)
        if not self.labelled(pool):
            raise InputError(f"{self.name} pool {pool!r} has no ground truth", key="pool")
        where = f"{self.root / LABELED_FILE}, image {image_id}"
        try:
            labels_WH = self._dataset("labels")[int(image_id) - 1]
        except (OSError, IndexError, ValueError) as error:
            raise InputError(
                f"{self.root / LABELED_FILE}: labels of image {image_id} cannot be read: {error}"
            ) from None
        self._note(pool, "labels", image_id, labels_WH.tobytes())
        return map_values(np.ascontiguousarray(labels_WH.T).astype(np.uint16), self._table, where)

    def _dataset(self, key: str) -> Any:
        import h5py

        path = self.root / LABELED_FILE
        if self._file is None:
            try:
                self._file = h5py.File(path, "r")
            except OSError as error:
                raise InputError(f"{path}: not a readable MATLAB v7.3 (HDF5) file: {error}") from None
        axes = {"images": 4, "labels": 3}[key]
        if key not in self._file or len(self._file[key].shape) != axes:
            raise InputError(f"{path}: has no array {key!r} with {axes} axes; the labeled NYU Depth V2 file is wanted")
        if self._file["images"].shape[0] != self._file[key].shape[0] or self._file["images"].dtype != np.uint8:
            raise InputError(f"{path}: images are not uint8, or images and labels differ in number")
        return self._file[key]


def _stem(name: str) -> str:
    """File name without folder, and without suffix when that is an image's."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return last.rsplit(".", 1)[0] if last.lower().endswith(IMAGE_SUFFIXES) else last


def _mat_vector(path: Path, key: str) -> npt.NDArray[np.int64]:
    from scipy.io import loadmat

    if not path.is_file():
        raise InputError(f"{path}: missing; it belongs beside {LABELED_FILE} (nyuv2-meta-data has it)")
    try:
        content = loadmat(path, variable_names=[key])
    except Exception as error:  # scipy raises many kinds on files that are not MATLAB's
        raise InputError(f"{path}: not a readable MATLAB file: {error}") from None
    if key not in content or content[key].size == 0:
        raise InputError(f"{path}: holds no variable {key!r}")
    return np.asarray(content[key]).reshape(-1).astype(np.int64)
