"""From painted materials to a photograph: surface texture, haze, shadows, light, the lens and the sensor.

The model: each class has its own surface texture (leaves are rough at two scales, asphalt is finely grained,
paint is smooth) while light, colour cast, blur and noise are one per picture. None of it touches the labels.
Powers, sines and the like are avoided, so that the same versions of NumPy and Pillow give the same picture in
every process; another version of either may draw a few pixels differently. The failure this guards against:
labels that depend on what was done to the picture.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from workloads.datasets.street.canvas import Haze
from workloads.datasets.street.scenery import (
    BUILDING,
    CAR,
    FENCE,
    PERSON,
    POLE,
    ROAD,
    SIDEWALK,
    SIGN,
    SKY,
    VEGETATION,
    Scenery,
)

Floats = npt.NDArray[np.float32]

# Class: contrast of single-pixel grain, of two-pixel clumps, and of stains the size of an eighth of the
# picture.
_TEXTURE = {
    SKY: (0.0, 0.0, 0.07),
    BUILDING: (0.03, 0.03, 0.12),
    ROAD: (0.09, 0.02, 0.10),
    SIDEWALK: (0.04, 0.04, 0.10),
    VEGETATION: (0.12, 0.26, 0.20),
    CAR: (0.01, 0.01, 0.06),
    PERSON: (0.04, 0.07, 0.05),
    POLE: (0.02, 0.0, 0.05),
    SIGN: (0.02, 0.0, 0.03),
    FENCE: (0.05, 0.03, 0.08),
}


def photograph(
    rng: np.random.Generator,
    scenery: Scenery,
    objects: npt.NDArray[np.bool_],
    *,
    labels: npt.NDArray[np.uint8],
    colours: Floats,
    shade: npt.NDArray[np.uint8],
    haze: Haze,
) -> npt.NDArray[np.uint8]:
    """The picture uint8 (H, W, 3) of a painted scene.

    Args:
        rng: draws light, texture and noise.
        scenery: the static street; its light and depth are used.
        objects: bool (H, W), True where an object was painted over the scenery.
        labels: uint8 (H, W), classes, or 255.
        colours: float32 (H, W, 3), colour of each pixel's material.
        shade: uint8 (H, W), ground shadows, 255 = none.
        haze: the air.
    """
    ground = (labels == ROAD) | (labels == SIDEWALK) | (labels == VEGETATION)
    gain_HW = np.where(objects, np.float32(1), scenery.light)
    gain_HW *= np.where(ground & ~objects, shade / np.float32(255), np.float32(1))
    share_HW = np.where(objects, np.float32(0), scenery.depth / (scenery.depth + np.float32(haze.reach)))
    gain_HW *= _texture(rng, labels)
    sky = labels == SKY
    gain_HW *= np.where(sky, _sky_gradient(rng, labels.shape)[:, None], np.float32(1))

    lit = colours * gain_HW[..., None]
    air = np.array(haze.colour, dtype=np.float32)
    lit += (air - lit) * share_HW[..., None]
    lit *= _light(rng, labels.shape)
    tone = np.clip(lit * np.float32(1 / 255), 0, 1)
    tone += np.float32(rng.uniform(-0.35, 0.35)) * tone * (1 - tone)
    seen = Image.fromarray((tone * np.float32(255)).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8))
    )
    noise = rng.random((*labels.shape, 3), dtype=np.float32)
    noise -= np.float32(0.5)
    noise *= np.float32(rng.uniform(5, 22))
    noise += np.asarray(seen)
    return np.clip(noise, 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, labels: npt.NDArray[np.uint8]) -> Floats:
    height, width = labels.shape
    amplitude = np.zeros((256, 3), dtype=np.float32)
    for class_index, contrasts in _TEXTURE.items():
        amplitude[class_index] = contrasts
    fine = rng.standard_normal((height, width), dtype=np.float32)
    clumps = rng.standard_normal(((height + 1) // 2, (width + 1) // 2), dtype=np.float32)
    clumps = clumps.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    gain = 1 + amplitude[:, 0][labels] * fine
    gain += amplitude[:, 1][labels] * clumps
    gain += amplitude[:, 2][labels] * smooth_noise(rng, height, width, 12)
    return np.maximum(gain, np.float32(0.15))


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> Floats:
    """Normal numbers on a grid of about ``cells`` x ``cells``, interpolated to float32 (height, width)."""
    grid = Image.fromarray(rng.standard_normal((cells, cells + cells // 2), dtype=np.float32))
    return np.asarray(grid.resize((width, height), Image.Resampling.BILINEAR))


def _sky_gradient(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return np.linspace(rng.uniform(0.72, 1.02), 1.0, shape[0], dtype=np.float32)


def _light(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Exposure, colour cast and a slow change across the picture, float32 (1, W, 3)."""
    cast = rng.uniform(0.88, 1.12, 3).astype(np.float32) * np.float32(rng.uniform(0.8, 1.3))
    across = np.linspace(rng.uniform(0.85, 1.0), rng.uniform(0.85, 1.0), shape[1], dtype=np.float32)
    return across[None, :, None] * cast
