"""Where in images each label is most at home: the patches by which a person can name a cluster."""

import heapq
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from workloads.ignored import IGNORE_LABEL

# Depth is measured on every fourth pixel.
_STRIDE = 4
_SMALLEST = 16


@dataclass(frozen=True, order=True)
class Patch:
    """A square around the pixel of a label that is farthest from any other label.

    Attributes
    ----------
    depth : float
        That distance, in pixels.
    image : str
    y, x : int
        The pixel.
    """

    depth: float
    image: str
    y: int
    x: int

    def cut(self, picture: np.ndarray, labels: np.ndarray, label: int) -> np.ndarray:
        """The square out of a picture, at half its brightness where the label is another: uint8 (S, S, 3)."""
        half = max(_SMALLEST, round(1.5 * self.depth))
        square = (slice(max(0, self.y - half), self.y + half), slice(max(0, self.x - half), self.x + half))
        inside = labels[square] == label
        return np.where(inside[..., None], picture[square], picture[square] // 2)


def typical_patches(maps: Iterable[tuple[str, np.ndarray]], count: int) -> dict[int, list[Patch]]:
    """The deepest patches of every label, at most one an image.

    Parameters
    ----------
    maps : Iterable[tuple[str, ndarray]] of uint16, shape (H, W)
        Image ids and their label maps.
    count : int
        How many of each label.

    Returns
    -------
    dict[int, list[Patch]]
        By label, deepest first.
    """
    from scipy.ndimage import distance_transform_edt

    best: dict[int, list[Patch]] = defaultdict(list)
    for image, labels in maps:
        small = labels[::_STRIDE, ::_STRIDE]
        for label in np.unique(small[small != IGNORE_LABEL]).tolist():
            # The border of the image is no border of the label, but a patch that is cut off shows less.
            depths = distance_transform_edt(np.pad(small == label, 1))[1:-1, 1:-1]
            y, x = np.unravel_index(int(depths.argmax()), depths.shape)
            patch = Patch(float(depths[y, x]) * _STRIDE, image, int(y) * _STRIDE, int(x) * _STRIDE)
            (heapq.heappush if len(best[label]) < count else heapq.heappushpop)(best[label], patch)
    return {label: sorted(patches, reverse=True) for label, patches in sorted(best.items())}
