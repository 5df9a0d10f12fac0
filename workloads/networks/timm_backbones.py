"""A network of timm's as the backbone of a segmentation network.

All that is around a backbone here puts cell (i, j) at pixel (stride i, stride j), and takes images normalised as
torchvision's networks do. timm's networks differ in both: patches are centred elsewhere, and so are TensorFlow's
convolutions, by what the size of the image makes of their padding. So images are normalised anew, and padded such that
the centres fall where they are expected, to half a pixel. The failure this guards against: a head, an upsampling and
labels of cells that each believe another place of the same cell.
"""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from workloads.configs.networks import TIMM
from workloads.errors import InputError
from workloads.imagenet import IMAGENET_MEAN, IMAGENET_STD
from workloads.networks.timm_networks import TimmFeatures, build_timm, measure_centres, measure_sides


class _Placing(NamedTuple):
    """What is padded before and behind an axis, and the first of the middle stage's cells that is kept."""

    before: int
    behind: int
    middle: int


class TimmBackbone(TimmFeatures):
    """The last two stages of a network of timm's, with timm's names below `network`."""

    scale: Tensor
    offset: Tensor

    def __init__(self, name: str, output_stride: int) -> None:
        # Random weights follow torch's random state, as in all other parts of a network.
        seed = int(torch.randint(2**31, (), device="cpu").item())
        built = build_timm(name, output_stride, seed, (-2, -1))
        super().__init__(name, built.network, built.stages)
        if self.strides[1] != output_stride or not self.has_stages:
            raise InputError(
                f"{TIMM}{name} has no stages to build on",
                key="backbone",
                value=f"{TIMM}{name}",
                allowed="take a network with maps of several strides; plain transformers serve as extractors",
            )
        self.sides = measure_sides(built)
        if self.sides.multiple is None:
            raise InputError(f"{TIMM}{name} takes images of one size only", key="backbone", value=f"{TIMM}{name}")
        self.centres = measure_centres(built, self.sides)
        self.prune()
        mean, std, own_mean, own_std = (
            torch.tensor(one).view(3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_STD, self.mean, self.std)
        )
        self.register_buffer("scale", std / own_std, persistent=False)
        self.register_buffer("offset", (mean - own_mean) / own_std, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of the last two stages, (B, C, ceil(H / stride), ceil(W / stride)), of images (B, 3, H, W)."""
        height, width = images.shape[-2:]
        rows, columns = self._placing(int(height)), self._placing(int(width))
        own = images * self.scale.to(images.dtype) + self.offset.to(images.dtype)
        padded = F.pad(own, (columns.before, columns.behind, rows.before, rows.behind))
        middle, last = super().forward(padded)
        (middle_stride, stride), size = self.strides, (height, width)
        middle = _cut(middle, (rows.middle, columns.middle), [-(-side // middle_stride) for side in size])
        return middle, _cut(last, (0, 0), [-(-side // stride) for side in size])

    @functools.cache  # noqa: B019 - as many entries as there are sizes of images
    def _placing(self, side: int) -> _Placing:
        (middle_stride, stride), (middle, last) = self.strides, self.centres
        multiple = self.sides.multiple
        assert multiple is not None
        needed = -(-side // stride)
        padded = -(-side // multiple) * multiple
        while True:
            before = max(0, round(last.origin(padded)))
            if padded >= side + before and self.sides.cells(padded, stride) >= needed:
                kept = round((before - middle.origin(padded)) / middle_stride)
                return _Placing(before, padded - side - before, max(0, kept))
            padded += multiple


def _cut(maps: Tensor, first: tuple[int, int], cells: list[int]) -> Tensor:
    """So many cells from the first; where there are fewer the last one is repeated."""
    kept = maps[..., first[0] : first[0] + cells[0], first[1] : first[1] + cells[1]]
    below, beside = cells[0] - kept.shape[-2], cells[1] - kept.shape[-1]
    return F.pad(kept, (0, beside, 0, below), mode="replicate") if below or beside else kept
