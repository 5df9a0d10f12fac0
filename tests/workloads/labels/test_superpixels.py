"""Superpixels: ids without gaps on images of any size."""

import numpy as np
import pytest
from scipy import ndimage

from workloads.configs.superpixels import SuperpixelConfig
from workloads.errors import InputError
from workloads.labels.superpixels import superpixels


def halves(height: int, width: int) -> np.ndarray:
    """A dark left half and a bright right half."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :] = (250, 240, 60)
    return image


def test_ids_have_no_gaps_and_segments_are_connected_and_do_not_cross_edges() -> None:
    image = halves(60, 80)
    ids = superpixels(image, SuperpixelConfig(n_segments=30))
    assert ids.shape == (60, 80) and ids.dtype == np.uint16
    assert np.array_equal(np.unique(ids), np.arange(int(ids.max()) + 1))
    assert 15 <= int(ids.max()) + 1 <= 60
    for segment in range(int(ids.max()) + 1):
        mask = ids == segment
        assert ndimage.label(mask)[1] == 1
        assert len(np.unique(image[mask], axis=0)) == 1


def test_same_image_and_config_give_the_same_bytes_and_another_number_another_map() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    few, again = (superpixels(image, SuperpixelConfig(n_segments=12, compactness=10)) for _ in range(2))
    assert few.tobytes() == again.tobytes()
    assert superpixels(image, SuperpixelConfig(n_segments=100, compactness=10)).max() > few.max()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 3)])
@pytest.mark.parametrize("n_segments", [1, 500])
def test_tiny_images(size: tuple[int, int], n_segments: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    ids = superpixels(image, SuperpixelConfig(n_segments=n_segments))
    assert ids.shape == size
    assert np.array_equal(np.unique(ids), np.arange(int(ids.max()) + 1))


def test_one_colour_image_is_still_cut() -> None:
    ids = superpixels(np.full((50, 50, 3), 7, np.uint8), SuperpixelConfig(n_segments=25))
    assert 9 <= int(ids.max()) + 1 <= 49


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((4, 4), np.uint8), "(4, 4)"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((0, 4, 3), np.uint8), "(0, 4, 3)"),
        (np.zeros((4, 4, 4), np.uint8), "(4, 4, 4)"),
    ],
)
def test_other_arrays_are_refused_by_name(image: np.ndarray, found: str) -> None:
    with pytest.raises(InputError, match="uint8") as raised:
        superpixels(image, SuperpixelConfig())
    assert found in str(raised.value)


def test_more_superpixels_than_16_bits_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    crowded = np.arange(65537 * 2).reshape(2, 65537)
    monkeypatch.setattr("workloads.labels.superpixels.slic", lambda *args, **kwargs: crowded)
    with pytest.raises(InputError, match="131074 superpixels"):
        superpixels(np.zeros((2, 65537, 3), np.uint8), SuperpixelConfig())
    with pytest.raises(ValueError, match="65535"):
        SuperpixelConfig(n_segments=70_000)


def test_gaps_left_by_the_algorithm_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workloads.labels.superpixels.slic", lambda *a, **k: np.array([[3, 3], [9, 5]]))
    assert superpixels(np.zeros((2, 2, 3), np.uint8), SuperpixelConfig()).tolist() == [[0, 0], [2, 1]]
