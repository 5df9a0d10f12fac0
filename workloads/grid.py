"""Where the cells of a feature map lie in the image that it was computed from."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CellGrid:
    """The places of cells, along both axes alike; the centre of a pixel is an integer.

    Attributes
    ----------
    stride : int
        Pixels of the network's input from one cell to the next.
    origin : float | tuple[float, float]
        The pixel of the network's input at the centre of cell 0, where the axes differ as (row, column): 0 where
        convolutions are padded, (stride - 1) / 2 where cells share the image out among them (patches, pools without
        padding).
    input_size : tuple[int, int] or None
        Height and width that the image was resized to; None: it kept its own.
    """

    stride: int
    origin: float | tuple[float, float]
    input_size: tuple[int, int] | None = None

    def places(self, axis: int, cells: int, pixels: int) -> np.ndarray:
        """Where the pixels of an image lie among the cells of an axis.

        Parameters
        ----------
        axis : int
            0 for rows, 1 for columns.
        cells, pixels : int
            How many there are of each.

        Returns
        -------
        ndarray of float64, shape (pixels,)
            From 0 to cells - 1: what lies beyond the centre of an outer cell lies at it.
        """
        extent = self.input_size[axis] if self.input_size else pixels
        resized = (np.arange(pixels) + 0.5) * (extent / pixels) - 0.5
        origin = self.origin[axis] if isinstance(self.origin, tuple) else self.origin
        return np.clip((resized - origin) / self.stride, 0, cells - 1)


@dataclass(frozen=True)
class Window:
    """What a layer looks at for one place of its output, along both axes alike.

    Attributes
    ----------
    kernel, stride, dilation : int
        As torch has them.
    padding : int | None
        Of zeros before the input; None: as many as it takes to share the input out (TensorFlow's SAME).
    averages : bool
        Whether it is an average.
    """

    kernel: int
    stride: int
    dilation: int
    padding: int | None
    averages: bool = False

    def shift(self, extent: int) -> float:
        """How far the centre of the first window lies from the first of `extent` input places."""
        reach = (self.kernel - 1) * self.dilation
        padding = self.padding
        if padding is None:
            padding = max((math.ceil(extent / self.stride) - 1) * self.stride + reach + 1 - extent, 0) // 2
        return reach / 2 - padding


@dataclass(frozen=True)
class Centres:
    """Where the cells of a map lie: the windows on the way to it by the stride of their input, and the map's stride."""

    windows: tuple[tuple[int, Window], ...]
    stride: int

    def origin(self, side: int) -> float:
        """The pixel at the centre of cell 0, in an image with a side of so many pixels."""
        shifts: dict[int, list[float]] = {}
        steps: dict[int, int] = {}
        origin = 0.0
        for before, window in self.windows:
            shift = window.shift(math.ceil(side / before))
            if window.stride > 1:
                # Several at one place are branches (a block and its shortcut); those that leave the path, as keys of
                # an attention do, shrink by more.
                if window.stride < steps.setdefault(before, window.stride):
                    steps[before], shifts[before] = window.stride, []
                if window.stride == steps[before]:
                    shifts.setdefault(before, []).append(shift)
            else:
                # An average that shrinks nothing stands in the shortcut of a dilated block: half of what is added.
                origin += shift * before / (2 if window.averages else 1)
        stride = 1
        while stride < self.stride:
            if stride in shifts:
                origin += sum(shifts[stride]) / len(shifts[stride]) * stride
                stride *= steps[stride]
                continue
            # What shrinks without a window shares its input out: patches are merged.
            following = min((one for one in shifts if stride < one < self.stride), default=self.stride)
            origin += (following / stride - 1) / 2 * stride
            stride = following
        return origin
