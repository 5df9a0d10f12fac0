"""Scoring a segmentation network against ground truth, at the ground truth's own size.

Class scores are computed at one or several scales, whole or in a sliding window, mirrored or not, brought to the size
of the ground truth, averaged after softmax and counted in one table of truth by prediction for the whole set. Tables of
parts of a set add up, so the images can be split in any way.

Ground truth is never resized, and ignored pixels count neither as errors nor as class 0.
"""

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
from workloads.scoring.windows import input_size, offsets
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
    """Probabilities of the classes at the images' own size, averaged over scales, windows and mirror images.

    Parameters
    ----------
    segmentor : Segmentor
        In evaluation mode.
    images : Tensor of uint8, shape (B, 3, H, W)
        RGB.
    config : EvaluationConfig
        How.

    Returns
    -------
    Tensor of float32, shape (B, M, H, W)

    References
    ----------
    `net_process` and `scale_process` of hszhao/semseg, `tool/test.py`; shrunk images are anti-aliased here, as they are
    in training.
    """
    full = (images.shape[2], images.shape[3])
    total: Tensor | None = None
    for scale in config.scales:
        size = input_size(full, config, scale)
        resized = images if size == full else V.resize(images, list(size), antialias=True)
        inputs = V.normalize(V.to_dtype(resized, torch.float32, scale=True), list(IMAGENET_MEAN), list(IMAGENET_STD))
        part = _in_windows(segmentor, inputs.contiguous(memory_format=torch.channels_last), config)
        part = F.interpolate(part, full, mode="bilinear", align_corners=False) if size != full else part
        total = part if total is None else total.add_(part)
    assert total is not None
    return total / len(config.scales)


def _in_windows(segmentor: Segmentor, inputs: Tensor, config: EvaluationConfig) -> Tensor:
    """Probabilities at the size of the inputs: the mean over the windows that see a pixel.

    Inputs smaller than the window are padded to it on all sides with the mean colour, which is zero here.
    """
    height, width = inputs.shape[2:]
    window = config.window or (height, width)
    above, left = (max(0, side - extent) // 2 for side, extent in zip(window, (height, width), strict=True))
    padded = F.pad(inputs, (left, max(0, window[1] - width) - left, above, max(0, window[0] - height) - above))
    shape = (inputs.shape[0], segmentor.num_classes, *padded.shape[2:])
    total, seen = inputs.new_zeros(shape), inputs.new_zeros((1, 1, *padded.shape[2:]))
    for top in offsets(padded.shape[2], window[0], config.window_stride):
        for start in offsets(padded.shape[3], window[1], config.window_stride):
            here = (..., slice(top, top + window[0]), slice(start, start + window[1]))
            total[here] += _probabilities(segmentor, padded[here], config.flip)
            seen[here] += 1
    return (total / seen)[:, :, above : above + height, left : left + width]


def _probabilities(segmentor: Segmentor, inputs: Tensor, flip: bool) -> Tensor:
    """Softmax of one pass in the precision of the weights, or the mean of it and the mirror image's; float32."""
    inputs = inputs.to(next(segmentor.parameters(), inputs).dtype)
    probabilities = segmentor(inputs).main.float().softmax(dim=1)
    if not flip:
        return probabilities
    return (probabilities + segmentor(inputs.flip(3)).main.float().softmax(dim=1).flip(3)) / 2
