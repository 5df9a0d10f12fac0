"""Segmentation networks: DeepLabV3, PSPNet and FCN on torchvision backbones, and the head of contrastive training.

A `Segmentor` is a backbone with its publisher's own parameter names, a `classifier` (a head whose last layer is the 1x1
convolution that makes logits) and an optional `aux_classifier` on the stage before last, so a state dict of
torchvision's `deeplabv3_resnet50` fits it tensor by tensor and its backbone fits `torchvision.models.<backbone>()`.
Everything before the last 1x1 convolution is what contrastive training can train.

The failure this guards against: a row called "random initialisation" that was not. torchvision's segmentation builders
load an ImageNet backbone unless told otherwise; here nothing is ever downloaded while a network is built, and weights
enter only through `initialise`.

DeepLabV3 [1]_ is in torchvision's form (1x1, three atrous 3x3, image pooling, 256 channels, dropout 0.5). PSPNet [2]_:
bins 1, 2, 3, 6, each 1x1 to a quarter of the channels, concatenation, 3x3 to 512, dropout 0.1; FCN: PSPNet's last two
layers alone; auxiliary head: 3x3 to a quarter of the channels, dropout 0.1, on layer3. The stem is torchvision's 7x7 in
every row.

References
----------
.. [1] Chen, Papandreou, Schroff and Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation",
   arXiv:1706.05587.
.. [2] Zhao, Shi, Qi, Wang and Jia, "Pyramid Scene Parsing Network", CVPR 2017.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.fcn import FCNHead

from workloads.configs.networks import PUBLISHED_FORMAT, TIMM, Initialisation, SegmentorConfig, imagenet_weights
from workloads.errors import InputError
from workloads.networks.dilation import dilate
from workloads.networks.timm_backbones import TimmBackbone
from workloads.networks.weights import WeightsReport, load_backbone
from workloads.plugins import SEGMENTORS_GROUP, plugin, plugin_names

PYRAMID_BINS = (1, 2, 3, 6)
# Per backbone: channels of the stage before last (auxiliary head) and of the last stage (head).
STAGE_CHANNELS: dict[str, tuple[int, int]] = {
    "resnet50": (1024, 2048),
    "resnet18": (256, 512),
    "mobilenet_v2": (96, 320),
}
# Of the stage before last, in all of them, where nothing is dilated.
MIDDLE_STRIDE = 16


class Stages(NamedTuple):
    """What a backbone gives: the stage before last and the last, both float (B, C, h, w)."""

    middle: Tensor
    last: Tensor


class Logits(NamedTuple):
    """Scores at the size of the input, (B, M, H, W); `auxiliary` is None without the auxiliary head."""

    main: Tensor
    auxiliary: Tensor | None


class ResNetBackbone(torchvision.models.ResNet):
    """torchvision's ResNet without the classifier, with its parameter names."""

    def __init__(self, block: type[nn.Module], layers: list[int]) -> None:
        super().__init__(block, layers)
        del self.fc, self.avgpool

    def forward(self, x: Tensor) -> Stages:
        """Features of layer3 and layer4 of images (B, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        middle = self.layer3(self.layer2(self.layer1(x)))
        return Stages(middle, self.layer4(middle))


class MobileNetBackbone(nn.Module):
    """torchvision's MobileNetV2 up to `features.17` (320 channels), with its parameter names."""

    MIDDLE = 13

    def __init__(self) -> None:
        super().__init__()
        self.features = torchvision.models.mobilenet_v2(weights=None).features[:18]

    def forward(self, x: Tensor) -> Stages:
        """Features of `features.13` and `features.17` of images (B, 3, H, W)."""
        middle = self.features[: self.MIDDLE + 1](x)
        return Stages(middle, self.features[self.MIDDLE + 1 :](middle))


def _backbone(name: str) -> nn.Module:
    match name:
        case "resnet50":
            return ResNetBackbone(torchvision.models.resnet.Bottleneck, [3, 4, 6, 3])
        case "resnet18":
            return ResNetBackbone(torchvision.models.resnet.BasicBlock, [2, 2, 2, 2])
        case "mobilenet_v2":
            return MobileNetBackbone()
        case _:
            backbone: nn.Module = plugin(SEGMENTORS_GROUP, name)()
            return backbone


def _stage_channels(name: str) -> tuple[int, int]:
    return STAGE_CHANNELS[name] if name in STAGE_CHANNELS else plugin(SEGMENTORS_GROUP, name).channels


class PyramidPooling(nn.Module):
    """Averages over 1, 2, 3 and 6 bins a side, each reduced to a quarter of the channels and joined to the input."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        branch = in_channels // len(PYRAMID_BINS)
        self.out_channels = in_channels + branch * len(PYRAMID_BINS)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(bins),
                nn.Conv2d(in_channels, branch, 1, bias=False),
                nn.BatchNorm2d(branch),
                nn.ReLU(),
            )
            for bins in PYRAMID_BINS
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, 2 C, h, w)."""
        size = x.shape[-2:]
        pooled = [F.interpolate(branch(x), size, mode="bilinear", align_corners=False) for branch in self.branches]
        return torch.cat([x, *pooled], dim=1)


def _head(config: SegmentorConfig, in_channels: int, num_classes: int) -> nn.Sequential:
    width = config.channels
    match config.head:
        case "deeplabv3":
            # torchvision's DeepLabHead, whose width is fixed at 256, with the width as an option.
            return nn.Sequential(
                ASPP(in_channels, config.rates, width),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, num_classes, 1),
            )
        case "pspnet":
            pyramid = PyramidPooling(in_channels)
            return nn.Sequential(pyramid, *_convolutional(pyramid.out_channels, width, num_classes))
        case "fcn":
            return nn.Sequential(*_convolutional(in_channels, width, num_classes))


def _convolutional(in_channels: int, width: int, num_classes: int) -> list[nn.Module]:
    """The layers of torchvision's FCNHead, with the width as an option."""
    return [
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(width, num_classes, 1),
    ]


def upsampled(cells: Tensor, stride: int, size: Sequence[int]) -> Tensor:
    """Cells (B, C, ceil(H / stride), ceil(W / stride)) as pixels (B, C, H, W), bilinear.

    A strided convolution centres cell (i, j) on pixel (stride i, stride j), and that is where it is put; on sides of
    the form stride n + 1 this is `align_corners=True`, as in hszhao/semseg. Pixels beyond the last cell repeat it.
    torchvision's `align_corners=False` would shift the picture by up to half a cell at its borders, which small images
    cannot afford.
    """
    reach = [(cells_along - 1) * stride + 1 for cells_along in cells.shape[-2:]]
    pixels = F.interpolate(cells, reach, mode="bilinear", align_corners=True)
    below, beside = (side - reached for side, reached in zip(size, reach, strict=True))
    return F.pad(pixels, (0, beside, 0, below), mode="replicate") if below or beside else pixels


class Segmentor(nn.Module):
    """A backbone, a head and an optional auxiliary head; parameters are named as in torchvision's DeepLabV3."""

    def __init__(self, config: SegmentorConfig, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise InputError(f"num_classes is {num_classes}; allowed: 1 or more")
        self.config = config
        self.num_classes = num_classes
        self.backbone: nn.Module
        if config.backbone.startswith(TIMM):
            self.backbone = TimmBackbone(config.backbone.removeprefix(TIMM), config.output_stride)
            middle, last = self.backbone.channels
            self.middle_stride = self.backbone.strides[0]
        else:
            self.backbone = _backbone(config.backbone)
            middle, last = _stage_channels(config.backbone)
            self.middle_stride = min(MIDDLE_STRIDE, config.output_stride)
            if config.output_stride < 32:
                dilate(self.backbone, config.output_stride)
        self.stage_channels = (middle, last)
        self.classifier = _head(config, last, num_classes)
        self.aux_classifier = FCNHead(middle, num_classes) if config.auxiliary_head else None
        if config.dropout is not None:
            set_dropout(self, config.dropout)

    @property
    def trunk(self) -> nn.Module:
        """The backbone under its publisher's names, as files have them."""
        return self.backbone.network if isinstance(self.backbone, TimmBackbone) else self.backbone

    @property
    def logits_prefix(self) -> str:
        """Prefix of the names of the last 1x1 convolution, the one layer that depends on the classes."""
        return f"classifier.{len(self.classifier) - 1}."

    def representation(self, images: Tensor) -> Tensor:
        """What the last 1x1 convolution sees: (B, C, h, w), C = `config.channels`, at the output stride."""
        return self.classifier[:-1](self.backbone(images)[1])

    def forward(self, images: Tensor) -> Logits:
        """Logits of normalised images (B, 3, H, W), upsampled bilinearly to (H, W)."""
        size = images.shape[-2:]
        middle, last = self.backbone(images)
        main = upsampled(self.classifier(last), self.config.output_stride, size)
        if self.aux_classifier is None or not self.training:
            return Logits(main, None)
        return Logits(main, upsampled(self.aux_classifier(middle), self.middle_stride, size))


class ProjectionHead(nn.Sequential):
    """1x1 convolution, batch normalisation, ReLU, 1x1 convolution: features to embeddings (not yet normalised)."""

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int | None = None) -> None:
        hidden = hidden_channels or in_channels
        super().__init__(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, out_channels, 1),
        )


def set_dropout(module: nn.Module, probability: float) -> None:
    """Set the probability of every dropout in `module`, in place."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = probability


def build_segmentor(config: SegmentorConfig, num_classes: int, seed: int = 0) -> Segmentor:
    """A network with random weights that depend on `seed` alone; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Segmentor(config, num_classes)


def initialise(network: Segmentor, initialisation: Initialisation, weights: str | None = None) -> WeightsReport | None:
    """Load the backbone's first weights, in place; None when they stay random.

    Parameters
    ----------
    network : Segmentor
        Whose backbone is loaded.
    initialisation : Initialisation
        What the weights are said to be.
    weights : str | None
        A path or URL, needed by `moco`, `pixpro` and `file`; `imagenet` without it is torchvision's first ImageNet
        version of the backbone, by name.

    Raises
    ------
    InputError
        Weights are missing or given in vain, or not every tensor of the backbone was found in the file.
    """
    if initialisation == "random":
        if weights is not None:
            raise InputError(f"init is 'random', yet weights {weights!r} are given; allowed: null, or another init")
        return None
    if initialisation in ("moco", "pixpro") and network.config.backbone != "resnet50":
        raise InputError(
            f"init {initialisation!r} is published for resnet50; the backbone is {network.config.backbone}"
        )
    source = weights or (imagenet_weights(network.config.backbone) if initialisation == "imagenet" else None)
    if source is None:
        raise InputError(f"init {initialisation!r} needs weights: the path or URL of a checkpoint")
    report = load_backbone(network.trunk, source, network.config.backbone)
    published = PUBLISHED_FORMAT.get(initialisation)
    if published is not None and report.format != published:
        raise InputError(
            f"init {initialisation!r} names a {report.format} file; allowed: a {published} file, or init 'file'"
        )
    return report


def pretrained_state(network: Segmentor, scope: Literal["segmentor", "backbone"]) -> dict[str, Tensor]:
    """What pre-training trained, on the CPU: everything below the last 1x1 convolutions, or the backbone alone."""
    left = ("aux_classifier.", "classifier." if scope == "backbone" else network.logits_prefix)
    state = network.state_dict()
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items() if not name.startswith(left)}


def load_pretrained(network: Segmentor, state: Mapping[str, Tensor]) -> list[str]:
    """Load what `pretrained_state` gave, of either scope; returns the names that keep their initial values.

    Raises
    ------
    InputError
        A tensor is missing, unexpected or of another shape: a checkpoint of another architecture.
    """
    own = network.state_dict()
    with_head = any(name.startswith("classifier.") for name in state)
    wanted = set(pretrained_state(network, "segmentor" if with_head else "backbone"))
    missing, unexpected = sorted(wanted - set(state)), sorted(set(state) - wanted)
    other = sorted(name for name in wanted & set(state) if own[name].shape != state[name].shape)
    if missing or unexpected or other:
        config = network.config
        raise InputError(
            f"the checkpoint is not of {config.head} on {config.backbone}: {len(missing)} tensors missing "
            f"{missing[:2]}, {len(unexpected)} unexpected {unexpected[:2]}, "
            f"{len(other)} of another shape {other[:2]}"
        )
    network.load_state_dict({**own, **state})
    return sorted(set(own) - wanted)


class PublishersBackbone(NamedTuple):
    """A state dict for the publisher's whole network, and the names in it that training never touched."""

    state: dict[str, Tensor]
    untrained: list[str]


def publishers_backbone(network: Segmentor, seed: int = 0) -> PublishersBackbone:
    """The backbone as a state dict that loads strictly where it came from, see `loads_into`.

    Whole networks have parts that a segmentation network lacks (torchvision's `fc`; `features.18` and `classifier` of
    mobilenet_v2): they are filled with seeded random weights and named in `untrained`.
    """
    name = network.config.backbone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in plugin_names(SEGMENTORS_GROUP):
            whole = network.trunk.state_dict()
        elif name.startswith(TIMM):
            whole = timm.create_model(name.removeprefix(TIMM), pretrained=False, num_classes=0).state_dict()
        else:
            whole = torchvision.models.get_model(name, weights=None).state_dict()
    own = {key: tensor.detach().cpu().contiguous() for key, tensor in network.trunk.state_dict().items()}
    assert set(own) <= set(whole), sorted(set(own) - set(whole))
    return PublishersBackbone({**whole, **own}, sorted(set(whole) - set(own)))


def loads_into(backbone: str) -> str:
    """The call that makes the network which `publishers_backbone` is for."""
    if backbone.startswith(TIMM):
        return f"timm.create_model({backbone.removeprefix(TIMM)!r}, num_classes=0)"
    if backbone in plugin_names(SEGMENTORS_GROUP):
        made = plugin(SEGMENTORS_GROUP, backbone)
        return f"{made.__module__}.{made.__qualname__}()"
    return f"torchvision.models.{backbone}()"
