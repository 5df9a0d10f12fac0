"""Options of superpixels."""

from typing import Literal

from pydantic import Field

from workloads.configs.base import HashedConfig

MAX_SUPERPIXELS = 65535


class SuperpixelConfig(HashedConfig, tag="SuperpixelConfig"):
    """How an image is cut into superpixels."""

    method: Literal["slic"] = Field("slic", description="SLIC")
    n_segments: int = Field(
        default=500, ge=1, le=MAX_SUPERPIXELS, description="approximate number of superpixels per image"
    )
    compactness: float = Field(default=10.0, gt=0, description="weight of position against Lab colour")
    sigma: float = Field(default=0.0, ge=0, description="width in pixels of the Gaussian blur before, 0 for none")
    iterations: int = Field(default=10, ge=1, description="iterations of SLIC's K-means")
