import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as V
from sklearn.metrics import confusion_matrix
from torch import nn

from workloads.configs.networks import SegmentorConfig
from workloads.configs.training import EvaluationConfig
from workloads.errors import InputError
from workloads.imagenet import IMAGENET_MEAN, IMAGENET_STD
from workloads.networks.segmentors import Logits, build_segmentor
from workloads.scoring.evaluation import class_counts, class_scores, predict
from workloads.scoring.metrics import mean_iou, network_confusion
from workloads.training.batches import Sample

torch.set_num_threads(1)
RNG = np.random.default_rng(0)


class Labelled:
    def __init__(self, samples):
        self.samples = samples
        self.ids = list(samples)

    def load(self, image_id):
        return self.samples[image_id]


class RedLevel(nn.Module):
    """A "network" that reads the class off the red channel: bright pixels are class 1; it is right by
    construction."""

    num_classes = 2

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, images):
        self.sizes.append(tuple(images.shape))
        red = images[:, :1] * IMAGENET_STD[0] + IMAGENET_MEAN[0]
        return Logits(torch.cat([0.5 - red, red - 0.5], dim=1) * 20, None)


def random_sample(height=24, width=36, classes=3):
    labels = RNG.integers(0, classes, (height, width)).astype(np.uint8)
    labels[RNG.random((height, width)) < 0.1] = 255
    return Sample(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8), labels)


def test_counts_and_miou_agree_with_scikit_learn():
    samples = {f"i{n}": random_sample() for n in range(5)}
    network = build_segmentor(SegmentorConfig(backbone="mobilenet_v2", head_channels=8), 3)
    counts = class_counts(network, Labelled(samples), EvaluationConfig(batch_size=2))
    truth, guess = [], []
    for sample in samples.values():
        predicted = predict(network, [sample.image], EvaluationConfig())[0]
        truth.append(sample.labels[sample.labels != 255])
        guess.append(predicted[sample.labels != 255])
    expected = confusion_matrix(np.concatenate(truth), np.concatenate(guess), labels=[0, 1, 2])
    assert np.abs(counts - expected).sum() <= 4, "batches of two may flip a tie of two scores"
    union = expected.sum(0) + expected.sum(1) - np.diag(expected)
    assert mean_iou(expected).miou == pytest.approx(100 * np.mean(np.diag(expected) / union))


def test_counts_of_parts_add_up():
    samples = {f"i{n}": random_sample() for n in range(3)}
    network, config = RedLevel(), EvaluationConfig()
    samples = {name: sample._replace(labels=np.minimum(sample.labels, 1)) for name, sample in samples.items()}
    parts = [class_counts(network, Labelled({name: sample}), config) for name, sample in samples.items()]
    assert np.array_equal(sum(parts), class_counts(network, Labelled(samples), config))


def test_ignored_pixels_are_in_no_cell():
    truth = np.array([[0, 255], [1, 1]], np.uint8)
    assert np.array_equal(network_confusion(np.array([[0, 0], [1, 0]]), truth, 2), [[1, 0], [1, 1]])


def two_halves(height=64, width=96):
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :] = 255
    return Sample(image, (image[..., 0] > 0).astype(np.uint8))


@pytest.mark.parametrize(
    "config",
    [
        EvaluationConfig(),
        EvaluationConfig(image_size=(32, 48)),
        EvaluationConfig(scales=(0.5, 1.0, 1.5), flip=True),
        EvaluationConfig(window=(33, 33)),
        EvaluationConfig(window=(80, 33), scales=(0.75, 1.0), flip=True),
    ],
)
def test_every_protocol_predicts_at_the_size_of_the_ground_truth(config):
    sample = two_halves()
    predicted = predict(RedLevel(), [sample.image], config)[0]
    assert predicted.shape == sample.labels.shape
    edge = np.abs(np.arange(96) - 47.5) < 3
    assert np.array_equal(predicted[:, ~edge], sample.labels[:, ~edge])


def test_sizes_that_the_network_sees():
    network = RedLevel()
    predict(network, [two_halves().image], EvaluationConfig(image_size=(32, 48), scales=(0.5, 1.0), flip=True))
    assert network.sizes == [(1, 3, 16, 24)] * 2 + [(1, 3, 32, 48)] * 2
    network.sizes.clear()
    predict(network, [two_halves().image], EvaluationConfig(window=(33, 33)))
    assert set(network.sizes) == {(1, 3, 33, 33)}
    # Windows of 33 start 22 apart and the last ends with the image: at rows 0, 22, 31 and columns 0, 22, 44, 63.
    assert len(network.sizes) == 3 * 4


def test_scales_and_flips_are_averaged_after_softmax():
    image = torch.from_numpy(RNG.integers(0, 256, (1, 3, 33, 49), dtype=np.uint8))
    network = build_segmentor(SegmentorConfig(backbone="mobilenet_v2", head_channels=8), 3).eval()
    with torch.inference_mode():
        found = class_scores(network, image, EvaluationConfig(scales=(1.0,), flip=True))
        mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
        inputs = (image / 255 - mean) / std
        plain = F.softmax(network(inputs).main, 1)
        mirrored = F.softmax(network(inputs.flip(3)).main.flip(3), 1)
    torch.testing.assert_close(found, (plain + mirrored) / 2, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.sum(1), torch.ones(1, 33, 49))


def slow_and_plain(network, image, scales, base_size, window, flip):
    """hszhao/semseg's protocol, a pixel, a window and a scale at a time: image uint8 (H, W, 3) to float64 (M, H, W)."""
    height, width = image.shape[:2]
    total = np.zeros((network.num_classes, height, width))
    for scale in scales:
        longer = round(scale * base_size)
        size = (longer, round(longer / height * width)) if height > width else (round(longer / width * height), longer)
        resized = V.resize(torch.from_numpy(image).permute(2, 0, 1), list(size), antialias=True)
        inputs = (resized.double() / 255 - torch.tensor(IMAGENET_MEAN)[:, None, None]).numpy()
        inputs /= np.array(IMAGENET_STD)[:, None, None]
        canvas = np.zeros((3, max(size[0], window), max(size[1], window)))
        top, left = (canvas.shape[1] - size[0]) // 2, (canvas.shape[2] - size[1]) // 2
        canvas[:, top : top + size[0], left : left + size[1]] = inputs
        sums, counts = np.zeros((network.num_classes, *canvas.shape[1:])), np.zeros(canvas.shape[1:])
        for first_row in window_starts(canvas.shape[1], window):
            for first_column in window_starts(canvas.shape[2], window):
                rows, columns = slice(first_row, first_row + window), slice(first_column, first_column + window)
                part = torch.from_numpy(canvas[:, rows, columns].copy())[None].float()
                probabilities = network(part).main.softmax(1)
                if flip:
                    probabilities = (probabilities + network(part.flip(3)).main.softmax(1).flip(3)) / 2
                for row in range(window):
                    for column in range(window):
                        sums[:, first_row + row, first_column + column] += probabilities[0, :, row, column].numpy()
                        counts[first_row + row, first_column + column] += 1
        mean = (sums / counts)[:, top : top + size[0], left : left + size[1]]
        total += F.interpolate(torch.from_numpy(mean)[None], (height, width), mode="bilinear")[0].numpy()
    return total / len(scales)


def window_starts(extent, window):
    start, step = 0, math.ceil(2 / 3 * window)
    while start + window < extent:
        yield start
        start += step
    yield extent - window


@pytest.mark.parametrize(
    ("size", "scales", "flip"), [((40, 60), (1.0,), True), ((60, 40), (0.5, 1.25), True), ((20, 29), (1.0,), False)]
)
def test_scores_are_those_of_a_slow_and_plain_implementation(size, scales, flip):
    network = build_segmentor(SegmentorConfig(backbone="mobilenet_v2", output_stride=16, head_channels=8), 3).eval()
    # Small logits would have the same softmax wherever they are averaged.
    torch.nn.init.normal_(network.classifier[-1].weight, std=3, generator=torch.Generator().manual_seed(0))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    config = EvaluationConfig(base_size=48, scales=scales, flip=flip, window=(33, 33))
    with torch.inference_mode():
        found = class_scores(network, torch.from_numpy(image).permute(2, 0, 1)[None], config)[0]
        expected = slow_and_plain(network, image, scales, 48, 33, flip)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("config", [EvaluationConfig(), EvaluationConfig(window=(20, 30))])
def test_a_network_trained_in_float64_is_scored_alike(config):
    network = build_segmentor(SegmentorConfig(backbone="mobilenet_v2", head_channels=8), 3)
    image = torch.from_numpy(random_sample(33, 49).image).permute(2, 0, 1)[None]
    single = class_scores(network.eval(), image, config)
    double = class_scores(network.double(), image, config)
    assert double.dtype == torch.float32
    torch.testing.assert_close(double, single, rtol=1e-3, atol=1e-4)


def test_the_network_is_left_in_its_mode():
    network = build_segmentor(SegmentorConfig(backbone="mobilenet_v2", head_channels=8), 3).train()
    mean = network.backbone.features[0][1].running_mean.clone()
    predict(network, [two_halves().image], EvaluationConfig())
    assert network.training
    assert torch.equal(network.backbone.features[0][1].running_mean, mean)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample(np.zeros((4, 4, 3), np.uint8), None), "no ground truth"),
        (Sample(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8)), r"\(4, 4\), its ground truth \(4, 5\)"),
        (Sample(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 2, np.uint8)), "label 2 .*0 to 1"),
    ],
)
def test_what_cannot_be_scored(sample, message):
    with pytest.raises(InputError, match=f"street: .*{message}|street: {message}"):
        class_counts(RedLevel(), Labelled({"street": sample}), EvaluationConfig())
