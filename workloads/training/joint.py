"""Fine-tuning with the contrast of pre-training beside it, in every step on as many unlabelled images as labelled ones.

The loss is the cross-entropy of the labelled images plus a share of the contrastive loss of the others, through one
network. What pre-training has taught is then not forgotten on the way, and a network that was not pre-trained learns
from both at once. The images of a step follow from its place in the stream, as the labelled ones do: nothing depends
on the number of workers.
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from workloads.configs.training import FinetuneConfig, JointConfig, PretrainConfig
from workloads.networks.segmentors import Segmentor
from workloads.seeding import generator, stable_hash
from workloads.training.batches import Order, Sample, Slot, Source
from workloads.training.collectives import Workers
from workloads.training.finetuning import Finetuning
from workloads.training.loop import Batch
from workloads.training.pretraining import PixelContrast
from workloads.training.views import crop_of_batch

_CONTRAST = "contrast_"


class Unlabelled(NamedTuple):
    """The images of the contrast with their auxiliary labels, how many clusters these have, and the options."""

    source: Source
    num_clusters: int | None
    config: JointConfig


class JointTraining(Finetuning):
    """Cross-entropy on labelled images and, `config.weight` times, the contrast on others."""

    def __init__(
        self,
        segmentor: Segmentor,
        config: FinetuneConfig,
        unlabelled: Unlabelled,
        workers: Workers | None = None,
        *,
        class_weights: Tensor | None = None,
        loaded: Collection[str] = (),
    ) -> None:
        super().__init__(segmentor, config, workers, class_weights, loaded)
        joint = unlabelled.config
        self.unlabelled, self.weight = unlabelled.source, joint.weight
        contrast = PretrainConfig(
            steps=config.total_steps(1),
            segmentor=config.segmentor,
            scope=joint.scope,
            views=joint.views or config.augmentation,
            contrast=joint.contrast,
            seed=config.seed,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stable_hash(config.seed, "objective") % 2**63)
            self.contrast = PixelContrast(segmentor, contrast, unlabelled.num_clusters, self.workers)
        self.learns_from = f"batches with a labelled pixel, or of {self.contrast.learns_from}"
        # Of its own seed: where all images are labelled, no step has an image twice for it.
        self._order = Order(self.unlabelled.ids, config.batch_size, stable_hash(config.seed, "joint") % 2**63)

    def inputs(self, sample: Sample, slot: Slot) -> Batch:
        """Those of the labelled image, and of the unlabelled one of the same place in the stream."""
        step, position = divmod(slot.place, self.config.batch_size)
        image_id, epoch = self._order.batch(step)[position]
        crop = crop_of_batch(self.contrast.views, generator(self.config.seed, "joint crop", step))
        views = self.contrast.inputs(self.unlabelled.load(image_id), Slot(image_id, epoch, crop))
        return super().inputs(sample, slot) | {f"{_CONTRAST}{name}": tensor for name, tensor in views.items()}

    def forward(self, batch: Batch) -> Tensor:
        """The cross-entropy and its share of the contrast, each over the images of all workers."""
        views = {name.removeprefix(_CONTRAST): batch[name] for name in batch if name.startswith(_CONTRAST)}
        loss = super().forward(batch)
        contrast = self.contrast(views)
        assert self.filled is not None and self.contrast.filled is not None
        self.filled = torch.minimum(self.filled, self.contrast.filled)
        self.shown |= self.contrast.shown | {"contrast_loss": contrast.detach()}
        return loss + self.weight * contrast

    def after_step(self, progress: float) -> None:
        """Remember the step's keys."""
        self.contrast.after_step(progress)
