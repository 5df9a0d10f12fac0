"""Dense features of images: the one path from uint8 images to vectors that can be clustered.

An extractor is an architecture, weights, a named layer and an output stride. It runs the network up to that layer and
no further, and gives float32 (B, D, h, w), each vector of length one by default. All that changes features (a resize, a
precision, the size of a batch) is part of `ExtractorConfig` and so of the key; features that are not numbers, which
K-means would swallow silently, are refused.

Layout. Every network runs channels-last. Seconds per image (353 × 481, batch of 4, one thread of a server CPU
with AVX-512 and bfloat16 units), contiguous / channels-last in float32 and the same in bfloat16, before batch
normalisation was folded (`benchmarks/performance/layouts.py` measures them as they are now):
    mobilenet_v2, stride 32   0.117 / 0.070   0.046 / 0.026
    resnet18, stride 32       0.190 / 0.139   0.097 / 0.067
    resnet50, stride 32       0.522 / 0.412   0.216 / 0.186
    vgg19, to features.35     1.958 / 1.407   0.876 / 0.681
bfloat16 is faster still but changes results, so it stays the user's choice.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from workloads.configs.extraction import MINIMUM_SIZE, ExtractorConfig
from workloads.configs.networks import TIMM, SegmentorConfig
from workloads.errors import InputError
from workloads.features.filters import FilterBank
from workloads.grid import CellGrid, Centres
from workloads.imagenet import IMAGENET_MEAN, IMAGENET_STD
from workloads.networks.dilation import centre_shift, dilate, run_probe, stride_of
from workloads.networks.folding import fold_batch_normalisation
from workloads.networks.random_weights import draw_weights
from workloads.networks.segmentors import Segmentor
from workloads.networks.timm_networks import Sides, TimmFeatures, build_timm, measure_centres, measure_sides
from workloads.networks.weight_identity import RANDOM, weights_identity
from workloads.networks.weights import WeightsReport, load_backbone
from workloads.plugins import EXTRACTORS_GROUP, plugin

SMALLEST_LENGTH = 1e-12
"""A vector shorter than this is divided by it instead of by its length, so an all-zero vector stays zero."""


@dataclass(frozen=True)
class Extractor:
    """A network that stops at one layer. Built by `build_extractor`.

    Attributes
    ----------
    channels : int
        D, the length of a feature vector.
    stride : int
        Pixels of the (resized) image per feature; a map has ceil(H / stride) × ceil(W / stride) places (vgg19's
        unpadded pools round down).
    origin : float | Centres
        The pixel at the centre of place 0, or what it takes to tell it from the size of an image.
    report : WeightsReport | None
        What was loaded, or None for random weights and for filters.
    mean, std : tuple[float, ...]
        What the network's images are normalised by.
    sides : Sides | None
        Which sides the network takes; None: any.
    minimum_size : int
        Smallest side in pixels, after resizing, that `features` accepts.
    """

    config: ExtractorConfig
    network: nn.Module
    layer: str
    channels: int
    stride: int
    origin: float | Centres
    device: torch.device
    identity: str
    report: WeightsReport | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    sides: Sides | None = None
    minimum_size: int = MINIMUM_SIZE

    def grid(self, size: tuple[int, int]) -> CellGrid:
        """Where the places lie in an image of that height and width."""
        resized = self._size(size)
        input_size = self.config.input_size if resized == size else resized
        if not isinstance(self.origin, Centres):
            return CellGrid(self.stride, self.origin, input_size)
        row, column = (self.origin.origin(side) for side in resized)
        return CellGrid(self.stride, row if row == column else (row, column), input_size)

    def _size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width that an image of a size is brought to."""
        height, width = self.config.input_size or size
        return self.sides.nearest(height, width) if self.sides else (height, width)

    @torch.inference_mode()
    def features(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Features of images of one size, in order: on a GPU in batches of `config.batch_size`, on a CPU one by one.

        One image's activations stay in a CPU's caches; those of several do not (`benchmarks/performance/layouts.py`).

        Parameters
        ----------
        images : Sequence[ndarray]
            One or more uint8 (H, W, 3) RGB arrays of the same size.

        Returns
        -------
        Tensor of float32, shape (B, D, h, w)
            On the extractor's device.

        Raises
        ------
        InputError
            An image that is too small, or features that are not finite or all zero.
        ValueError
            Images of another type or of several sizes.
        """
        shapes = {image.shape for image in images}
        if len(shapes) != 1 or any(image.dtype != np.uint8 or image.shape[2:] != (3,) for image in images):
            raise ValueError(f"images must be uint8 (H, W, 3) of one size, not {sorted(shapes)}")
        size = 1 if self.device.type == "cpu" else self.config.batch_size
        batches = [images[start : start + size] for start in range(0, len(images), size)]
        return torch.cat([self._batch(batch, start * size) for start, batch in enumerate(batches)])

    def _batch(self, images: Sequence[np.ndarray], first: int) -> torch.Tensor:
        features_BDhw = self._forward(self._input(images))
        if cut := self.config.reflect:
            features_BDhw = features_BDhw[:, :, cut:-cut, cut:-cut]
        # The largest magnitude per image: not finite if any feature is not, zero if half precision lost them all.
        largest = features_BDhw.abs().amax(dim=(1, 2, 3))
        for position, value in enumerate(largest.tolist(), start=first):
            if not math.isfinite(value) or value == 0:
                raise InputError(
                    f"features are {'all zero' if value == 0 else 'not finite'}: image {position} of the batch, arch "
                    f"{self.config.arch}, layer {self.layer or 'filters'}, weights {self.identity}, precision "
                    f"{self.config.precision}"
                )
        if not self.config.normalize:
            return features_BDhw
        return F.normalize(features_BDhw, dim=1, eps=SMALLEST_LENGTH)

    def _input(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """float32 (B, 3, H, W) in [0, 1], channels-last, resized."""
        height, width = self.config.input_size or images[0].shape[:2]
        if min(height, width) < self.minimum_size:
            raise InputError(
                f"image of {height} x {width} pixels is too small for arch {self.config.arch}; "
                f"both sides must be {self.minimum_size} or more"
            )
        height, width = self._size((images[0].shape[0], images[0].shape[1]))
        pixels_BHW3 = torch.from_numpy(np.stack(images)).to(self.device)
        images_B3HW = pixels_BHW3.permute(0, 3, 1, 2).float() / 255.0
        if images_B3HW.shape[-2:] != (height, width):
            images_B3HW = F.interpolate(
                images_B3HW, (height, width), mode="bilinear", align_corners=False, antialias=True
            )
        if margin := self.config.reflect * self.stride:
            if margin >= min(height, width):
                raise InputError(
                    f"{{key}} {self.config.reflect} mirrors {margin} pixels of an image of {height} x {width}",
                    key="reflect",
                    value=self.config.reflect,
                    allowed=f"allowed: at most {(min(height, width) - 1) // self.stride}",
                )
            images_B3HW = F.pad(images_B3HW, (margin, margin, margin, margin), mode="reflect")
        return images_B3HW.contiguous(memory_format=torch.channels_last)

    def _forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """float32 features of one batch in [0, 1]; the network stops at its layer."""
        if isinstance(self.network, FilterBank):
            return self.network(images_B3HW)
        mean, std = (torch.tensor(each, device=self.device).view(3, 1, 1) for each in (self.mean, self.std))
        precision = getattr(torch, self.config.precision)
        # TensorFloat-32 would make "float32" mean something else on some GPUs.
        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
            torch.autocast(self.device.type, precision, enabled=precision != torch.float32),
        ):
            normalised_B3HW = (images_B3HW - mean) / std
            if isinstance(self.network, TimmFeatures):
                (output,) = self.network(normalised_B3HW)
            else:
                output = _run_until(self.network, self.layer, normalised_B3HW)
        return output.float()


def build_extractor(config: ExtractorConfig, weights: str | None, device: torch.device | str) -> Extractor:
    """Build the network, load or draw its weights and find its layer.

    Parameters
    ----------
    config : ExtractorConfig
        The extractor.
    weights : str | None
        None for filters; else 'random', a name, a path or a URL (see `workloads.networks.weight_identity`).
    device : torch.device | str
        Where features are computed.

    Raises
    ------
    InputError
        Weights that do not fit, or a layer that is not there or is not a feature map.
    """
    device = torch.device(device)
    identity = weights_identity(config.arch, weights)
    stride = config.output_stride
    if config.arch.startswith(TIMM):
        return _of_timm(config, weights, identity, device)
    # Only networks of timm's have none.
    assert stride is not None
    if config.arch == "filters":
        bank = FilterBank(config.filter_bank, stride)
        return Extractor(config, bank.to(device).eval(), "", bank.channels, stride, (stride - 1) / 2, device, identity)
    network, layer = _network(config, stride)
    layer = config.layer or layer
    if isinstance(network, Segmentor) and network.config.backbone.startswith(TIMM):
        # Such a network puts its cells where all segmentation networks have them.
        channels, measured, origin = _representation(network, layer)
    else:
        channels, measured, origin = _measure(network, layer, config.arch)
        network.to_empty(device="cpu")
        draw_weights(network, config.seed)
    report = None
    if identity != RANDOM:
        assert weights is not None
        report = load_backbone(network, weights, config.arch)
    network = _ready(fold_batch_normalisation(network.eval().requires_grad_(False), layer), device)
    return Extractor(config, network, layer, channels, measured, origin, device, identity, report)


def _of_timm(config: ExtractorConfig, weights: str | None, identity: str, device: torch.device) -> Extractor:
    layer: int | str = config.layer or -1
    network = build_timm(config.arch.removeprefix(TIMM), config.output_stride, config.seed, (layer,))
    report = None
    if identity != RANDOM:
        assert weights is not None
        report = load_backbone(network.network, weights, config.arch)
    sides = measure_sides(network)
    (centres,) = measure_centres(network, sides)
    network.prune()
    network.eval().requires_grad_(False)
    fold_batch_normalisation(network, "", sides.fixed)
    return Extractor(
        config,
        _ready(network, device),
        f"stage {network.stages[0]}",
        network.channels[0],
        network.strides[0],
        centres,
        device,
        identity,
        report,
        network.mean,
        network.std,
        sides,
    )


def _ready(network: nn.Module, device: torch.device) -> nn.Module:
    return network.to(device).to(memory_format=torch.channels_last)


def on_meta(config: ExtractorConfig) -> Callable[[torch.Tensor], Any]:
    """The forward pass of images (B, 3, H, W) on the meta device, where operations are seen and none is computed."""
    stride = config.output_stride
    if config.arch.startswith(TIMM):
        with torch.device("meta"):
            return _on_sides(build_timm(config.arch.removeprefix(TIMM), stride, 0, (config.layer or -1,)))
    assert stride is not None
    if config.arch == "filters":
        return FilterBank(config.filter_bank, stride).to("meta")
    network, layer = _network(config, stride)
    network = network.to("meta")
    for module in list(network.modules()):
        for name, child in module.named_children():
            # What `fold_batch_normalisation` folds costs nothing; it needs values, which there are none of here.
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, nn.Identity())
    return partial(_run_until, network.eval(), config.layer or layer)


def _on_sides(network: TimmFeatures) -> Callable[[torch.Tensor], Any]:
    sides = measure_sides(network)

    def forward(images: torch.Tensor) -> Any:
        height, width = sides.nearest(images.shape[2], images.shape[3])
        return network(images.new_empty((*images.shape[:2], height, width)))

    return forward


def _network(config: ExtractorConfig, stride: Literal[8, 16, 32]) -> tuple[nn.Module, str]:
    """The network on the meta device, dilated and without its classifier, and its default layer.

    One on a backbone of timm's has its weights already (see `workloads.networks.timm_networks`).

    torchvision's constructors are called without weights, so nothing is downloaded behind the user's back.
    """
    network: nn.Module
    if config.network is not None and config.network.backbone.startswith(TIMM):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return _segmentor(config.network, stride), _last_activation(config.network)
    with torch.device("meta"):
        match config.arch:
            case "resnet18" | "resnet50":
                network, layer = torchvision.models.get_model(config.arch, weights=None), "layer4"
                network.fc = nn.Identity()
            case "mobilenet_v2":
                network, layer = torchvision.models.mobilenet_v2(weights=None), "features.17"
                network.classifier = nn.Identity()
                if not (config.layer or layer).startswith("features.18"):
                    # The last 1 × 1 convolution belongs to the classifier: segmentation networks lack it.
                    layers = network.get_submodule("features")
                    assert isinstance(layers, nn.Sequential)
                    network.features = layers[:18]
            case "vgg19":
                # The last ReLU before the last pool.
                network, layer = torchvision.models.vgg19(weights=None), "features.35"
                network.classifier = nn.Identity()
            case "deeplabv3_resnet50":
                whole = SegmentorConfig(head="deeplabv3", backbone="resnet50", output_stride=8)
                return _segmentor(whole, stride), _last_activation(whole)
            case "segmentor":
                assert config.network is not None
                return _segmentor(config.network, stride), _last_activation(config.network)
            case _:
                network, layer = plugin(EXTRACTORS_GROUP, config.arch)()
        return dilate(network, stride), layer


def _segmentor(trained: SegmentorConfig, output_stride: Literal[8, 16, 32]) -> Segmentor:
    """A segmentation network at another output stride than it was trained at, without its last layer.

    Its atrous rates are scaled so that they span the same pixels: 12, 24, 36 of stride 8 are 6, 12, 18 of stride 16
    (Chen et al., arXiv:1706.05587, section 4.1).
    """
    rates = trained.atrous_rates
    if rates is not None:
        first, second, third = (max(1, rate * trained.output_stride // output_stride) for rate in rates)
        rates = (first, second, third)
    changed = {"output_stride": output_stride, "atrous_rates": rates, "auxiliary_head": False}
    network = Segmentor(trained.model_copy(update=changed), num_classes=1)
    network.classifier[-1] = nn.Identity()
    return network


def _last_activation(trained: SegmentorConfig) -> str:
    """The layer of a segmentation network's head that gives what its last convolution sees, but for dropout."""
    return "classifier.2" if trained.head == "fcn" else "classifier.3"


class _LayerReachedError(Exception):
    """Ends a forward pass at the wanted layer, carrying its output."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def _stop(_: nn.Module, __: tuple[torch.Tensor, ...], output: object) -> NoReturn:
    raise _LayerReachedError(output)


def _run_until(network: nn.Module, layer: str, images_B3HW: torch.Tensor) -> torch.Tensor:
    """The output of the named layer; later layers are not computed."""
    handle = network.get_submodule(layer).register_forward_hook(_stop)
    try:
        network(images_B3HW)
    except _LayerReachedError as reached:
        return reached.output
    finally:
        handle.remove()
    raise AssertionError(f"layer {layer} was not reached")


def _representation(network: Segmentor, layer: str) -> tuple[int, int, float]:
    """Channels, stride and origin of the maps of a head on a backbone of timm's."""
    heads = [name for name, _ in network.named_modules() if name.startswith("classifier.") and name.count(".") == 1]
    if layer not in heads:
        raise InputError(f"{layer!r} is no layer of the head", key="layer", allowed=f"allowed: {', '.join(heads)}")
    try:
        run_probe(network, {network.get_submodule(layer): _stop})
    except _LayerReachedError as reached:
        return reached.output.shape[1], network.config.output_stride, 0.0
    raise AssertionError(f"layer {layer} was not reached")


def _measure(network: nn.Module, layer: str, arch: str) -> tuple[int, int, float]:
    """Channels, stride and origin (see `CellGrid`) of the layer's feature map, or why the layer cannot be used."""
    modules = {name: module for name, module in network.named_modules() if name}
    if layer not in modules:
        nearest = difflib.get_close_matches(layer, modules, n=4, cutoff=0.3) or list(modules)[:4]
        raise InputError(f"{arch} has no layer {layer!r}; the nearest are {', '.join(nearest)}", key="layer")
    origin = 0.0

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        # Layers that shift the centre lie on the way that all features take, in every network that is known here.
        nonlocal origin
        if shift := centre_shift(module):
            origin += shift * stride_of(inputs[0].shape[-1])
        if module is modules[layer]:
            raise _LayerReachedError(output)

    try:
        run_probe(network, dict.fromkeys(modules.values(), note))
    except _LayerReachedError as reached:
        output = reached.output
        if isinstance(output, torch.Tensor) and output.dim() == 4 and output.shape[-1] > 1:
            return output.shape[1], stride_of(output.shape[-1]), origin
        raise InputError(f"{layer!r} of {arch} gives no feature map (B, D, h, w)", key="layer") from None
    raise InputError(f"{layer!r} of {arch} takes no part in computing features", key="layer")
