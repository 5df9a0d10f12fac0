"""The sizes at which an image is predicted, and the windows that slide over it."""

import math

from workloads.configs.training import EvaluationConfig


def input_size(full: tuple[int, int], config: EvaluationConfig, scale: float) -> tuple[int, int]:
    """Height and width that an image of size `full` is resized to at a scale."""
    height, width = config.image_size or full
    if config.base_size is None:
        return max(1, round(height * scale)), max(1, round(width * scale))
    longer = round(scale * config.base_size)
    shorter = max(1, round(longer / max(height, width) * min(height, width)))
    return (longer, shorter) if height > width else (shorter, longer)


def offsets(extent: int, window: int, stride: float) -> list[int]:
    """Starts of windows `stride` windows apart that cover the extent; the last one ends with it."""
    step = max(1, math.ceil(window * stride))
    return [min(start, extent - window) for start in range(0, extent - window + step, step)]
