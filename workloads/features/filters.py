"""A weight-free extractor: a multi-scale filter bank, so that the whole method runs with no download.

Every place of a coarse grid is described by what the image looks like around it: colour in an opponent space at two
ranges, how much that colour varies, the energy of oriented quadrature filters at three scales, which orientation
prevails, and where in the image it lies (a street has its sky at the top). Each channel is centred and scaled by a
fixed constant of its family, so that channels weigh alike and cosine similarity means something. No statistics are
taken from the data at hand: the features of an image depend on that image alone.

Energies of quadrature pairs as in Malik and Perona, "Preattentive texture discrimination with early vision mechanisms"
(1990); exposure and white balance are taken out by dividing by the image's own mean colour (von Kries). The families,
constants and weights are ours: the constants are means and standard deviations over 100 generated street scenes
(`datasets.scenes`), the weights were chosen on those scenes too. K-means on them, K = 15, stride 8, 200 pixels of each
of the 100: mIoU 24.7 under the best matching on 100 scenes used for neither.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from workloads.configs.extraction import FilterBankConfig
from workloads.errors import InputError

CELL = 8
"""Pixels per place at which everything is computed; larger output strides average places."""

NUM_SCALES = 3
NUM_ORIENTATIONS = 4
KERNEL_SIZE = 7
WAVELENGTH = 4.0
ENVELOPE = 1.8
"""Wavelength and standard deviation of the Gabor filters, in pixels of their scale (1, 2 and 4 pixels)."""

# Balanced RGB to lightness, red-green and yellow-blue.
OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (1.0, -1.0, 0.0), (0.5, 0.5, -1.0))
DARKEST_MEAN = 0.05
"""Added to an image's mean colour before dividing by it, so that a black image stays black."""

SMALLEST_ENERGY = 0.03
"""Added to energies before the logarithm: about what sensor noise of 1 % gives."""

NEAR, AROUND = 1.0, 1.5
"""Standard deviations, in places, of the Gaussian windows."""


class FilterBank(nn.Module):
    """float (B, 3, H, W) in [0, 1] to float32 (B, 41, ceil(H / stride), ceil(W / stride)).

    `output_stride` is a multiple of 8. Channels, in the order of `FAMILIES`: colour of the place and around it (3 + 3),
    its standard deviation in the place and around it (3 + 3), log energies of 4 orientations at 3 scales (12), their
    mean over orientations around the place (3), vertical against horizontal and one diagonal against the other at 3
    scales, in the place and around it (6 + 6), height in the image and distance from its vertical axis (1 + 1).
    """

    gabor: torch.Tensor
    opponent: torch.Tensor
    centre: torch.Tensor
    scale: torch.Tensor

    def __init__(self, config: FilterBankConfig, output_stride: int) -> None:
        super().__init__()
        if output_stride % CELL:
            raise InputError(
                f"{output_stride} is not possible for filters",
                key="output_stride",
                value=output_stride,
                allowed="allowed are multiples of 8",
            )
        self.step = output_stride // CELL
        centre: list[float] = []
        scale: list[float] = []
        for family in FAMILIES:
            weight = getattr(config, family.weight) * family.share / math.sqrt(len(family.mean))
            centre += family.mean
            scale += [weight / deviation for deviation in family.deviation]
        self.channels = len(centre)
        self.register_buffer("gabor", _gabor_pairs())
        self.register_buffer("opponent", torch.tensor(OPPONENT).view(3, 3, 1, 1))
        self.register_buffer("centre", torch.tensor(centre).view(1, -1, 1, 1))
        self.register_buffer("scale", torch.tensor(scale).view(1, -1, 1, 1))

    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Standardised and weighted channels; not normalised to length one."""
        mean_colour = images_B3HW.mean(dim=(2, 3), keepdim=True)
        opponent_B3HW = F.conv2d(images_B3HW / (mean_colour + DARKEST_MEAN), self.opponent)
        first, second = _per_cell(opponent_B3HW, CELL), _per_cell(opponent_B3HW.square(), CELL)
        energies = self._energies(opponent_B3HW[:, :1])
        texture, texture_around = (energies + SMALLEST_ENERGY).log(), _blur(energies.flatten(1, 2), AROUND)
        texture_around = (texture_around.view_as(energies) + SMALLEST_ENERGY).log()
        raw = [
            first,
            _blur(first, NEAR),
            _deviation(first, second),
            _deviation(_blur(first, AROUND), _blur(second, AROUND)),
            texture.flatten(1, 2),
            texture_around.mean(dim=2),
            _prevailing(texture),
            _prevailing(texture_around),
            _places(first),
        ]
        features = (torch.cat(raw, dim=1) - self.centre) * self.scale
        return _per_cell(features, self.step)

    def _energies(self, lightness_B1HW: torch.Tensor) -> torch.Tensor:
        """Mean energy per place of every scale and orientation, (B, scales, orientations, h, w)."""
        energies = []
        border = KERNEL_SIZE // 2
        for scale in range(NUM_SCALES):
            padded = F.pad(lightness_B1HW, (border,) * 4, mode="replicate")
            responses = F.conv2d(padded, self.gabor)
            even, odd = responses[:, :NUM_ORIENTATIONS], responses[:, NUM_ORIENTATIONS:]
            energies.append(_per_cell((even.square() + odd.square()).sqrt(), CELL >> scale))
            lightness_B1HW = _per_cell(lightness_B1HW, 2)
        return torch.stack(energies, dim=1)


@dataclass(frozen=True)
class Family:
    """Channels that share a weight of `FilterBankConfig`, with the constants that standardise each of them.

    `share` multiplies the weight; `mean` and `deviation` are those of the raw channels over the scenes.
    """

    weight: str
    share: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


# In the order of `FilterBank.forward`; measured over the first 100 training scenes (160 × 240, seed 0), rounded.
FAMILIES = (
    Family("colour", 1.0, (0.89, 0.0, 0.0), (0.30, 0.13, 0.16)),
    Family("colour", 0.7, (0.89, 0.0, 0.0), (0.25, 0.10, 0.12)),
    Family("variation", 1.0, (0.12, 0.075, 0.075), (0.10, 0.067, 0.067)),
    Family("variation", 1.0, (0.22, 0.12, 0.12), (0.11, 0.08, 0.08)),
    Family(
        "texture",
        1.0,
        (-2.0,) * 4 + (-1.95,) * 4 + (-1.75,) * 4,
        (0.69, 0.56, 0.63, 0.55) + (0.86, 0.71, 0.79, 0.71) * 2,
    ),
    Family("texture", 0.5, (-1.9, -1.8, -1.6), (0.40, 0.50, 0.52)),
    Family("orientation", 0.7, (0.0,) * 6, (0.69, 0.39, 0.89, 0.54, 0.96, 0.62)),
    Family("orientation", 0.7, (0.0,) * 6, (0.44, 0.26, 0.61, 0.39, 0.68, 0.41)),
    Family("position", 1.0, (0.0,), (0.58,)),
    Family("position", 0.3, (0.5,), (0.29,)),
)


def _gabor_pairs() -> torch.Tensor:
    """Even filters of every orientation, then odd ones: (2 * orientations, 1, k, k), sum 0, length 1."""
    offsets = torch.arange(KERNEL_SIZE) - (KERNEL_SIZE - 1) / 2
    y, x = torch.meshgrid(offsets, offsets, indexing="ij")
    envelope = torch.exp(-(x.square() + y.square()) / (2 * ENVELOPE**2))
    filters = []
    for phase in (0.0, math.pi / 2):
        for orientation in range(NUM_ORIENTATIONS):
            angle = math.pi * orientation / NUM_ORIENTATIONS
            along = x * math.cos(angle) + y * math.sin(angle)
            wave = envelope * torch.cos(2 * math.pi * along / WAVELENGTH + phase)
            # A filter that does not sum to zero would answer to brightness.
            wave = wave - envelope * (wave.sum() / envelope.sum())
            filters.append(wave / wave.norm())
    return torch.stack(filters)[:, None]


def _per_cell(maps_BCHW: torch.Tensor, size: int) -> torch.Tensor:
    """Means over squares of `size`; a square that the border cuts is averaged over what is there."""
    return F.avg_pool2d(maps_BCHW, size, size, ceil_mode=True) if size > 1 else maps_BCHW


def _blur(maps_BChw: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian window of standard deviation `sigma` places, borders repeated."""
    radius = math.ceil(2.5 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=maps_BChw.device)
    window = torch.exp(-offsets.square() / (2 * sigma**2))
    channels = maps_BChw.shape[1]
    vertical = (window / window.sum()).view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    maps_BChw = F.conv2d(F.pad(maps_BChw, (0, 0, radius, radius), mode="replicate"), vertical, groups=channels)
    padded = F.pad(maps_BChw, (radius, radius, 0, 0), mode="replicate")
    return F.conv2d(padded, vertical.transpose(2, 3), groups=channels)


def _deviation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Standard deviation from the first two moments; rounding may make the variance negative."""
    return (second - first.square()).clamp_min(0).sqrt()


def _prevailing(texture_BSOhw: torch.Tensor) -> torch.Tensor:
    """Vertical against horizontal and diagonal against diagonal, (B, 2 * scales, h, w)."""
    half = NUM_ORIENTATIONS // 2
    return (texture_BSOhw[:, :, :half] - texture_BSOhw[:, :, half:]).flatten(1, 2)


def _places(maps_BChw: torch.Tensor) -> torch.Tensor:
    """Height, -1 at the top to 1 at the bottom, and distance from the vertical axis, 0 to 1: (B, 2, h, w)."""
    batch, _, height, width = maps_BChw.shape
    rows = (torch.arange(height, device=maps_BChw.device) + 0.5) / height * 2 - 1
    columns = (torch.arange(width, device=maps_BChw.device) + 0.5) / width * 2 - 1
    y = rows.view(1, 1, height, 1).expand(batch, 1, height, width)
    x = columns.abs().view(1, 1, 1, width).expand(batch, 1, height, width)
    return torch.cat([y, x], dim=1)
