"""Pixel-to-propagation consistency (PixPro), the pixel-level baseline, as a pre-training objective.

The features of one view, smoothed over similar places of the view (propagation), must agree with the plain features
that a slowly moving copy of the network gives for the same places of the other view. There are no negatives. Places are
the same when their distance in the image, over the longer diagonal of a cell of the two views, is below 0.7.

Places outside the image pair with nothing, and views without common ground give no loss.

As published [1]_: projection 1x1 to 4096, batch normalisation, ReLU, 1x1 to 256; propagation with gamma 2 of features
transformed by one 1x1 convolution and brought to length one; loss -2 x the mean cosine of pairs, per image and in both
directions; momentum 0.99 rising to 1 by a cosine. Departures, ours: views are those of the configuration, with a least
overlap, and the optimiser is the configuration's (the published one is `lars` at a batch of 1024).

References
----------
.. [1] Xie et al., "Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised Visual Representation
   Learning", CVPR 2021; zdaxie/PixPro.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.configs.objectives import PixproConfig
from workloads.configs.training import PretrainConfig
from workloads.networks.segmentors import ProjectionHead, Segmentor
from workloads.training.batches import Sample, Slot
from workloads.training.collectives import at_least_float32
from workloads.training.loop import Batch, Objective
from workloads.training.moco import follow, frozen_copy
from workloads.training.views import View, image_views, prepared


class DenseEmbedding(nn.Module):
    """A backbone and a projection head."""

    def __init__(self, backbone: nn.Module, in_channels: int, config: PixproConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = ProjectionHead(in_channels, config.embedding_dim, config.hidden_channels)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, h, w) to embeddings (N, cells, D), cells in reading order, not normalised."""
        return self.projection(self.backbone(images).last).flatten(2).transpose(1, 2)


def propagate(embedded: Tensor, transform: nn.Module, gamma: float) -> Tensor:
    """Smooth x of shape (N, cells, D): y_i = sum over j of max(cos(x_i, x_j), 0)^gamma g(x_j) / |g(x_j)|."""
    unit = F.normalize(embedded, dim=2, eps=1e-6)
    similarity = (unit @ unit.transpose(1, 2)).clamp(min=0) ** gamma
    return similarity @ F.normalize(transform(embedded), dim=2, eps=1e-6)


def same_place(first: Tensor, second: Tensor, diagonals: Tensor, distance: float) -> Tensor:
    """Which cells of two views show the same place: bool (N, cells, cells).

    `first` and `second` hold (row, column) in the image, float (N, cells, 2), not a number outside it; `diagonals` (N,
    2) are the diagonals of a cell of each view, in pixels of the image.
    """
    apart = (first[:, :, None] - second[:, None, :]).square().sum(dim=-1).sqrt()
    # A comparison with what is not a number is false: places outside the image pair with nothing.
    return apart / diagonals.max(dim=1).values[:, None, None] < distance


def consistency(propagated: Tensor, target: Tensor, pairs: Tensor) -> Tensor:
    """-2 x the mean over images of the mean cosine of the pairs; an image without pairs counts as zero."""
    cosine = F.normalize(propagated, dim=2, eps=1e-6) @ F.normalize(target, dim=2, eps=1e-6).transpose(1, 2)
    weight = pairs.to(cosine.dtype)
    return -2 * ((cosine * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp(min=1)).mean()


class PixelPropagation(Objective):
    """PixPro around a segmentor's backbone; label maps are not looked at."""

    learns_from = "images with a pair of cells that show the same place"

    def __init__(self, segmentor: Segmentor, config: PretrainConfig) -> None:
        super().__init__()
        self.segmentor = segmentor
        self.config = config
        self.views = config.views
        self.shown = {}
        pixpro = config.pixpro
        channels = segmentor.stage_channels[1]
        self.online = DenseEmbedding(segmentor.backbone, channels, pixpro)
        self.target = frozen_copy(self.online)
        self.transform = nn.Linear(pixpro.embedding_dim, pixpro.embedding_dim)

    def inputs(self, sample: Sample, slot: Slot) -> Batch:
        """`views` float32 (2, 3, h, w), `places` float32 (2, cells, 2), `diagonals` float32 (2,)."""
        image = prepared(sample.image, self.views)
        views = image_views(image, slot, self.config)
        stride = self.segmentor.config.output_stride
        return {
            "views": torch.stack([view.image for view in views]),
            "places": torch.stack([_cell_places(view, stride, image.shape[1]) for view in views]),
            "diagonals": torch.tensor([math.sqrt(2) * stride / view.scale for view in views]),
        }

    def forward(self, batch: Batch) -> Tensor:
        """Consistency of both directions, mean over this worker's images."""
        views, places = batch["views"], batch["places"]
        number = views.shape[0]
        both = torch.cat([views[:, 0], views[:, 1]])
        embedded = self.online(both)
        with torch.no_grad():
            target = at_least_float32(self.target(both))
        with torch.autocast(views.device.type, enabled=False):
            propagated = propagate(at_least_float32(embedded), self.transform, self.config.pixpro.gamma)
            pairs = same_place(places[:, 0], places[:, 1], batch["diagonals"], self.config.pixpro.distance)
            forth = consistency(propagated[:number], target[number:], pairs)
            back = consistency(propagated[number:], target[:number], pairs.transpose(1, 2))
        self.filled = pairs.flatten(1).any(dim=1).float().mean()
        self.shown = {
            "pairs_per_image": pairs.sum().float() / number,
            "images_without_positive": 1 - self.filled,
            "cosine": -(forth + back).detach() / 4,
        }
        return forth + back

    def after_step(self, progress: float) -> None:
        """Move the momentum network; its momentum rises from the configured one to 1."""
        momentum = 1 - (1 - self.config.pixpro.momentum) * (1 + math.cos(math.pi * progress)) / 2
        follow(self.target, self.online, momentum)


def _cell_places(view: View, stride: int, image_width: int) -> Tensor:
    """Row and column in the image of each cell's centre, float32 (cells, 2); not a number outside."""
    pixels = view.pixels[::stride, ::stride].flatten()
    rows = torch.div(pixels, image_width, rounding_mode="floor")
    places = torch.stack([rows, pixels - rows * image_width], dim=1).to(torch.float32)
    return torch.where((pixels >= 0)[:, None], places, torch.nan)
