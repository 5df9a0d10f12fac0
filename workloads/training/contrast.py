"""Pixel-level supervised contrast: cells of the feature map that carry one label attract, all others repel.

Every image contributes the same number of anchor slots, drawn from its two views so that labels are balanced, with
random numbers of its own; empty slots have label -1. The keys are the anchors of all images of the batch, on all
workers, and optionally a memory per label. For anchor i with positives P(i) and negatives N(i)

    loss_i = mean over p in P(i) of  -log( exp(s_ip / T) / (exp(s_ip / T) + sum over n in N(i) of exp(s_in /
    T)) )

with s the cosine. The loss is the mean over anchors that have a positive and a negative; without any it is zero, with a
graph, so that every worker still takes part in the backward pass.

The failure this guards against: losses that depend on how many workers split the batch, and the known defects of other
implementations: label 0 left out, an anchor its own positive, labels of few pixels dropped, memories that overwrite the
wrong entries, infinities when a batch holds one label only.

Sources: per-positive InfoNCE as in Wang et al. 2021 ("Exploring Cross-Image Pixel Contrast"), temperature 0.1 there
too. The paper's loss, temperature, head, anchors and memory are not in its supplement: all are options here.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.configs.objectives import ContrastConfig, Positives
from workloads.errors import InputError
from workloads.training.collectives import at_least_float32

# Stands for minus infinity in sums of exponentials: its exponential is zero and its gradient is zero, not NaN.
NEVER = -1e30


def cell_labels(labels: Tensor, stride: int, rule: Literal["majority", "nearest"]) -> Tensor:
    """Labels int64 (h, w) of a view as its feature cells see them: (ceil(h / stride), ceil(w / stride)), -1 ignored.

    A strided convolution centres cell (i, j) on pixel (stride i, stride j). `majority` looks at the stride x stride
    pixels around it (pixels beyond the border count as ignored) and ignores a cell without a strict majority.
    """
    if rule == "nearest" or stride == 1:
        return labels[::stride, ::stride].contiguous()
    before = stride // 2
    height, width = (-(-side // stride) for side in labels.shape)
    after = [size * stride - before - side for size, side in zip((height, width), labels.shape, strict=True)]
    padded = F.pad(labels, (before, max(0, after[1]), before, max(0, after[0])), value=-1)
    windows = padded[: height * stride, : width * stride].reshape(height, stride, width, stride)
    windows = windows.permute(0, 2, 1, 3).reshape(height, width, stride * stride)
    # A value that more than half of the entries share is their median.
    candidate = windows.median(dim=-1).values
    strict = (windows == candidate[..., None]).sum(dim=-1) * 2 > stride * stride
    return torch.where(strict, candidate, -1)


def places(pixels: Tensor, image_width: int, cell: int) -> Tensor:
    """Pixel ids int64 (h, w) of a view as ids of the image's cell x cell squares, -1 outside."""
    across = -(-image_width // cell)
    rows = torch.div(pixels, image_width, rounding_mode="floor")
    columns = pixels - rows * image_width
    square = torch.div(rows, cell, rounding_mode="floor") * across + torch.div(columns, cell, rounding_mode="floor")
    return torch.where(pixels >= 0, square, -1)


class AnchorSlots(NamedTuple):
    """The anchors of one image: where in its flattened (V, h, w) cells, and their labels, both int64 (n,).

    An empty slot is cell 0 with label -1.
    """

    cells: np.ndarray
    labels: np.ndarray


def sample_anchors(cells: np.ndarray, slots: int, positives: Positives, generator: np.random.Generator) -> AnchorSlots:
    """Draw the anchors of one image, balanced over the labels of its cells int64 (V, h, w).

    Labels take turns in random order, the first turn for two cells (of different views where there are), every other
    for one, until the slots are full or the cells used up; so a label of three cells gives three anchors, and none is
    dropped for being small. A label that can have no positive is passed over: a superpixel of one cell, a place seen in
    one view.
    """
    flat = cells.reshape(-1)
    index = np.flatnonzero(flat >= 0)
    label, number = np.unique(flat[index], return_inverse=True)
    view = index // (cells.shape[1] * cells.shape[2])
    if positives != "auxiliary" and index.size:
        per_view = np.zeros((label.size, cells.shape[0]), np.int64)
        np.add.at(per_view, (number, view), 1)
        able = per_view.sum(1) >= 2 if positives == "superpixel" else (per_view > 0).sum(1) >= 2
        keep = able[number]
        index, number, view = index[keep], number[keep], view[keep]
    chance = generator.random(index.size)
    within_view = _rank(number * cells.shape[0] + view, chance)
    # Of equal ranks the view drawn first for the label goes first.
    view_order = generator.random((label.size, cells.shape[0]))[number, view]
    within_label = _rank(number, within_view + 0.5 * view_order)
    priority = generator.random(label.size)[number]
    order = np.lexsort((within_label, priority, np.maximum(within_label, 1)))[:slots]
    chosen = AnchorSlots(np.zeros(slots, np.int64), np.full(slots, -1, np.int64))
    chosen.cells[: order.size] = index[order]
    chosen.labels[: order.size] = label[number[order]]
    return chosen


def _rank(group: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The rank of each value within its group, from 0."""
    order = np.lexsort((value, group))
    ordered = group[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if group.size else np.zeros(0, np.int64)
    sizes = np.diff(np.r_[first, group.size])
    rank = np.empty(group.size, np.int64)
    rank[order] = np.arange(group.size) - np.repeat(first, sizes)
    return rank


class Keys(NamedTuple):
    """Embeddings with what decides whom they attract: float32 (N, D) of norm 1; label, image and view int64 (N,).

    Label -1 is an empty slot. Labels of superpixels and places need be unique within an image only.
    """

    vectors: Tensor
    labels: Tensor
    images: Tensor
    views: Tensor


class ContrastLoss(NamedTuple):
    """`total` is summed over the anchors `counted`, bool (N,), which have a positive and a negative.

    The cosines are detached means.
    """

    total: Tensor
    counted: Tensor
    positive_cosine: Tensor
    negative_cosine: Tensor


def contrastive_loss(anchors: Keys, keys: Keys, first_column: int, config: ContrastConfig) -> ContrastLoss:
    """Per-positive InfoNCE of `anchors` against `keys`, in float32 even inside autocast.

    Anchor i is itself key `first_column + i`, which is neither its positive nor its negative.
    """
    with torch.autocast(anchors.vectors.device.type, enabled=False):
        cosines = at_least_float32(anchors.vectors) @ at_least_float32(keys.vectors).T
        logits = cosines / config.temperature
        rows = torch.arange(logits.shape[0], device=logits.device)
        other = torch.ones_like(logits, dtype=torch.bool)
        other[rows, first_column + rows] = False
        usable = (anchors.labels >= 0)[:, None] & (keys.labels >= 0) & other
        same_image = anchors.images[:, None] == keys.images
        same = anchors.labels[:, None] == keys.labels
        if config.positives != "auxiliary":
            same = same & same_image
        positive, negative = usable & same, usable & ~same
        if config.positives == "pixel":
            positive = positive & (anchors.views[:, None] != keys.views)
        if config.negatives == "image":
            negative = negative & same_image
        repulsion = torch.logsumexp(torch.where(negative, logits, NEVER), dim=1, keepdim=True)
        # -log(exp(p) / (exp(p) + sum exp(n))) = softplus(log sum exp(n) - p), which neither overflows nor
        # takes log(0).
        terms = F.softplus(torch.where(positive, repulsion - logits, NEVER))
        positives = positive.sum(dim=1)
        counted = (positives > 0) & negative.any(dim=1)
        per_anchor = terms.sum(dim=1) / positives.clamp(min=1)
        total = torch.where(counted, per_anchor, 0.0).sum()
        shown = cosines.detach()
        return ContrastLoss(
            total,
            counted,
            (shown * positive).sum() / positive.sum().clamp(min=1),
            (shown * negative).sum() / negative.sum().clamp(min=1),
        )


class LabelMemory(nn.Module):
    """A ring of the last keys of every label, without gradients; the same on every worker and part of the state."""

    vectors: Tensor
    position: Tensor
    filled: Tensor

    def __init__(self, num_clusters: int, config: ContrastConfig) -> None:
        super().__init__()
        self.capacity = config.memory_per_label
        self.update_per_label = config.memory_update_per_label
        shape = (num_clusters, self.capacity, config.embedding_dim)
        self.register_buffer("vectors", torch.zeros(shape))
        self.register_buffer("position", torch.zeros(num_clusters, dtype=torch.int64))
        self.register_buffer("filled", torch.zeros(num_clusters, dtype=torch.int64))

    def keys(self) -> Keys:
        """All entries as keys; entries never written have label -1."""
        num_clusters = self.vectors.shape[0]
        slots = torch.arange(self.capacity, device=self.vectors.device)
        owner = torch.arange(num_clusters, device=self.vectors.device)[:, None]
        labels = torch.where(slots < self.filled[:, None], owner, -1).reshape(-1)
        nowhere = torch.full_like(labels, -1)
        # A copy: the entries are overwritten before the backward pass needs them.
        return Keys(self.vectors.flatten(0, 1).clone(), labels, nowhere, nowhere)

    @torch.no_grad()
    def update(self, keys: Keys) -> None:
        """Remember the step's keys, at most `update_per_label` of a label, in their order, over the oldest entries."""
        held = keys.labels >= 0
        vectors, labels = keys.vectors[held].detach().to(self.vectors.dtype), keys.labels[held]
        num_clusters = self.vectors.shape[0]
        if labels.numel() == 0:
            return
        if int(labels.max()) >= num_clusters:
            raise InputError(f"label {int(labels.max())} in the label maps; allowed: 0 to {num_clusters - 1}")
        labels, order = torch.sort(labels, stable=True)
        counts = torch.bincount(labels, minlength=num_clusters)
        rank = torch.arange(labels.numel(), device=labels.device) - (counts.cumsum(0) - counts)[labels]
        kept = rank < self.update_per_label
        labels, rank = labels[kept], rank[kept]
        self.vectors[labels, (self.position[labels] + rank) % self.capacity] = vectors[order[kept]]
        added = counts.clamp(max=self.update_per_label)
        self.position.copy_((self.position + added) % self.capacity)
        self.filled.copy_((self.filled + added).clamp(max=self.capacity))


def joined(first: Keys, second: Keys) -> Keys:
    """Both sets of keys, one after the other."""
    return Keys(*(torch.cat(pair) for pair in zip(first, second, strict=True)))
