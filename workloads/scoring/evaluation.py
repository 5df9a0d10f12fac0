"""Scoring a segmentation network against ground truth, at the ground truth's own size.

Class scores are computed at one or several scales, whole or in a sliding window, mirrored or not, brought to the size
of the ground truth, averaged after softmax and counted in one table of truth by prediction for the whole set. Tables of
parts of a set add up, so the images can be split in any way.

Ground truth is never resized, and ignored pixels count neither as errors nor as class 0.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as V
from torch import Tensor

from workloads.configs.training import EvaluationConfig
from workloads.ignored import IGNORE_CLASS
from workloads.imagenet import IMAGENET_MEAN, IMAGENET_STD
from workloads.networks.segmentors import Segmentor
from workloads.scoring.metrics import network_confusion
from workloads.training.batches import Sample, Source, check_labels


def class_counts(
    segmentor: Segmentor, images: Source, config: EvaluationConfig, device: torch.device | None = None
) -> np.ndarray:
    """Pixels of all images by true class (rows) and predicted class (columns), ignored pixels left out.

    Parameters
    ----------
    segmentor : Segmentor
        Of M classes; left as it was found.
    images : Source
        With ground truth uint8 (H, W), 255 ignored.
    config : EvaluationConfig
        How images are predicted.
    device : torch.device | None
        Where the network is; None: the CPU.

    Returns
    -------
    ndarray of int64, shape (M, M)

    Raises
    ------
    InputError
        An image without ground truth, of another size than it, or with values that are no class.
    """
    counts = np.zeros((segmentor.num_classes, segmentor.num_classes), np.int64)
    for batch in _batches(images, config.batch_size, segmentor.num_classes):
        predicted = predict(segmentor, [sample.image for _, sample in batch], config, device)
        for (_, sample), prediction in zip(batch, predicted, strict=True):
            assert sample.labels is not None
            counts += network_confusion(prediction, sample.labels, segmentor.num_classes)
    return counts


def _batches(images: Source, size: int, num_classes: int) -> Iterator[list[tuple[str, Sample]]]:
    """Consecutive images of one size, at most `size` of them."""
    waiting: list[tuple[str, Sample]] = []
    for image_id in images.ids:
        sample = images.load(image_id)
        check_labels(image_id, sample, "ground truth", num_classes, IGNORE_CLASS)
        if waiting and (len(waiting) == size or waiting[0][1].image.shape != sample.image.shape):
            yield waiting
            waiting = []
        waiting.append((image_id, sample))
    if waiting:
        yield waiting


@torch.inference_mode()
def predict(
    segmentor: Segmentor, images: list[np.ndarray], config: EvaluationConfig, device: torch.device | None = None
) -> np.ndarray:
    """Classes of images uint8 (H, W, 3) of one size: int64 (B, H, W). The network is left as it was found."""
    device = device or torch.device("cpu")
    was_training = segmentor.training
    segmentor.eval()
    try:
        scores = class_scores(segmentor, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device), config)
    finally:
        segmentor.train(was_training)
    return scores.argmax(dim=1).cpu().numpy()


def class_scores(segmentor: Segmentor, images: Tensor, config: EvaluationConfig) -> Tensor:
    """Scores of images uint8 (B, 3, H, W) at their own size, float32 (B, M, H, W).

    Of several passes (scales, mirrored) the softmax is averaged; one pass alone gives its logits.
    """
    full = (images.shape[2], images.shape[3])
    height, width = config.image_size or full
    passes = len(config.scales) * (1 + config.flip)
    total: Tensor | None = None
    for scale in config.scales:
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        resized = images if tuple(size) == full else V.resize(images, size, antialias=True)
        inputs = V.normalize(V.to_dtype(resized, torch.float32, scale=True), list(IMAGENET_MEAN), list(IMAGENET_STD))
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        for mirrored in (False, True) if config.flip else (False,):
            logits = _forward(segmentor, inputs.flip(3) if mirrored else inputs, config)
            logits = F.interpolate(logits.flip(3) if mirrored else logits, full, mode="bilinear", align_corners=False)
            part = logits if passes == 1 else logits.softmax(dim=1)
            total = part if total is None else total.add_(part)
    assert total is not None
    return total if passes == 1 else total / passes


def _forward(segmentor: Segmentor, inputs: Tensor, config: EvaluationConfig) -> Tensor:
    """Logits float32 at the size of the inputs: whole, or the mean over a sliding window where that is smaller."""
    if config.window is None or (inputs.shape[2] <= config.window[0] and inputs.shape[3] <= config.window[1]):
        return _logits(segmentor, inputs)
    # A side shorter than the window is padded with the mean colour, which is zero here; as in training.
    height, width = inputs.shape[2:]
    window = config.window
    padded = F.pad(inputs, (0, max(0, window[1] - width), 0, max(0, window[0] - height)))
    shape = (inputs.shape[0], segmentor.num_classes, *padded.shape[2:])
    total, seen = inputs.new_zeros(shape), inputs.new_zeros((1, 1, *padded.shape[2:]))
    for top in _offsets(padded.shape[2], window[0], config.window_stride):
        for left in _offsets(padded.shape[3], window[1], config.window_stride):
            here = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            total[here] += _logits(segmentor, padded[here])
            seen[here] += 1
    return (total / seen)[:, :, :height, :width]


def _logits(segmentor: Segmentor, inputs: Tensor) -> Tensor:
    """One pass in the precision of the weights, float32 at its end."""
    weight = next(segmentor.parameters(), inputs)
    logits: Tensor = segmentor(inputs.to(weight.dtype)).main
    return logits.float()


def _offsets(extent: int, window: int, stride: float) -> list[int]:
    """Starts of windows that cover the extent, in equal steps of at most `stride` windows."""
    steps = math.ceil((extent - window) / max(1, math.ceil(window * stride)))
    return [round(i * (extent - window) / steps) for i in range(steps + 1)] if steps else [0]
