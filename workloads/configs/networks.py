"""Options of segmentation networks, and the names of what their backbones begin from."""

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from workloads.configs.base import HashedConfig
from workloads.errors import InputError
from workloads.plugins import SEGMENTORS_GROUP, plugin_names

Backbone = Literal["resnet50", "resnet18", "mobilenet_v2"]
TIMM = "timm/"
"""What the names of timm's networks begin with."""
TIMM_NAME = r"timm/[A-Za-z0-9_]+(\.[A-Za-z0-9_.-]+)?"


def _known(backbone: str) -> str:
    names = (*get_args(Backbone), *plugin_names(SEGMENTORS_GROUP))
    if backbone not in names and re.fullmatch(TIMM_NAME, backbone) is None:
        allowed = f"allowed: {', '.join(names)}, or {TIMM}NAME for a network of timm's that has stages"
        raise InputError(value=backbone, allowed=allowed)
    return backbone


Initialisation = Literal["random", "imagenet", "moco", "pixpro", "file"]

# The first version of torchvision's ImageNet weights (resnet50: 76.1 %), the one of the literature compared against.
IMAGENET_WEIGHTS: dict[str, str] = {
    "resnet50": "ResNet50_Weights.IMAGENET1K_V1",
    "resnet18": "ResNet18_Weights.IMAGENET1K_V1",
    "mobilenet_v2": "MobileNet_V2_Weights.IMAGENET1K_V1",
}


def imagenet_weights(backbone: str) -> str:
    """The name of a backbone's ImageNet weights; of one of timm's, what timm publishes under its name."""
    if backbone in plugin_names(SEGMENTORS_GROUP):
        raise InputError(
            f"no ImageNet weights are known of {backbone}, which a plug-in adds",
            key="init",
            allowed="give a file of them",
        )
    return "pretrained" if backbone.startswith(TIMM) else IMAGENET_WEIGHTS[backbone]


# What a file must be for a row to be called by that name.
PUBLISHED_FORMAT: dict[str, str] = {"moco": "MoCo v2", "pixpro": "PixPro"}


class SegmentorConfig(HashedConfig, tag="SegmentorConfig"):
    """The architecture of a segmentation network; the number of classes is given apart, by the data set."""

    head: Literal["deeplabv3", "pspnet", "fcn"] = Field(
        "deeplabv3", description="segmentation head; fcn: one 3x3 convolution before the last 1x1"
    )
    backbone: Annotated[Backbone | str, AfterValidator(_known)] = Field(
        "resnet50",
        description="torchvision backbone, timm/NAME for any network of timm's that has stages, or a plug-in's",
    )
    output_stride: Literal[8, 16, 32] = Field(8, description="pixels of the input per cell of the features")
    auxiliary_head: bool = Field(True, description="a second, plain head on the stage before last while training")
    head_channels: int | None = Field(
        None, ge=8, description="channels of the head; null: 256 for deeplabv3, 512 for pspnet and fcn, as published"
    )
    atrous_rates: tuple[int, int, int] | None = Field(
        None,
        description="rates of deeplabv3's atrous convolutions; null: 12, 24, 36 at stride 8, halved at 16",
    )
    dropout: float | None = Field(
        None,
        ge=0.0,
        lt=1.0,
        description="dropout of both heads; null: 0.5 deeplabv3, 0.1 pspnet, fcn and auxiliary",
    )

    @property
    def channels(self) -> int:
        """Channels of the representation below the last 1x1 convolution."""
        return self.head_channels or (256 if self.head == "deeplabv3" else 512)

    @property
    def rates(self) -> tuple[int, ...]:
        """Rates of the atrous convolutions."""
        scale = 8 / self.output_stride
        return self.atrous_rates or tuple(max(1, int(rate * scale)) for rate in (12, 24, 36))
