"""Options of feature extractors."""

import re
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from workloads.configs.base import LATER, HashedConfig
from workloads.configs.networks import TIMM, TIMM_NAME, SegmentorConfig
from workloads.errors import InputError
from workloads.plugins import EXTRACTORS_GROUP, plugin_names

Arch = Literal["filters", "mobilenet_v2", "resnet18", "resnet50", "vgg19", "deeplabv3_resnet50", "segmentor"]


def _known(arch: str) -> str:
    names = (*get_args(Arch), *plugin_names(EXTRACTORS_GROUP))
    if arch not in names and re.fullmatch(TIMM_NAME, arch) is None:
        allowed = f"allowed: {', '.join(names)}, or {TIMM}NAME for any network of timm's"
        raise InputError(value=arch, allowed=allowed)
    return arch


MINIMUM_SIZE = 32
"""Smallest side, in pixels after resizing, that an extractor takes: one place at the largest output
stride."""


class FilterBankConfig(HashedConfig, tag="FilterBankConfig"):
    """Weights of the families of channels.

    A family's share of the squared length of a vector is about the square of its weight over the sum of the squares.
    """

    colour: float = Field(1.0, ge=0.0, description="weight of the colour channels")
    variation: float = Field(0.3, ge=0.0, description="weight of the local standard deviations of colour")
    texture: float = Field(1.4, ge=0.0, description="weight of the oriented energies")
    orientation: float = Field(2.0, ge=0.0, description="weight of which orientation prevails")
    position: float = Field(2.0, ge=0.0, description="weight of the place in the image; 0 makes features blind to it")


class ExtractorConfig(HashedConfig, tag="ExtractorConfig"):
    """Everything that decides features, apart from the weights, whose identity takes part in keys by itself."""

    arch: Annotated[Arch | str, AfterValidator(_known)] = Field(
        "filters",
        description="network: filters (weight-free filter bank), a torchvision network, timm/NAME for any of "
        "timm's, segmentor (a network this project fine-tuned, described by `network`), or one that a plug-in adds",
    )
    layer: str | None = Field(
        None,
        description="name of the module whose output is the feature map (of timm's networks, one of their stages); "
        "null takes the architecture's default",
    )
    output_stride: Literal[8, 16, 32] | None = Field(
        16,
        description="pixels per feature; strides beyond it become dilation. A layer before it has its own, smaller. "
        "Not given: as segmentor and deeplabv3_resnet50 (8) were trained, 16 for the others; of timm's networks that "
        "cannot be dilated (transformers) their own",
    )
    normalize: bool = Field(True, description="scale every feature vector to Euclidean length one")
    input_size: tuple[int, int] | None = Field(
        None, description="height and width in pixels that images are resized to, bilinear; null keeps their own size"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="precision of the forward pass; features are float32 in any case"
    )
    batch_size: int = Field(
        4,
        ge=1,
        description="images per forward pass on a GPU (a CPU takes one); it changes the last bits of features",
    )
    reflect: Annotated[int, LATER] = Field(
        0,
        ge=0,
        description="cells by which the image is mirrored outwards before features are taken, and that are cut off "
        "again: zero padding makes features of their own along an image's border",
    )
    seed: int = Field(0, description="seed of random weights")
    filter_bank: FilterBankConfig = Field(FilterBankConfig(), description="options of arch filters")
    network: SegmentorConfig | None = Field(None, description="architecture of arch segmentor")

    @model_validator(mode="before")
    @classmethod
    def _stride_as_trained(cls, values: object) -> object:
        if not isinstance(values, dict) or values.get("output_stride") is not None:
            return values
        if str(values.get("arch")).startswith(TIMM):
            return {**values, "output_stride": None}
        stride = 8 if values.get("arch") == "deeplabv3_resnet50" else 16
        match values.get("network"):
            case SegmentorConfig() as network:
                stride = network.output_stride
            case dict() as network:
                stride = network.get("output_stride", SegmentorConfig().output_stride)
        return {**values, "output_stride": stride}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.input_size is not None and min(self.input_size) < MINIMUM_SIZE:
            raise InputError(
                f"{list(self.input_size)} is too small",
                key="input_size",
                value=self.input_size,
                allowed=f"both sides must be {MINIMUM_SIZE} or more",
            )
        if self.arch != "filters" and self.filter_bank != FilterBankConfig():
            raise InputError(
                f"options are given, but arch is {self.arch}", key="filter_bank", allowed="they belong to arch filters"
            )
        if (self.network is not None) != (self.arch == "segmentor"):
            raise InputError(
                f"arch {self.arch} and network {self.network} do not go together",
                key="network",
                value=self.network,
                allowed="it belongs to segmentor",
            )
        if self.arch == "filters" and self.reflect:
            message = f"{{key}} is {self.reflect}, but arch filters knows no padding"
            raise InputError(message, key="reflect", value=self.reflect, allowed="leave it out")
        if self.arch == "filters" and (self.layer is not None or self.precision != "float32"):
            raise InputError("arch filters has one layer and computes in float32", key="layer, precision")
        return self
