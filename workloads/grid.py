"""Where the cells of a feature map lie in the image that it was computed from."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CellGrid:
    """The places of cells, along both axes alike; the centre of a pixel is an integer.

    Attributes
    ----------
    stride : int
        Pixels of the network's input from one cell to the next.
    origin : float
        The pixel of the network's input at the centre of cell 0: 0 where convolutions are padded, (stride - 1) / 2
        where cells share the image out among them (patches, pools without padding).
    input_size : tuple[int, int] or None
        Height and width that the image was resized to; None: it kept its own.
    """

    stride: int
    origin: float
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
        return np.clip((resized - self.origin) / self.stride, 0, cells - 1)
