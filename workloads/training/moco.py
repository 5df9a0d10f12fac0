"""Momentum contrast (MoCo v2), the image-level baseline, as a pre-training objective on the user's own images.

The backbone's pooled features pass a two-layer head; a slowly moving copy of both embeds the other view as key; the
query must find its key among a queue of earlier keys (cross-entropy over cosines / T, the key first).

Source: He et al. 2020 and Chen et al. 2020 (arXiv:2003.04297): K 65 536, m 0.999, T 0.2, 128 dimensions, MLP head.
Departures, ours: views are those of the configuration (Table 8 by default) rather than MoCo's resized crops, with a
least overlap; the queue is never longer than there are images; and the order of keys is not shuffled between workers
before batch normalisation, which is over the batch of all workers here, so that the result does not depend on their
number.
"""

import copy
import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.configs.training import PretrainConfig
from workloads.networks.segmentors import Segmentor
from workloads.training.batches import Sample, Slot
from workloads.training.collectives import SingleProcess, Workers, at_least_float32
from workloads.training.loop import Batch, Objective
from workloads.training.views import image_views, prepared

logger = logging.getLogger(__name__)


class PooledEmbedding(nn.Module):
    """A backbone, global average pooling, and a two-layer head; embeddings of norm 1."""

    def __init__(self, backbone: nn.Module, in_channels: int, embedding_dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(
            nn.Linear(in_channels, in_channels), nn.ReLU(inplace=True), nn.Linear(in_channels, embedding_dim)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, h, w) to (B, D)."""
        pooled = self.backbone(images).last.mean(dim=(2, 3))
        return F.normalize(at_least_float32(self.head(pooled)), dim=1, eps=1e-6)


def follow(copied: nn.Module, followed: nn.Module, momentum: float) -> None:
    """Move every parameter of a momentum copy: momentum x itself + (1 - momentum) x the followed one."""
    with torch.no_grad():
        for own, other in zip(copied.parameters(), followed.parameters(), strict=True):
            own.lerp_(other, 1 - momentum)


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy that asks for no gradients."""
    return copy.deepcopy(module).requires_grad_(False)


class MomentumContrast(Objective):
    """MoCo v2 around a segmentor's backbone; label maps are not looked at."""

    queue: Tensor
    oldest: Tensor

    def __init__(
        self, segmentor: Segmentor, config: PretrainConfig, num_images: int, workers: Workers | None = None
    ) -> None:
        super().__init__()
        self.segmentor = segmentor
        self.config = config
        self.views = config.views
        self.workers = workers or SingleProcess()
        self.shown = {}
        moco = config.moco
        channels = segmentor.stage_channels[1]
        self.query = PooledEmbedding(segmentor.backbone, channels, moco.embedding_dim)
        self.key = frozen_copy(self.query)
        # A longer queue would hold an image's own old keys, as negatives, once for every epoch it reaches back.
        length = min(moco.queue, num_images)
        if length < moco.queue:
            logger.warning("moco.queue: %d keys, as many as there are images, in place of %d", length, moco.queue)
        self.register_buffer("queue", F.normalize(torch.randn(length, moco.embedding_dim), dim=1))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))
        self._new_keys: Tensor | None = None

    def inputs(self, sample: Sample, slot: Slot) -> Batch:
        """`views` float32 (2, 3, h, w)."""
        image = prepared(sample.image, self.views)
        views = image_views(image, slot, self.config)
        return {"views": torch.stack([view.image for view in views])}

    def forward(self, batch: Batch) -> Tensor:
        """Mean cross-entropy of finding the key of view 1 with the query of view 0."""
        queries = self.query(batch["views"][:, 0])
        with torch.no_grad():
            keys = self.key(batch["views"][:, 1])
            self._new_keys = self.workers.gather(keys)
        loss, right = queue_loss(queries, keys, self.queue.clone(), self.config.moco.temperature)
        self.shown = {"found": right}
        return loss

    def after_step(self, progress: float) -> None:
        """Move the key network, and put the step's keys over the oldest ones."""
        follow(self.key, self.query, self.config.moco.momentum)
        if self._new_keys is not None:
            new = self._new_keys[-len(self.queue) :]
            places = (self.oldest + torch.arange(len(new), device=new.device)) % len(self.queue)
            self.queue[places] = new
            self.oldest.copy_((self.oldest + len(new)) % len(self.queue))


def queue_loss(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE of queries (B, D) with their keys (B, D) against a queue (K, D), all of norm 1; and the share found."""
    with torch.autocast(queries.device.type, enabled=False):
        own = (queries * keys).sum(dim=1, keepdim=True)
        logits = torch.cat([own, queries @ queue.T], dim=1) / temperature
        target = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
        return F.cross_entropy(logits, target), (logits.detach().argmax(dim=1) == 0).float().mean()
