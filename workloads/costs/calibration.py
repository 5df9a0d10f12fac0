"""Measures the speed of this machine, in seconds: what `speeds` turns counted work into time with.

The model: a few small networks, chosen so that each spends its time on another part (3x3 and 1x1 convolutions, grouped
ones with normalisation, two real backbones), are counted and timed; the four rates are the non-negative least squares
of the relative errors. A CPU's time is that of the one thread, so that others at work on the machine do not count.
"""

import io
import platform
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torchvision
from PIL import Image
from scipy.optimize import nnls
from torch import Tensor, nn

from workloads.configs.clustering import KMeansConfig
from workloads.configs.superpixels import SuperpixelConfig
from workloads.configs.views import ViewsConfig
from workloads.costs.counting import CostCounter
from workloads.costs.speeds import Device, NetworkSpeed, PassCost, Speeds, direction
from workloads.costs.work import Operation, megapixels
from workloads.datasets.decode import decode_image
from workloads.grid import CellGrid
from workloads.labels.auxiliary import assign, vote
from workloads.labels.kmeans import fit_kmeans
from workloads.labels.superpixels import superpixels
from workloads.scoring.confusion import Confusion
from workloads.training.views import draw, render, resize_image

_SIZE = (240, 320)
_CLUSTERS = 20
_CHANNELS = 128


def calibrate(device: Device) -> Speeds:
    """The speed of one core of this machine, and of its GPU where it is asked for.

    Parameters
    ----------
    device : "cpu" or "cuda"
        Where networks run; everything else runs on a core in any case.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        networks = {
            direction(training, precision): _network_speed(torch.device(device), training, precision)
            for training in (False, True)
            for precision in ("float32", "bfloat16")
        }
        name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
        return Speeds(
            host=platform.node(), device=name, torch=torch.__version__, networks=networks, operations=_operations()
        )
    finally:
        torch.set_num_threads(threads)


def _networks(scale: int) -> list[tuple[nn.Module, tuple[int, int, int, int]]]:
    """Networks with the shape of their input; a GPU gets `scale` times as many images."""

    def grouped() -> nn.Module:
        convolution = nn.Conv2d(128, 128, 3, padding=1, groups=128, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(128), nn.ReLU6())

    wide, pointwise = ([nn.Conv2d(128, 128, side, padding=side // 2, bias=False) for _ in range(3)] for side in (3, 1))
    models = torchvision.models
    return [
        (nn.Sequential(nn.Conv2d(3, 128, 1), *wide), (2 * scale, 3, 40, 40)),
        (nn.Sequential(nn.Conv2d(3, 128, 1), *pointwise), (2 * scale, 3, 96, 96)),
        (nn.Sequential(nn.Conv2d(3, 128, 1), grouped(), grouped(), grouped()), (2 * scale, 3, 56, 56)),
        (models.mobilenet_v2(weights=None).features, (2 * scale, 3, 161, 193)),
        (nn.Sequential(*list(models.resnet18(weights=None).children())[:-2]), (2 * scale, 3, 161, 193)),
    ]


def _network_speed(device: torch.device, training: bool, precision: str) -> NetworkSpeed:
    counts, seconds = [], []
    for network, shape in _networks(16 if device.type == "cuda" else 1):
        network.train(training).to(device).to(memory_format=torch.channels_last)
        images = torch.rand(shape, device=device).contiguous(memory_format=torch.channels_last)
        seconds.append(_seconds(_step(network, images, training, precision), device))
        with torch.no_grad(), CostCounter() as counter:
            network.to("meta").eval()(images.to("meta"))
        counts.append(counter.cost)
    rates, _ = nnls(np.array(counts) / np.array(seconds)[:, None], np.ones(len(counts)))
    return NetworkSpeed(**dict(zip(PassCost._fields, rates.tolist(), strict=True)))


def _step(network: nn.Module, images: Tensor, training: bool, precision: str) -> Callable[[], object]:
    autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    @torch.inference_mode(not training)
    def step() -> None:
        with autocast:
            output = network(images)
        if training:
            network.zero_grad(set_to_none=True)
            output.float().mean().backward()

    return step


def _seconds(step: Callable[[], object], device: torch.device | None = None, repeats: int = 3) -> float:
    """The least of a few times, after one that warms up."""
    clock = time.perf_counter if device is not None and device.type == "cuda" else time.thread_time
    best = float("inf")
    for attempt in range(repeats + 1):
        begun = clock()
        step()
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize()
        if attempt:
            best = min(best, clock() - begun)
    return best


def _operations() -> Mapping[Operation, float]:
    """Core-seconds of every operation on images, by the functions that do it."""
    rng = np.random.default_rng(0)
    height, width = _SIZE
    # Neither flat nor noise: squares of colours with a little of both.
    coarse = rng.integers(0, 256, (height // 16, width // 16, 3)).repeat(16, 0).repeat(16, 1)
    image = np.clip(coarse + rng.integers(-8, 9, coarse.shape), 0, 255).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "PNG")
    views = ViewsConfig(crop=(193, 225))
    draws = [draw(views, (209, 209), np.random.default_rng(seed)) for seed in range(4)]
    config = SuperpixelConfig(n_segments=300)
    segments = superpixels(image, config)
    scores = -torch.from_numpy(rng.random((_CLUSTERS, height // 16, width // 16), np.float32))
    labels = rng.integers(0, _CLUSTERS, _SIZE).astype(np.uint16)
    truth = (labels % 10).astype(np.uint8)
    probabilities = torch.rand(1, _CLUSTERS, height, width)
    features = torch.from_numpy(rng.random((20_000, _CHANNELS), np.float32))
    kmeans = KMeansConfig(k=_CLUSTERS, init="random", max_iterations=10, tolerance=0.0)
    fit = fit_kmeans(features, _CLUSTERS, kmeans, 0)
    grid = CellGrid(16, 7.5, None)

    pixels = megapixels(_SIZE)
    products = len(features) * _CHANNELS * _CLUSTERS * max(fit.iterations, 1) / 1e9
    steps: dict[Operation, tuple[Callable[[], object], float]] = {
        "decode": (lambda: decode_image(encoded.getvalue(), "calibration"), pixels),
        "resize": (lambda: resize_image(image, (height * 2 // 3, width * 2 // 3)), pixels),
        "augment": (lambda: [render(image, one) for one in draws], megapixels((209, 209), len(draws))),
        "superpixels": (lambda: superpixels(image, config), pixels * config.iterations / 10),
        "assign": (lambda: assign(scores, _SIZE, grid), pixels * _CLUSTERS),
        "vote": (lambda: vote(labels, segments, _CLUSTERS), pixels),
        "scores": (lambda: probabilities.softmax(1).add_(probabilities), pixels * _CLUSTERS),
        "count": (lambda: Confusion(10).update(labels, truth), pixels),
        "cluster": (lambda: fit_kmeans(features, _CLUSTERS, kmeans, 0), products),
    }
    return {name: _seconds(step) / amount for name, (step, amount) in steps.items()}
