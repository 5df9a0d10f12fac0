"""A data set that is not there: so many images of one size, with the classes of the one that an experiment names.

For `lookbeyond plan EXPERIMENT --images N --size HxW`, which asks what a run would take before there is any data.
Weights that are not at hand are imagined, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from workloads.costs.work import Size
from workloads.datasets import AnyDatasetConfig, Dataset, ImageEntry, Picture, ade20k, camvid, cityscapes, nyuv2, scenes
from workloads.datasets.base import Json, UInt8Array, distinct_palette
from workloads.errors import InputError

# Of the images, so many are validation images beside them.
_VALIDATION_SHARE = 0.1
_USUAL_CLASSES = 20
_CLASSES = {
    "ade20k": tuple(ade20k.CLASSES),
    "camvid": tuple(camvid.CLASSES),
    "cityscapes": tuple(cityscapes.CLASSES),
    "nyuv2": tuple(nyuv2.CLASSES),
    "scenes": tuple(scenes.CLASSES),
    "folder": (),
}


@dataclass(frozen=True)
class Imagined:
    """How many images, and their height and width."""

    images: int
    size: Size

    @property
    def validation_images(self) -> int:
        """Images of the pool that scores are measured on."""
        return max(1, round(self.images * _VALIDATION_SHARE))

    def dataset(self, config: AnyDatasetConfig) -> "ImaginedDataset":
        """The data set of a configuration, imagined."""
        return ImaginedDataset(self, config)


class ImaginedDataset(Dataset):
    """See the module's docstring; any pool is there, and all but the validation pool have all images."""

    def __init__(self, imagined: Imagined, config: AnyDatasetConfig) -> None:
        self.name = config.name
        self.pools = _AnyPool((config.pool, config.val))
        self._imagined, self._config = imagined, config
        # Descriptions are of files, of which none need be there.
        described = getattr(config, "classes", None)
        count = len(described) if described and not isinstance(described, str) else _USUAL_CLASSES
        self.classes = _CLASSES.get(config.name, tuple(f"class {number}" for number in range(count)))
        self.palette = distinct_palette(len(self.classes))

    @property
    def num_classes(self) -> int | None:
        """As stated, or supposed."""
        return len(self.classes) or getattr(self._config, "num_classes", None)

    def entries(self, pool: str) -> list[ImageEntry]:
        """So many names."""
        validation = pool == self._config.val and pool != self._config.pool
        count = self._imagined.validation_images if validation else self._imagined.images
        return [ImageEntry(f"{pool}-{number:07d}", 0) for number in range(count)]

    def labelled(self, pool: str) -> bool:
        """Wherever there are classes."""
        del pool
        return bool(self.classes)

    def identity(self) -> dict[str, Json]:
        """No data set has this one."""
        return {"name": self.name, "imagined": self._imagined.images, "size": list(self._imagined.size)}

    def read_picture(self, pool: str, image_id: str) -> Picture:
        """None can be read."""
        _refuse(pool, image_id)

    def read_ground_truth(self, pool: str, image_id: str) -> UInt8Array:
        """None can be read."""
        _refuse(pool, image_id)


class _AnyPool(tuple[str, ...]):
    """Pool names, among which every name is."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)


def _refuse(pool: str, image_id: str) -> NoReturn:
    raise InputError(f"{image_id} of pool {pool} is imagined")


def parsed_size(text: str) -> Size:
    """Height and width as they are written on the command line, `1024x2048`.

    Raises:
        InputError: it is none.
    """
    parts: Sequence[str] = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise InputError(key="--size", value=text, allowed="give height and width in pixels, for example 1024x2048")
    return int(parts[0]), int(parts[1])
