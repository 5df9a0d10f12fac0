"""Cityscapes: 19 training classes, mapped in memory from the files that the download holds.

The model: images are ``leftImg8bit/{split}/{city}/{id}_leftImg8bit.png``, labels
``gtFine/{split}/{city}/{id}_gtFine_labelIds.png`` with ids 0..33, of which 19 are evaluated.
``labelTrainIds`` files (made by ``csCreateTrainIdLabelImgs``) are read where there are no ``labelIds``.
Source: cityscapesScripts, ``README.md`` and ``helpers/labels.py`` (ids, training ids, colours). The failure
this guards against: 34 ids or 27 classes scored where 19 are meant, or a preparation step that was forgotten.

Pools: ``train``, ``val`` (fine ground truth), ``test`` (its ground truth is not public), ``train_extra``
(coarse ground truth only, taken as unlabelled here) and ``sequence`` (``leftImg8bit_sequence/train``, the
30-frame snippets; unlabelled).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from workloads.bucket_paths import AnyPath
from workloads.configs.base import HashedConfig
from workloads.datasets.base import ImageEntry, Json, palette_of, value_table
from workloads.datasets.files import FileDataset, find_with_suffix, scan_files, scan_folders
from workloads.errors import InputError
from workloads.ignored import IGNORE_CLASS

ENVIRONMENT_HINT = "CITYSCAPES_DATASET"
"""The variable that cityscapesScripts reads; named in messages only, so that no run depends on it."""

# name: (id in labelIds files, colour); the position is the training id.
CLASSES = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
_LAST_ID = 33
_IMAGE_NAME = "_leftImg8bit"
# The download's are PNGs; many keep them as JPEGs.
_IMAGE_ENDS = tuple(f"{_IMAGE_NAME}{suffix}" for suffix in (".png", ".jpg", ".jpeg"))
_LABEL_ID_END = "_gtFine_labelIds.png"
_TRAIN_ID_END = "_gtFine_labelTrainIds.png"
_FOLDERS = {
    "train": "leftImg8bit/train",
    "val": "leftImg8bit/val",
    "test": "leftImg8bit/test",
    "train_extra": "leftImg8bit/train_extra",
    "sequence": "leftImg8bit_sequence/train",
}
_FINE_POOLS = ("train", "val")


class CityscapesConfig(HashedConfig, tag="CityscapesConfig"):
    """Cityscapes with its 19 training classes."""

    name: Literal["cityscapes"] = Field("cityscapes", description="Cityscapes, 19 training classes")
    pool: str = Field("train", description=f"pool whose images are labelled: {', '.join(_FOLDERS)}, where present")
    val: str = Field("val", description="pool with ground truth on which scores are measured")


class Cityscapes(FileDataset):
    """Cityscapes below ``root``; see the module's docstring.

    Raises:
        InputError: ``root`` is missing or holds none of the pools' folders.
    """

    root: Path
    name = "cityscapes"
    classes = tuple(CLASSES)
    palette = palette_of(colour for _, colour in CLASSES.values())

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.pools = tuple(pool for pool, folder in _FOLDERS.items() if (root / folder).is_dir())
        if not self.pools:
            wanted = ", ".join(_FOLDERS.values())
            raise InputError(
                f"{root} holds none of the folders {wanted} (Cityscapes){environment_hint()}",
                key="dataset.root",
            )
        train_ids = {label_id: train_id for train_id, (label_id, _) in enumerate(CLASSES.values())}
        self._label_ids = value_table(
            {label_id: train_ids.get(label_id, IGNORE_CLASS) for label_id in range(_LAST_ID + 1)}
        )
        self._train_ids = value_table({**{value: value for value in range(len(CLASSES))}, IGNORE_CLASS: IGNORE_CLASS})

    def image_folder(self, pool: str) -> Path:
        """``root/leftImg8bit/{pool}``, or ``root/leftImg8bit_sequence/train``."""
        return self.root / _FOLDERS[pool]

    def scan(self, pool: str) -> Iterator[ImageEntry]:
        """Ids are ``{city}/{city}_{sequence}_{frame}``."""
        folder = self.image_folder(pool)
        for city in scan_folders(folder):
            for name, facts in scan_files(folder / city, tuple(end.lower() for end in _IMAGE_ENDS)):
                yield ImageEntry(f"{city}/{name[: name.lower().rindex(_IMAGE_NAME.lower())]}", *facts)

    def image_path(self, pool: str, image_id: str) -> Path:
        """``root/leftImg8bit/{pool}/{id}_leftImg8bit.png``, or .jpg, .jpeg."""
        city, _, frame = image_id.partition("/")
        return find_with_suffix(self.image_folder(pool) / city, frame, _IMAGE_ENDS)

    def labelled(self, pool: str) -> bool:
        """True for train and val where ``gtFine/{pool}`` is there."""
        return pool in _FINE_POOLS and (self.root / "gtFine" / pool).is_dir()

    def label_path(self, pool: str, image_id: str) -> Path:
        """The ``labelIds`` file, or the ``labelTrainIds`` file where only that exists."""
        city, _, frame = image_id.partition("/")
        folder = self.root / "gtFine" / pool / city
        label_ids = find_with_suffix(folder, frame, (_LABEL_ID_END,))
        train_ids = find_with_suffix(folder, frame, (_TRAIN_ID_END,))
        return train_ids if train_ids.exists() and not label_ids.exists() else label_ids

    def label_values(self, path: AnyPath) -> npt.NDArray[np.int16]:
        """0..33 to training ids for ``labelIds``; 0..18 and 255 for ``labelTrainIds``."""
        return self._train_ids if path.name.lower().endswith(_TRAIN_ID_END.lower()) else self._label_ids

    def identity(self) -> dict[str, Json]:
        """The name and the number of classes, as 19 and 27 are both in use."""
        return {"name": self.name, "classes": len(CLASSES)}


def environment_hint() -> str:
    """A hint for messages when cityscapesScripts' variable is set; empty otherwise."""
    value = os.environ.get(ENVIRONMENT_HINT)
    return (
        f"; the environment has {ENVIRONMENT_HINT}={value}, which is not read: give it as dataset.root" if value else ""
    )
