"""Training a segmentation network on true labels.

Cross-entropy over the labelled pixels of augmented images, plus a share of the same loss of the auxiliary head, as an
`Objective` of `workloads.training.loop`. Everything below the last 1x1 convolutions may start from a pre-trained
network, which is what this project compares.

Padding and unlabelled pixels count for nothing, a batch without a labelled pixel has loss zero (torch's own mean would
not be a number), and label maps whose values do not fit the classes are refused.

Sources: the recipes' are in `workloads.configs.recipes`; weight 0.4 of the auxiliary loss: PSPNet (Zhao et al. 2017);
weights of the classes: ENet (Paszke et al. 2016).
"""

from collections.abc import Collection, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from workloads.configs.training import FinetuneConfig
from workloads.errors import InputError
from workloads.ignored import IGNORE_CLASS
from workloads.networks.segmentors import Logits, Segmentor
from workloads.seeding import generator
from workloads.training.batches import Sample, Slot, Source, check_labels
from workloads.training.collectives import SingleProcess, Workers, at_least_float32
from workloads.training.loop import Batch, Loop, Machine, Objective, Wrap
from workloads.training.views import draw, render


class Finetuning(Objective):
    """Cross-entropy of a segmentor on ground truth uint8 (H, W), 255 ignored.

    `class_weights` float (M,) says how much a pixel of each class counts; None: all alike.
    """

    class_weights: Tensor | None
    learns_from = "batches with a labelled pixel"

    def __init__(
        self,
        segmentor: Segmentor,
        config: FinetuneConfig,
        workers: Workers | None = None,
        class_weights: Tensor | None = None,
        loaded: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.workers = workers or SingleProcess()
        if config.batch_size == self.workers.size:
            raise InputError(
                f"batch_size is {config.batch_size} with {self.workers.size} workers; allowed: 2 or more images per "
                "worker, since one pooled cell cannot be normalised"
            )
        self.loaded = loaded
        self.segmentor = segmentor
        self.config = config
        self.views = config.augmentation
        self.shown = {}
        # Not part of the state: it follows from the labelled images.
        self.register_buffer("class_weights", class_weights, persistent=False)

    def inputs(self, sample: Sample, slot: Slot) -> Batch:
        """`image` float32 (3, h, w) and `labels` int64 (h, w), -1 where nothing is known."""
        views = self.views
        labels = check_labels(slot.image_id, sample, "ground truth", self.segmentor.num_classes, IGNORE_CLASS)
        rng = generator(self.config.seed, "view", slot.epoch, slot.image_id, 0)
        view = render(sample.image, draw(views, slot.crop, rng), views.cutout_labels, views.image_size)
        return {"image": view.image, "labels": view.look_up(labels, IGNORE_CLASS)}

    def forward(self, batch: Batch) -> Tensor:
        """Mean cross-entropy over all labelled pixels of all workers; zero, with a graph, when there is none."""
        logits: Logits = self.segmentor(batch["image"])
        labels = batch["labels"]
        # Masked rather than picked out, for which the host would have to wait for the device.
        known = labels >= 0
        weight = (known if self.class_weights is None else self.class_weights[labels.clamp(min=0)] * known).sum()
        # Sums divided by the weight of the whole batch: a worker with few labelled pixels must not count for more.
        total = self.workers.sum(at_least_float32(weight))
        divisor = torch.where(total > 0, total, 1.0) / self.workers.size
        loss = self._summed_cross_entropy(logits.main, labels) / divisor
        self.filled = (total > 0).float()
        with torch.no_grad():
            right = (logits.main.argmax(dim=1) == labels).sum()
            self.shown = {"pixel_accuracy": right / known.sum().clamp(min=1), "main_loss": loss.detach()}
        if logits.auxiliary is not None:
            loss = loss + self.config.auxiliary_weight * self._summed_cross_entropy(logits.auxiliary, labels) / divisor
        return loss

    def _summed_cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        scores = at_least_float32(logits)
        weights = None if self.class_weights is None else self.class_weights.to(scores.dtype)
        return F.cross_entropy(scores, labels, weight=weights, ignore_index=-1, reduction="sum")


def class_pixels(ground_truth: Iterable[np.ndarray], num_classes: int) -> Tensor:
    """How many pixels each class has in `ground_truth`, uint8 (H, W), 255 ignored: int64 (num_classes,)."""
    counts = np.zeros(num_classes, np.int64)
    for labels in ground_truth:
        counts += np.bincount(labels.reshape(-1), minlength=IGNORE_CLASS + 1)[:num_classes]
    return torch.from_numpy(counts)


def log_inverse_weights(pixels: Tensor) -> Tensor:
    """1 / ln(1.02 + p) of every class, p being its share of the labelled pixels: float32 (num_classes,).

    From 1.4 for a class that is everywhere to 50 for one that is nowhere; all alike where nothing is labelled. `pixels`
    as `class_pixels` counts them.
    """
    share = pixels.double() / pixels.sum().clamp(min=1)
    return (1 / torch.log(1.02 + share)).float()


def finetuning_loop(
    segmentor: Segmentor,
    source: Source,
    config: FinetuneConfig,
    *,
    machine: Machine | None = None,
    workers: Workers | None = None,
    wrap: Wrap | None = None,
    class_weights: Tensor | None = None,
    loaded: Collection[str] = (),
) -> Loop:
    """The loop of one worker; `segmentor` holds its initial weights, equal on all workers.

    `loaded` names what of its state was pre-trained; the rest, but for the backbone, is new and learns `head_factor`
    times as fast.

    Raises
    ------
    InputError
        A batch of one image per worker, over which the network could not normalise.
    """
    shared = workers or SingleProcess()
    objective = Finetuning(segmentor, config, shared, class_weights, loaded)
    return Loop(objective, source, config, machine=machine, workers=shared, wrap=wrap)
