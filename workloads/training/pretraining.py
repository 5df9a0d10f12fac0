"""Contrastive pre-training of a segmentation network.

Two augmented views of every image pass through the network below its last 1x1 convolution and a projection head; a
seeded, label-balanced sample of their cells are the anchors of `workloads.training.contrast`. The anchors of an image
are drawn by the image's own random numbers and the loss is a mean over the anchors of all workers, so workers only
split the batch. `pretrain.objective` may also be MoCo v2 or PixPro, the baselines of the paper's tables.

Only the objective differs between rows that are compared: loop, order and augmentation are the same.

Not in the supplement, hence options: which part is pre-trained (`scope`), the loss, the optimiser and the epochs.
Dropout is off during pre-training: it would be noise in the keys, and the one thing that depends on the split.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from workloads.configs.training import PretrainConfig
from workloads.errors import InputError
from workloads.ignored import IGNORE_LABEL
from workloads.networks.segmentors import (
    ProjectionHead,
    Segmentor,
    build_segmentor,
    set_dropout,
)
from workloads.seeding import generator, stable_hash
from workloads.training.batches import Sample, Slot, Source, check_labels
from workloads.training.collectives import SingleProcess, Workers, at_least_float32
from workloads.training.contrast import Keys, LabelMemory, cell_labels, contrastive_loss, joined, places, sample_anchors
from workloads.training.loop import Batch, Loop, Machine, Objective, Wrap
from workloads.training.moco import MomentumContrast
from workloads.training.pixpro import PixelPropagation
from workloads.training.views import View, image_views, prepared, resize_labels


class PixelContrast(Objective):
    """Pixel-level supervised contrast; a sample's map holds auxiliary labels or superpixels, uint16, 65535 ignored.

    `num_clusters` is the number of auxiliary labels, needed for the memory and checked where given.
    """

    def __init__(
        self,
        segmentor: Segmentor,
        config: PretrainConfig,
        num_clusters: int | None = None,
        workers: Workers | None = None,
    ) -> None:
        super().__init__()
        self.segmentor = segmentor
        self.config = config
        self.views = config.views
        self.num_clusters = num_clusters
        self.learns_from = (
            f"the {config.contrast.anchors_per_image} anchor slots of an image (positives "
            f"{config.contrast.positives!r}, cells of {segmentor.config.output_stride} pixels)"
        )
        self.workers = workers or SingleProcess()
        self.shown = {}
        channels = segmentor.config.channels if config.scope == "segmentor" else segmentor.stage_channels[1]
        self.projection = ProjectionHead(channels, config.contrast.embedding_dim)
        self.memory: LabelMemory | None = None
        if config.contrast.memory_per_label:
            if num_clusters is None:
                raise InputError("memory_per_label needs the number of labels")
            self.memory = LabelMemory(num_clusters, config.contrast)
        self._seen: Keys | None = None

    def inputs(self, sample: Sample, slot: Slot) -> Batch:
        """`views` float32 (2, 3, h, w); `cells` and `labels` of the anchors, int64 (anchors_per_image,)."""
        contrast = self.config.contrast
        image = prepared(sample.image, self.views)
        labels = self._checked_labels(sample, slot.image_id)
        if labels is not None:
            labels = resize_labels(labels, (image.shape[0], image.shape[1]))
        views = image_views(image, slot, self.config)
        cells = torch.stack([self._cells(view, labels, image.shape[1]) for view in views]).numpy()
        rng = generator(self.config.seed, "anchors", slot.epoch, slot.image_id)
        anchors = sample_anchors(cells, contrast.anchors_per_image, contrast.positives, rng)
        return {
            "views": torch.stack([view.image for view in views]),
            "cells": torch.from_numpy(anchors.cells),
            "labels": torch.from_numpy(anchors.labels),
        }

    def _checked_labels(self, sample: Sample, image_id: str) -> np.ndarray | None:
        if self.config.contrast.positives == "pixel":
            return None
        num_clusters = self.num_clusters if self.config.contrast.positives == "auxiliary" else None
        return check_labels(image_id, sample, "label map", num_clusters, IGNORE_LABEL)

    def _cells(self, view: View, labels: np.ndarray | None, image_width: int) -> Tensor:
        stride, contrast = self.segmentor.config.output_stride, self.config.contrast
        if labels is None:
            # Many places share a cell where the view is shrunk, so none has a majority: take the one at its centre.
            return cell_labels(places(view.pixels, image_width, contrast.pixel_cell), stride, "nearest")
        # A superpixel is smaller than a cell's window more often than not, and would have no majority in it.
        rule = contrast.cell_label if contrast.positives == "auxiliary" else "nearest"
        return cell_labels(view.look_up(labels, IGNORE_LABEL), stride, rule)

    def embeddings(self, views: Tensor) -> Tensor:
        """Projected features of views (N, 3, h, w): (N, D, h / stride, w / stride), not normalised."""
        if self.config.scope == "backbone":
            return self.projection(self.segmentor.backbone(views).last)
        return self.projection(self.segmentor.representation(views))

    def forward(self, batch: Batch) -> Tensor:
        """The loss of this worker's anchors over the anchors of all workers, times the number of workers."""
        views = batch["views"]
        embedded = self.embeddings(views.flatten(0, 1))
        flat = embedded.permute(0, 2, 3, 1).reshape(views.shape[0], -1, embedded.shape[1])
        per_view = flat.shape[1] // views.shape[1]
        chosen = flat.gather(1, batch["cells"][..., None].expand(-1, -1, flat.shape[2]))
        with torch.autocast(views.device.type, enabled=False):
            vectors = F.normalize(at_least_float32(chosen), dim=2, eps=1e-6).flatten(0, 1)
        first_image = self.workers.rank * views.shape[0]
        images = first_image + torch.arange(views.shape[0], device=views.device)
        anchors = Keys(
            vectors,
            batch["labels"].flatten(),
            images[:, None].expand_as(batch["labels"]).flatten(),
            (batch["cells"] // per_view).flatten(),
        )
        seen = Keys(*(self.workers.gather(part) for part in anchors))
        keys = joined(seen, self.memory.keys()) if self.memory is not None else seen
        loss = contrastive_loss(anchors, keys, self.workers.rank * vectors.shape[0], self.config.contrast)
        per_image = loss.counted.view(views.shape[0], -1)
        shares = torch.stack([per_image.sum(), per_image.any(dim=1).sum()]).float()
        everywhere, images_with = self.workers.sum(shares)
        num_images = views.shape[0] * self.workers.size
        self.filled = everywhere / (num_images * per_image.shape[1])
        self._seen = Keys(*(part.detach() for part in seen))
        self.shown = {
            "anchors": everywhere,
            "anchors_filled": self.filled,
            "images_without_positive": 1 - images_with / num_images,
            "positive_cosine": loss.positive_cosine,
            "negative_cosine": loss.negative_cosine,
        }
        return loss.total / everywhere.clamp(min=1) * self.workers.size

    def after_step(self, progress: float) -> None:
        """Remember the step's keys."""
        if self.memory is not None and self._seen is not None:
            self.memory.update(self._seen)


def build_objective(
    segmentor: Segmentor,
    config: PretrainConfig,
    num_images: int,
    num_clusters: int | None = None,
    workers: Workers | None = None,
) -> Objective:
    """The objective that `config` names, around a network that holds its first weights."""
    set_dropout(segmentor, 0.0)
    # What no gradient reaches must not ask for one: DistributedDataParallel would wait for it.
    trained_names = ("backbone.", "classifier.") if pretrained_scope(config) == "segmentor" else ("backbone.",)
    for name, parameter in segmentor.named_parameters():
        parameter.requires_grad_(name.startswith(trained_names) and not name.startswith(segmentor.logits_prefix))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_hash(config.seed, "objective") % 2**63)
        match config.objective:
            case "contrast":
                return PixelContrast(segmentor, config, num_clusters, workers)
            case "moco":
                return MomentumContrast(segmentor, config, num_images, workers)
            case "pixpro":
                return PixelPropagation(segmentor, config)


def pretraining_network(config: PretrainConfig) -> Segmentor:
    """The network with random weights; pass it to `networks.initialise` for any other first weights."""
    return build_segmentor(config.segmentor, num_classes=1, seed=stable_hash(config.seed, "network") % 2**63)


def pretrained_scope(config: PretrainConfig) -> Literal["segmentor", "backbone"]:
    """What a run trains: MoCo and PixPro never see the head."""
    return config.scope if config.objective == "contrast" else "backbone"


def pretraining_loop(
    segmentor: Segmentor,
    source: Source,
    config: PretrainConfig,
    *,
    num_clusters: int | None = None,
    machine: Machine | None = None,
    workers: Workers | None = None,
    wrap: Wrap | None = None,
) -> Loop:
    """The loop of one worker; `segmentor` holds its first weights, equal on all workers.

    At the end, `networks.pretrained_state(segmentor, pretrained_scope(config))` is what fine-tuning loads.
    """
    shared = workers or SingleProcess()
    objective = build_objective(segmentor, config, len(source.ids), num_clusters, shared)
    return Loop(objective, source, config, machine=machine, workers=shared, wrap=wrap)
