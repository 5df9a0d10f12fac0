"""What an image costs a step, and how much of what a step does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import Field

from orchestrator.spec.entries import RuntimeConfig
from workloads.configs.base import HashedConfig
from workloads.costs.work import Size

# Assumed bytes are those of images of 480x360.
ASSUMED_MEGAPIXELS = 0.1728

Hashed = TypeVar("Hashed", bound=HashedConfig)


class Rate(RuntimeConfig):
    """What one image costs a step; in a training an image counts once an epoch."""

    seconds: float = Field(ge=0, description="of one core, or of one GPU")
    bytes: float = Field(0.0, ge=0, description="written to the storage")
    device: Literal["cpu", "cuda"] = "cpu"
    core_seconds: float = Field(0.0, ge=0, description="of one core, beside a GPU")


@dataclass(frozen=True)
class Extent:
    """How much a step has to do: images, passes of images (see `Step.image_passes`), their height and width, clusters.

    Of a step that was done elsewhere the number of clusters may not be known.
    """

    images: int
    passes: int
    size: Size
    num_clusters: int = 20


def config_of(kind: type[Hashed], canonical: Mapping[str, Any]) -> Hashed:
    """The configuration that a meaning holds.

    Raises:
        ValueError: it is one of an earlier version.
    """
    return kind.model_validate({name: value for name, value in canonical.items() if name != "type"})
