"""What an image costs a step."""

from typing import Literal

from pydantic import Field

from orchestrator.spec.entries import RuntimeConfig


class Rate(RuntimeConfig):
    """What one image costs a step; in a training an image counts once an epoch."""

    seconds: float = Field(ge=0, description="of one core, or of one GPU")
    bytes: float = Field(0.0, ge=0, description="written to the storage")
    device: Literal["cpu", "cuda"] = "cpu"
