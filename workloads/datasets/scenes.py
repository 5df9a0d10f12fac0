"""Generated street scenes with exact labels: any number of images, no download, no storage.

The model: image i of a pool is a function of (seed, pool, i) and the image size: a random street seen by a
random camera, painted once as materials from which image and labels are both looked up. 50 000 images cost a
list of names. It is made so that colour alone does not give the class (road, pavement, facades and an
overcast sky share greys; cars, people and facades share paints; leaves and green cars share greens) while
texture, shape and place do. The failure this guards against: trying the method out on data so easy that
everything works, or so far from streets that nothing learnt carries over.

The bottom of some images shows the car's own bonnet, which is ignored in the ground truth, as in Cityscapes.
"""

from functools import lru_cache
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from workloads.configs.base import HashedConfig
from workloads.datasets.base import Dataset, ImageEntry, Json, Picture, UInt8Array, palette_of
from workloads.datasets.street.canvas import Camera, Canvas, Colour, Haze, Materials
from workloads.datasets.street.light import photograph
from workloads.datasets.street.objects import paint_objects
from workloads.datasets.street.scenery import draw_street, paint_scenery, varied
from workloads.errors import InputError
from workloads.ignored import IGNORE_CLASS
from workloads.seeding import generator

GENERATOR_VERSION = 1
"""Raised by hand whenever the same (seed, pool, number) gives another image."""

# In the order of the constants in street.scenery.
CLASSES = {
    "sky": (70, 130, 180),
    "building": (70, 70, 70),
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "vegetation": (107, 142, 35),
    "car": (0, 0, 142),
    "person": (220, 20, 60),
    "pole": (153, 153, 153),
    "sign": (220, 220, 0),
    "fence": (190, 153, 153),
}
_SKIES: tuple[Colour, ...] = (
    (150, 180, 214),
    (196, 200, 206),
    (160, 163, 168),
    (122, 126, 132),
    (216, 196, 176),
    (226, 228, 232),
)
_SMALLEST_SIDE, _LARGEST_SIDE = 32, 4096


class ScenesConfig(HashedConfig, tag="ScenesConfig"):
    """Generated street scenes."""

    name: Literal["scenes"] = Field(
        "scenes", description="generated street scenes with exact labels, 10 classes, no files"
    )
    pool: str = Field("train", description="pool whose images are labelled: train or val")
    val: str = Field("val", description="pool with ground truth on which scores are measured")
    image_size: tuple[int, int] = Field((160, 240), description="height and width in pixels, 32 to 4096 each")
    num_train: int = Field(50_000, ge=1, le=10_000_000, description="images in the pool train; they cost no storage")
    num_val: int = Field(500, ge=1, le=10_000_000, description="images in the pool val")
    seed: int = Field(0, ge=0, description="another seed gives other scenes")

    @field_validator("image_size")
    @classmethod
    def _size_in_range(cls, size: tuple[int, int]) -> tuple[int, int]:
        if not all(_SMALLEST_SIDE <= side <= _LARGEST_SIDE for side in size):
            allowed = f"each side must be {_SMALLEST_SIDE} to {_LARGEST_SIDE} pixels"
            raise InputError(value=list(size), allowed=allowed)
        return size


class Scenes(Dataset):
    """The pools ``train`` and ``val`` of generated scenes; see the module's docstring."""

    name = "scenes"
    classes = tuple(CLASSES)
    palette = palette_of(CLASSES.values())
    pools = ("train", "val")

    def __init__(self, config: ScenesConfig) -> None:
        self._config = config
        self._counts = {"train": config.num_train, "val": config.num_val}

    def entries(self, pool: str) -> list[ImageEntry]:
        """Ids are the images' numbers, e.g. ``000042``."""
        self.require_pool(pool)
        return [ImageEntry(_name(number), 0) for number in range(self._counts[pool])]

    def read_picture(self, pool: str, image_id: str) -> Picture:
        """Generate the image."""
        return Picture(self.scene(pool, image_id)[0])

    def labelled(self, pool: str) -> bool:
        """Always."""
        return pool in self.pools

    def read_ground_truth(self, pool: str, image_id: str) -> UInt8Array:
        """Generate the labels, exact to the pixel."""
        return self.scene(pool, image_id)[1]

    def identity(self) -> dict[str, Json]:
        """What an image is made from, and the version of the generator; how many there are is not part of it."""
        config = self._config
        return {
            "name": self.name,
            "generator": GENERATOR_VERSION,
            "image_size": list(config.image_size),
            "seed": config.seed,
        }

    def scene(self, pool: str, image_id: str) -> tuple[UInt8Array, UInt8Array]:
        """One scene: image uint8 (H, W, 3) and labels uint8 (H, W).

        Raises:
            InputError: no such pool, or no image of that id in it.
        """
        self.require_pool(pool)
        number = int(image_id) if image_id.isascii() and image_id.isdigit() else -1
        if not 0 <= number < self._counts[pool] or image_id != _name(number):
            last = _name(self._counts[pool] - 1)
            raise InputError(f"image {image_id!r}: not in pool {pool!r} of scenes; ids are {_name(0)} to {last}")
        image, labels = _scene(self._config.seed, pool, number, self._config.image_size)
        return image.copy(), labels.copy()


def _name(number: int) -> str:
    # Seven digits hold every allowed count, so that names sort as numbers do.
    return f"{number:07d}"


# Image and labels of one scene are asked for one after the other; both come from one painting.
@lru_cache(maxsize=2)
def _scene(seed: int, pool: str, number: int, size: tuple[int, int]) -> tuple[UInt8Array, UInt8Array]:
    return _generate(generator(seed, "scene", pool, number), *size)


def _generate(rng: np.random.Generator, height: int, width: int) -> tuple[UInt8Array, UInt8Array]:
    camera = Camera(
        height=height,
        width=width,
        focal=width * rng.uniform(0.68, 0.95),
        centre=width * rng.uniform(0.36, 0.64),
        horizon=height * rng.uniform(0.36, 0.52),
        above_road=rng.uniform(1.25, 1.7),
    )
    haze = Haze(colour=varied(rng, _SKIES[rng.integers(len(_SKIES))], 14), reach=rng.uniform(90, 500))
    street = draw_street(rng)
    materials = Materials()
    scenery = paint_scenery(rng, camera, street, haze, materials)
    num_scenery = len(materials)
    canvas = Canvas(camera, haze, scenery.materials, materials)
    paint_objects(rng, canvas, street)
    if rng.random() < 0.4:
        bonnet = materials.add(varied(rng, (48, 50, 54), 30), IGNORE_CLASS)
        canvas.ellipse(
            (camera.centre, height * 1.05),
            width * rng.uniform(0.45, 0.7),
            height * rng.uniform(0.09, 0.14),
            bonnet,
        )
    painted = canvas.pixels()
    labels = materials.classes()[painted]
    shade = np.asarray(canvas.shade)
    image = photograph(
        rng,
        scenery,
        painted >= num_scenery,
        labels=labels,
        colours=materials.colours()[painted],
        shade=shade,
        haze=haze,
    )
    return image, labels
