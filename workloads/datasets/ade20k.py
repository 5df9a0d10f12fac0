"""ADE20K scene parsing (ADEChallengeData2016): 150 classes, 20 210 training and 2 000 validation images.

The model: ``images/{training,validation}/*.jpg`` and ``annotations/{training,validation}/*.png`` with 0 =
other (ignored) and 1..150; class k - 1 here is label k there. Source: CSAILVision/sceneparsing, README and
``objectInfo150.txt`` (the first of each class's names). The failure this guards against: "reduce zero label"
done twice or not at all.

The root may be ``ADEChallengeData2016`` itself or the folder that holds it. The palette is generated.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from workloads.bucket_paths import AnyPath
from workloads.configs.base import HashedConfig
from workloads.datasets.base import ImageEntry, Json, check_root, distinct_palette, value_table
from workloads.datasets.files import FileDataset, find_with_suffix, scan_files
from workloads.errors import InputError
from workloads.ignored import IGNORE_CLASS

_NAMES = (
    "wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, "
    "person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, "
    "house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, "
    "railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, sink, "
    "skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, "
    "screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, "
    "bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, "
    "arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, "
    "television, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, "
    "buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, "
    "swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, "
    "step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, "
    "sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, "
    "monitor, bulletin board, shower, radiator, glass, clock, flag"
)
CLASSES = tuple(_NAMES.split(", "))
_FOLDERS = {"train": "training", "val": "validation"}
_SUFFIXES = (".jpg", ".jpeg", ".png")
_ARCHIVE = "ADEChallengeData2016"


class Ade20kConfig(HashedConfig, tag="Ade20kConfig"):
    """ADE20K scene parsing."""

    name: Literal["ade20k"] = Field("ade20k", description="ADE20K scene parsing (ADEChallengeData2016), 150 classes")
    pool: str = Field("train", description="pool whose images are labelled: train or val")
    val: str = Field("val", description="pool with ground truth on which scores are measured")


class Ade20k(FileDataset):
    """ADE20K below ``root``; see the module's docstring.

    Raises:
        InputError: ``root`` is missing or holds neither images/training nor images/validation.
    """

    root: Path
    name = "ade20k"
    classes = CLASSES
    palette = distinct_palette(len(CLASSES))

    def __init__(self, root: Path) -> None:
        check_root(root)
        super().__init__(root / _ARCHIVE if (root / _ARCHIVE / "images").is_dir() else root)
        self.pools = tuple(pool for pool, folder in _FOLDERS.items() if (self.root / "images" / folder).is_dir())
        if not self.pools:
            raise InputError(
                f"{root} holds neither images/training nor images/validation ({_ARCHIVE})", key="dataset.root"
            )
        self._table = value_table({0: IGNORE_CLASS, **{label + 1: label for label in range(len(CLASSES))}})

    def image_folder(self, pool: str) -> Path:
        """``root/images/training`` or ``root/images/validation``."""
        return self.root / "images" / _FOLDERS[pool]

    def scan(self, pool: str) -> Iterator[ImageEntry]:
        """Ids are file names without suffix, e.g. ``ADE_train_00000001``."""
        for name, facts in scan_files(self.image_folder(pool), _SUFFIXES):
            yield ImageEntry(Path(name).stem, *facts)

    def image_path(self, pool: str, image_id: str) -> Path:
        """``images/{training,validation}/{id}.jpg``, or .jpeg, .png."""
        return find_with_suffix(self.image_folder(pool), image_id, _SUFFIXES)

    def labelled(self, pool: str) -> bool:
        """Whether the folder of annotations is there."""
        return pool in _FOLDERS and (self.root / "annotations" / _FOLDERS[pool]).is_dir()

    def label_path(self, pool: str, image_id: str) -> Path:
        """``annotations/{training,validation}/{id}.png``."""
        return find_with_suffix(self.root / "annotations" / _FOLDERS[pool], image_id, (".png",))

    def label_values(self, path: AnyPath) -> npt.NDArray[np.int16]:
        """0 ignored, k to k - 1 for 1..150."""
        return self._table

    def identity(self) -> dict[str, Json]:
        """The name."""
        return {"name": self.name}
