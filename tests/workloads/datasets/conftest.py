"""Real image files in small trees."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Save = Callable[..., Path]


@pytest.fixture
def save() -> Save:
    """Writes an array as an image file, making its folders; the suffix gives the format."""

    def write(path: Path, pixels: np.ndarray) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def photo() -> np.ndarray:
    """A picture uint8 (6, 8, 3) whose pixels all differ."""
    return np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
