"""Options of augmented views (Table 8)."""

from typing import Literal

from pydantic import Field, model_validator

from workloads.configs.base import HashedConfig
from workloads.errors import InputError

Probability = float


class ViewsConfig(HashedConfig, tag="ViewsConfig"):
    """How views are drawn; the defaults are Table 8. Sizes are in pixels, (height, width)."""

    image_size: tuple[int, int] | None = Field(
        None, description="size an image is brought to before anything else; null: its own"
    )
    crop_mode: Literal["range", "fixed"] = Field(
        "range",
        description="range: one square side per batch between the two values; fixed: height and width",
    )
    crop: tuple[int, int] = Field((321, 361), description="smallest and largest side, or height and width")
    crop_step: int = Field(8, ge=1, description="step between the sides of a range")
    scale: tuple[float, float] = Field((0.4, 2.5), description="smallest and largest factor of the image's size")
    scale_distribution: Literal["uniform", "log_uniform"] = Field(
        "uniform", description="how the factor is drawn from its range"
    )
    rotation: tuple[float, float] = Field((-60.0, 60.0), description="smallest and largest angle in degrees")
    rotation_probability: Probability = Field(1.0, ge=0, le=1, description="share of views that are rotated")
    flip: Probability = Field(0.5, ge=0, le=1, description="share of views flipped horizontally")
    jitter: tuple[float, float, float, float] = Field(
        (0.4, 0.4, 0.4, 0.1), description="strength of brightness, contrast, saturation and hue changes"
    )
    jitter_probability: Probability = Field(1.0, ge=0, le=1, description="share of views with colour jitter")
    grayscale: Probability = Field(0.2, ge=0, le=1, description="share of views turned grey")
    blur_probability: Probability = Field(0.0, ge=0, le=1, description="share of views blurred, 5 x 5 Gaussian")
    cutout: tuple[int, int] = Field((0, 40), description="smallest and largest side of the square cut out")
    cutout_labels: Literal["ignore", "keep"] = Field("ignore", description="what pixels cut out are labelled")

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> "ViewsConfig":
        for name in ("scale", "rotation", "cutout"):
            low, high = getattr(self, name)
            self._require(low <= high, name, "give the smaller value first")
        self._require(self.crop_mode == "fixed" or self.crop[0] <= self.crop[1], "crop", "give the smaller side first")
        self._require(min(self.crop) >= 1, "crop", "both must be 1 or more")
        self._require(self.scale[0] > 0, "scale", "both must be positive")
        self._require(self.cutout[0] >= 0, "cutout", "neither may be negative")
        allowed = "give four strengths, none negative, hue at most 0.5"
        self._require(self.jitter[3] <= 0.5 and min(self.jitter) >= 0, "jitter", allowed)
        return self

    def _require(self, right: bool, key: str, allowed: str) -> None:
        if not right:
            raise InputError(key=key, value=list(getattr(self, key)), allowed=allowed)
