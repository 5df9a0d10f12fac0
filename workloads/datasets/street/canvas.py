"""One canvas for image and labels: a pixel holds the number of a material, a material has colour and class.

The model: scenery and objects paint material numbers; the image and the labels are two look-ups of the same
array. The failure this guards against: labels that are nearly those of the image, off by a pixel at outlines
because both were drawn apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Colour = tuple[float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera above the road, looking along it. Lengths in metres, image coordinates in pixels.

    Attributes:
        height: rows of the image.
        width: columns of the image.
        focal: focal length in pixels.
        centre: column of the vanishing point.
        horizon: row of the horizon.
        above_road: height of the camera over the road in metres.
    """

    height: int
    width: int
    focal: float
    centre: float
    horizon: float
    above_road: float

    def point(self, across: float, up: float, depth: float) -> Point:
        """Image position (column, row) of a point to the right of, above the road and ahead of the camera."""
        scale = self.focal / depth
        return self.centre + across * scale, self.horizon + (self.above_road - up) * scale


@dataclass(frozen=True)
class Haze:
    """Air between camera and things: colours go towards ``colour`` with distance.

    Attributes:
        colour: RGB, 0..255.
        reach: distance in metres at which half of a thing's own colour is left.
    """

    colour: Colour
    reach: float

    def seen(self, colour: Colour, depth: float) -> Colour:
        """``colour`` as it looks from ``depth`` metres away."""
        share = depth / (depth + self.reach)
        red, green, blue = (own + (air - own) * share for own, air in zip(colour, self.colour, strict=True))
        return red, green, blue


class Materials:
    """The table of materials: number to colour and class. At most 32767 of them."""

    def __init__(self) -> None:
        self._colours: list[Colour] = []
        self._classes: list[int] = []

    def __len__(self) -> int:
        return len(self._colours)

    def add(self, colour: Colour, class_index: int) -> int:
        """A new material; returns its number."""
        self._colours.append(colour)
        self._classes.append(class_index)
        return len(self._colours) - 1

    def colours(self) -> npt.NDArray[np.float32]:
        """RGB of every material, float32 (n, 3)."""
        return np.array(self._colours, dtype=np.float32)

    def classes(self) -> npt.NDArray[np.uint8]:
        """Class of every material, uint8 (n,)."""
        return np.array(self._classes, dtype=np.uint8)


class Canvas:
    """Paints polygons and ellipses of materials over the scenery, far things first, and shadows beside them.

    Attributes:
        camera: the camera things are seen by.
        shade: 8-bit canvas of ground shadows, 255 = none.
    """

    def __init__(self, camera: Camera, haze: Haze, scenery: npt.NDArray[np.int32], materials: Materials) -> None:
        self.camera = camera
        self._haze = haze
        self._materials = materials
        self._image = Image.fromarray(scenery)
        self._draw = ImageDraw.Draw(self._image)
        self.shade = Image.new("L", (camera.width, camera.height), 255)
        self._shade_draw = ImageDraw.Draw(self.shade)

    def material(self, colour: Colour, class_index: int, depth: float) -> int:
        """A material of the given colour seen from ``depth`` metres."""
        return self._materials.add(self._haze.seen(colour, depth), class_index)

    def polygon(self, points: Sequence[Point], material: int) -> None:
        """Fill a polygon given in image coordinates."""
        self._draw.polygon(points, fill=material)

    def ellipse(self, centre: Point, radius_x: float, radius_y: float, material: int) -> None:
        """Fill an axis-parallel ellipse given in image coordinates."""
        self._draw.ellipse(_box(centre, radius_x, radius_y), fill=material)

    def upright(self, across: tuple[float, float], up: tuple[float, float], depth: float, material: int) -> None:
        """Fill an upright rectangle that faces the camera, given in metres; at least one pixel wide."""
        left, bottom = self.camera.point(across[0], up[0], depth)
        right, top = self.camera.point(across[1], up[1], depth)
        self._draw.rectangle((left, top, max(right, left + 1), max(bottom, top)), fill=material)

    def ground_shadow(self, points: Sequence[Point], strength: int) -> None:
        """Darken the ground inside a polygon to ``strength`` / 255 of its light."""
        self._shade_draw.polygon(points, fill=strength)

    def pixels(self) -> npt.NDArray[np.int32]:
        """Material numbers, int32 (H, W)."""
        return np.asarray(self._image)


def _box(centre: Point, radius_x: float, radius_y: float) -> tuple[float, float, float, float]:
    return centre[0] - radius_x, centre[1] - radius_y, centre[0] + radius_x, centre[1] + radius_y
