"""Options of augmented views (Table 8)."""

from typing import Literal

from pydantic import Field, model_validator

from workloads.configs.base import HashedConfig

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
            if low > high:
                raise ValueError(f"{name} is [{low}, {high}]; allowed: the smaller value first")
        if self.crop_mode == "range" and self.crop[0] > self.crop[1]:
            raise ValueError(f"crop is {list(self.crop)}; allowed: the smaller side first")
        if self.scale[0] <= 0 or self.cutout[0] < 0 or min(self.crop) < 1:
            raise ValueError("scale and crop must be positive, cutout not negative")
        if not 0 <= self.jitter[3] <= 0.5 or min(self.jitter[:3]) < 0:
            raise ValueError("jitter must be four strengths, none negative, hue at most 0.5")
        return self
