"""Patches of a label lie where it is widest, one an image, the widest first."""

import numpy as np

from workloads.ignored import IGNORE_LABEL
from workloads.labels.patches import typical_patches


def square(size: int, at: tuple[int, int], label: int = 1) -> np.ndarray:
    labels = np.zeros((80, 120), np.uint16)
    labels[at[0] : at[0] + size, at[1] : at[1] + size] = label
    return labels


def test_the_widest_places_come_first_and_an_image_gives_one() -> None:
    maps = [("narrow", square(8, (20, 20))), ("wide", square(40, (20, 40))), ("wider", square(48, (16, 40)))]
    found = typical_patches(maps, 2)
    assert [patch.image for patch in found[1]] == ["wider", "wide"]
    wide = found[1][1]
    assert abs(wide.y - 40) <= 4 and abs(wide.x - 60) <= 4, "in the middle of the square"
    assert abs(wide.depth - 20) <= 4


def test_a_patch_shows_the_picture_and_dims_what_is_another_label() -> None:
    labels = square(32, (24, 40))
    (patch,) = typical_patches([("a", labels)], 10)[1]
    cut = patch.cut(np.full((80, 120, 3), 200, np.uint8), labels, 1)
    assert set(np.unique(cut)) == {100, 200}
    assert (cut == 200).all(axis=2).sum() == 32 * 32


def test_ignored_pixels_are_no_label() -> None:
    assert typical_patches([("a", np.full((80, 120), IGNORE_LABEL, np.uint16))], 10) == {}
