"""The GPU path against the CPU, where there is a GPU: features, clusters and labels agree to a stated tolerance.

Tolerances: features come from float32 convolutions whose sums are ordered differently, so they agree to 1e-3 of a unit
vector; a fit from the same centres ends within 0.1 % of the same inertia; labels may differ where two clusters are
equally near, which is less than 1 % of pixels.
"""

import numpy as np
import pytest
import torch

from workloads.configs.clustering import KMeansConfig
from workloads.configs.extraction import ExtractorConfig
from workloads.datasets import open_dataset
from workloads.datasets.scenes import ScenesConfig
from workloads.features.extractors import build_extractor
from workloads.grid import CellGrid
from workloads.labels.auxiliary import assign, scorer
from workloads.labels.kmeans import fit_kmeans

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: the GPU path is not tested")

SIZE = (97, 129)
GRID = CellGrid(16, 0.0)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    scenes = open_dataset(ScenesConfig(image_size=SIZE), None)
    return [scenes.read_image("train", entry.id) for entry in scenes.entries("train")[:8]]


@pytest.fixture(scope="module")
def features(images: list[np.ndarray]) -> dict[str, torch.Tensor]:
    config = ExtractorConfig(arch="resnet18", output_stride=16)
    return {device: build_extractor(config, "random", device).features(images).cpu() for device in ("cpu", "cuda")}


def test_features_agree(features: dict[str, torch.Tensor]) -> None:
    assert (features["cpu"] - features["cuda"]).abs().max() < 1e-3


def test_clusters_and_labels_agree(features: dict[str, torch.Tensor]) -> None:
    matrix = features["cpu"].permute(0, 2, 3, 1).reshape(-1, features["cpu"].shape[1]).contiguous()
    initial = matrix[:: len(matrix) // 12][:12].numpy()
    models = {
        device: fit_kmeans(matrix, 12, KMeansConfig(), 0, device, initial_centers=initial) for device in ("cpu", "cuda")
    }
    assert models["cuda"].inertia == pytest.approx(models["cpu"].inertia, rel=1e-3)
    labels = {
        device: assign(scorer(models["cpu"], device).maps(features["cpu"][0].to(device)), SIZE, GRID)[0]
        for device in ("cpu", "cuda")
    }
    assert (labels["cpu"] != labels["cuda"]).mean() < 0.01


def test_a_fit_on_the_gpu_is_repeatable(features: dict[str, torch.Tensor]) -> None:
    matrix = features["cpu"].permute(0, 2, 3, 1).reshape(-1, features["cpu"].shape[1]).contiguous()
    first, second = (fit_kmeans(matrix, 12, KMeansConfig(), 0, "cuda") for _ in range(2))
    assert np.array_equal(first.points, second.points)


def test_images_are_passed_in_the_batches_of_the_definition():
    extractor = build_extractor(ExtractorConfig(arch="resnet18", batch_size=2), "random", "cuda")
    sizes = []
    extractor.network.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[0]))
    random = np.random.default_rng(0)
    extractor.features([random.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(5)])
    assert sizes == [2, 2, 1]
