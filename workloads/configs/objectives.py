"""Options of what pre-training optimises: the contrastive loss, MoCo v2 and PixPro."""

from typing import Literal

from pydantic import Field, model_validator

from workloads.configs.base import HashedConfig
from workloads.errors import InputError

Positives = Literal["auxiliary", "superpixel", "pixel"]


class ContrastConfig(HashedConfig, tag="ContrastConfig"):
    """Which cells attract each other, and how strongly."""

    positives: Positives = Field(
        "auxiliary",
        description="auxiliary: same label in any image; superpixel: same one; pixel: same place in both",
    )
    temperature: float = Field(0.1, gt=0, description="divides the cosines")
    embedding_dim: int = Field(128, ge=1, description="dimensions of the embeddings")
    anchors_per_image: int = Field(128, ge=2, description="anchor slots of an image, over both its views")
    negatives: Literal["batch", "image"] = Field(
        "batch", description="whether keys of all images repel an anchor, or of its own image only"
    )
    cell_label: Literal["majority", "nearest"] = Field(
        "majority",
        description="of a feature cell, positives 'auxiliary': what over half of its pixels carry, else ignored; or "
        "its centre's, as in the other two cases",
    )
    pixel_cell: int = Field(
        8, ge=1, description="positives 'pixel': side in image pixels of what counts as the same place"
    )
    memory_per_label: int = Field(0, ge=0, description="keys remembered per label; 0: none")
    memory_update_per_label: int = Field(10, ge=1, description="most keys a step may add to one label's memory")

    @model_validator(mode="after")
    def _memory_needs_lasting_labels(self) -> "ContrastConfig":
        if self.memory_per_label and self.positives != "auxiliary":
            raise InputError(
                f"{{key}} is {self.memory_per_label} with positives {self.positives!r}",
                key="memory_per_label",
                value=self.memory_per_label,
                allowed="allowed: 0, since only auxiliary labels mean the same in every image",
            )
        if self.memory_per_label and self.memory_update_per_label > self.memory_per_label:
            raise InputError(
                key="memory_update_per_label",
                value=self.memory_update_per_label,
                allowed=f"it must not exceed memory_per_label ({self.memory_per_label})",
            )
        return self


class MocoConfig(HashedConfig, tag="MocoConfig"):
    """Options of MoCo v2; defaults as published."""

    queue: int = Field(65_536, ge=1, description="keys in the queue; scale it down with the number of images")
    momentum: float = Field(0.999, ge=0, le=1, description="share of the key network kept at each step")
    temperature: float = Field(0.2, gt=0, description="divides the cosines")
    embedding_dim: int = Field(128, ge=1, description="dimensions of the embeddings")


class PixproConfig(HashedConfig, tag="PixproConfig"):
    """Options of PixPro; defaults as published."""

    hidden_channels: int = Field(4096, ge=1, description="channels inside the projection head")
    embedding_dim: int = Field(256, ge=1, description="dimensions of the embeddings")
    distance: float = Field(0.7, gt=0, description="largest distance of a pair, in diagonals of the larger cell")
    gamma: float = Field(2.0, gt=0, description="sharpness of the propagation")
    momentum: float = Field(0.99, ge=0, le=1, description="share of the momentum network kept at the first step")
