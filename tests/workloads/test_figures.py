"""Picture sheets: colours that can be told apart, ignored pixels that are no class, everything in its
place."""

import numpy as np
import pytest
from skimage.color import rgb2lab

from workloads.errors import InputError
from workloads.figures import (
    EMPTY,
    PAPER,
    UNMATCHED,
    colourise,
    distinct_colours,
    matched_palette,
    overlay,
    sheet,
    with_borders,
)


def test_colours_are_far_apart_and_a_short_palette_begins_a_long_one() -> None:
    palette = distinct_colours(32)
    lab = rgb2lab(palette[None] / 255.0)[0]
    apart = np.linalg.norm(lab[:, None] - lab, axis=2)[np.triu_indices(32, 1)]
    assert apart.min() > 20
    assert np.array_equal(distinct_colours(5), palette[:5])
    assert not np.array_equal(distinct_colours(5, seed=1), palette[:5])
    assert len(np.unique(distinct_colours(300), axis=0)) == 300


def test_labels_take_their_colours_and_ignored_pixels_are_hatched() -> None:
    palette = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)
    labels = np.full((16, 16), 65535, np.uint16)
    labels[:2] = [[0] * 16, [1] * 16]
    picture = colourise(labels, palette, 65535)
    assert picture.dtype == np.uint8 and picture.shape == (16, 16, 3)
    assert (picture[0] == palette[0]).all() and (picture[1] == palette[1]).all()
    assert np.unique(picture[2:]).tolist() == [0, 90]
    assert (picture[2:] == picture[2:, :, :1]).all()


def test_labels_without_a_colour_are_refused() -> None:
    with pytest.raises(InputError, match="value 3; the palette has 2 colours"):
        colourise(np.array([[0, 3]]), np.zeros((2, 3), np.uint8), 65535)
    assert colourise(np.full((2, 2), 255), np.zeros((0, 3), np.uint8), 255).shape == (2, 2, 3)


def test_matched_labels_take_class_colours_and_the_rest_is_grey() -> None:
    classes = np.array([[10, 0, 0], [0, 20, 0]], np.uint8)
    assert matched_palette({2: 1, 0: 0}, classes, 4).tolist() == [
        [10, 0, 0],
        list(UNMATCHED),
        [0, 20, 0],
        list(UNMATCHED),
    ]


def test_borders_lie_where_superpixels_meet_and_nowhere_else() -> None:
    image = np.full((4, 4, 3), 9, np.uint8)
    superpixels = np.array([[0, 0, 1, 1]] * 2 + [[2] * 4] * 2, np.uint16)
    drawn = with_borders(image, superpixels, (1, 2, 3))
    changed = (drawn == (1, 2, 3)).all(2)
    assert changed.tolist() == [[False, False, True, False]] * 2 + [[True] * 4, [False] * 4]
    assert (drawn[~changed] == 9).all()


def test_overlay_mixes() -> None:
    mixed = overlay(np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 200, np.uint8), 0.25)
    assert mixed.tolist() == [[[50, 50, 50]]]


def test_sheet_puts_pictures_captions_and_legend_in_place() -> None:
    red = np.zeros((30, 40, 3), np.uint8) + np.array([200, 0, 0], np.uint8)
    blue = np.zeros((300, 400, 3), np.uint8) + np.array([0, 0, 200], np.uint8)
    page = sheet([[red, blue], [blue, None]], ["first", "second"], ["a", "b"], [("road", (0, 123, 45))], 100)
    assert page.dtype == np.uint8 and page.ndim == 3
    assert (page == (200, 0, 0)).all(2).sum() == 100 * 75
    assert (page == (0, 0, 200)).all(2).sum() == 2 * 100 * 75
    empty = (page == EMPTY).all(2)  # a pixel of a letter's edge may have this grey too
    assert (empty.sum(1) >= 100).sum() == 75 and (empty.sum(0) >= 75).sum() == 100
    assert (page == (0, 123, 45)).all(2).sum() > 100
    columns = np.flatnonzero((page == (200, 0, 0)).all(2).any(0))
    rows = np.flatnonzero((page == (200, 0, 0)).all(2).any(1))
    assert (page[: rows[0], columns[0] : columns[-1]] < 128).any()  # ink of the column title above
    assert (page[rows[0] : rows[-1], : columns[0]] < 128).any()  # ink of the row title on the left
    assert (page[-1] == PAPER).all()


def test_pictures_shrink_by_averaging_so_that_thin_labels_remain() -> None:
    picture = np.zeros((400, 400, 3), np.uint8)
    picture[:, 201] = 255
    page = sheet([[picture]], [""], [""], cell_width=100)
    assert (page.astype(int).max(2) == 64).sum() >= 100


def test_long_titles_wrap_and_make_the_sheet_no_wider_than_its_cells() -> None:
    cell = np.zeros((50, 100, 3), np.uint8)
    short = sheet([[cell]], ["one"], [""], cell_width=160)
    long = sheet([[cell]], ["a rather long title of many words over one narrow column"], [""], cell_width=160)
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0]


def test_rows_and_titles_must_agree() -> None:
    with pytest.raises(InputError, match="every row needs a title"):
        sheet([[None, None]], ["one"], ["a"])
