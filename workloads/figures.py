"""Picture sheets of images, labels and superpixels, uint8: the paper's qualitative figures for one's own data.

A label map becomes colours (`colourise`), a row of such pictures is one image, a sheet is rows with captions and a
legend. Everything is Pillow and NumPy, so a sheet can be made wherever labels can.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from workloads.errors import InputError
from workloads.seeding import generator

UNMATCHED = (222, 222, 222)  # lighter than any grey of the data sets' own colours
INK = (32, 32, 32)
PAPER = (255, 255, 255)
EMPTY = (238, 238, 238)

Colour = tuple[int, int, int]


def distinct_colours(number: int, seed: int = 0) -> np.ndarray:
    """Colours as far from each other, and from black, white and the grey of unmatched labels, as seeded search finds.

    Each next colour is, of 4096 random ones, the farthest from all before it in CIE Lab, so the first few of a long
    palette are the same as a short one's.

    Returns
    -------
    ndarray of uint8, shape (number, 3)
        RGB.
    """
    # Imported where it is used: every command that may draw would wait for it.
    from skimage.color import rgb2lab

    candidates = generator(seed, "palette").integers(0, 256, (max(4096, 2 * number), 3), dtype=np.uint8)
    lab = rgb2lab(candidates[None] / 255.0)[0]
    taken = rgb2lab(np.array([[(0, 0, 0), PAPER, UNMATCHED]]) / 255.0)[0]
    nearest = np.linalg.norm(lab[:, None] - taken, axis=2).min(1)
    chosen = []
    for _ in range(number):
        best = int(nearest.argmax())
        chosen.append(best)
        nearest = np.minimum(nearest, np.linalg.norm(lab - lab[best], axis=1))
        nearest[best] = -1
    return candidates[chosen]


def matched_palette(matching: Mapping[int, int], class_palette: np.ndarray, num_clusters: int) -> np.ndarray:
    """Colours of labels by the class they were matched to: uint8 (num_clusters, 3), unmatched labels grey.

    Parameters
    ----------
    matching : Mapping[int, int]
        Label -> class, as in `ProxyScore.matching`.
    class_palette : ndarray of uint8, shape (M, 3)
        The data set's colours.
    num_clusters : int
        K.
    """
    palette = np.tile(np.array(UNMATCHED, np.uint8), (num_clusters, 1))
    for label, matched_class in matching.items():
        palette[label] = class_palette[matched_class]
    return palette


def colourise(labels: np.ndarray, palette: np.ndarray, ignore: int) -> np.ndarray:
    """A label map in colours, ignored pixels black with grey diagonal hatching.

    Parameters
    ----------
    labels : ndarray of integers, shape (H, W)
        0..len(palette) - 1 or `ignore`.
    palette : ndarray of uint8, shape (K, 3)
    ignore : int
        65535 for auxiliary labels, 255 for ground truth.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)

    Raises
    ------
    InputError
        When a label has no colour.
    """
    ignored = labels == ignore
    shown = np.where(ignored, 0, labels)
    if not ignored.all() and int(shown.max()) >= len(palette):
        raise InputError(f"labels: value {shown.max()}; the palette has {len(palette)} colours")
    picture = palette[shown] if len(palette) else np.zeros((*labels.shape, 3), np.uint8)
    diagonals = np.arange(labels.shape[0])[:, None] + np.arange(labels.shape[1])
    hatching = np.where(diagonals % 8 < 2, np.uint8(90), np.uint8(0))
    return np.where(ignored[..., None], hatching[..., None], picture).astype(np.uint8)


def with_borders(image: np.ndarray, superpixels: np.ndarray, colour: Colour = (255, 230, 0)) -> np.ndarray:
    """The image with the superpixels' borders drawn over it, one pixel wide: uint8 (H, W, 3)."""
    border = np.zeros(superpixels.shape, bool)
    border[:, 1:] |= superpixels[:, 1:] != superpixels[:, :-1]
    border[1:] |= superpixels[1:] != superpixels[:-1]
    return np.where(border[..., None], np.array(colour, np.uint8), image)


def overlay(image: np.ndarray, colours: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Colours laid over an image: uint8 (H, W, 3), both of one size."""
    return np.rint(image * (1 - opacity) + colours * opacity).astype(np.uint8)


def sheet(
    rows: Sequence[Sequence[np.ndarray | None]],
    column_titles: Sequence[str],
    row_titles: Sequence[str],
    legend: Sequence[tuple[str, Colour]] = (),
    cell_width: int = 320,
) -> np.ndarray:
    """Pictures in rows and columns with captions, and a legend of colours below.

    Parameters
    ----------
    rows : Sequence[Sequence[ndarray | None]] of uint8, shape (H, W, 3)
        Pictures of any size, scaled to the cell's width; None leaves an empty cell.
    column_titles : Sequence[str]
        One per column, above; wrapped where too long.
    row_titles : Sequence[str]
        One per row, on the left; wrapped where too long.
    legend : Sequence[tuple[str, Colour]]
        Names and colours.
    cell_width : int
        Width of a picture in pixels; captions grow with it.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)

    Raises
    ------
    InputError
        When rows and titles do not agree in number.
    """
    if len(rows) != len(row_titles) or any(len(row) != len(column_titles) for row in rows):
        raise InputError(
            f"sheet: rows of {[len(row) for row in rows]} pictures with {len(row_titles)} row titles and "
            f"{len(column_titles)} column titles; every row needs a title and as many pictures as columns"
        )
    size = min(28, max(14, cell_width // 16))
    font = ImageFont.load_default(size)
    gap, line = size // 2, round(size * 1.3)
    titles = [_wrapped(title, font, cell_width) for title in column_titles]
    captions = [_wrapped(title, font, cell_width // 2) for title in row_titles]
    left = gap + max((_width(caption, font) for caption in captions), default=0) + gap
    top = gap + line * max((title.count("\n") + 1 for title in titles), default=0) + gap
    heights = [
        max(
            [round(cell_width * picture.shape[0] / picture.shape[1]) for picture in row if picture is not None]
            + [line * (caption.count("\n") + 1)]
        )
        for row, caption in zip(rows, captions, strict=True)
    ]
    width = left + len(column_titles) * (cell_width + gap)
    entries, legend_height = _flow(legend, font, width, gap, line)
    height = top + sum(heights) + gap * len(heights) + legend_height
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        x = left + column * (cell_width + gap) + cell_width // 2
        draw.multiline_text((x, top - gap), title, INK, font, anchor="md", align="center")
    y = top
    for row, caption, row_height in zip(rows, captions, heights, strict=True):
        draw.multiline_text((left - gap, y + row_height // 2), caption, INK, font, anchor="rm", align="right")
        for column, picture in enumerate(row):
            x = left + column * (cell_width + gap)
            if picture is None:
                draw.rectangle((x, y, x + cell_width - 1, y + row_height - 1), EMPTY)
            else:
                page.paste(_scaled(picture, cell_width), (x, y))
        y += row_height + gap
    for text, colour, x, offset in entries:
        draw.rectangle((x, y + offset, x + size, y + offset + size), tuple(colour), INK)
        draw.text((x + size + gap // 2, y + offset + size // 2), text, INK, font, anchor="lm")
    return np.asarray(page)


def _scaled(picture: np.ndarray, width: int) -> Image.Image:
    """The picture at a width; averaged when it shrinks, so that thin labels do not vanish, and never blurred."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    height = max(1, round(width * picture.shape[0] / picture.shape[1]))
    smaller = width < picture.shape[1]
    return image.resize((width, height), Image.Resampling.BOX if smaller else Image.Resampling.NEAREST)


def _width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return max(int(np.ceil(font.getlength(part))) for part in text.split("\n"))


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text in lines no wider than `width`, as far as its words allow."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _flow(
    legend: Sequence[tuple[str, Colour]],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: int,
    gap: int,
    line: int,
) -> tuple[list[tuple[str, Colour, int, int]], int]:
    """Legend entries with their x and y, left to right and wrapped at the page's width; and the height they take."""
    entries: list[tuple[str, Colour, int, int]] = []
    x, y = gap, gap
    for text, colour in legend:
        needed = line + gap // 2 + _width(text, font) + 2 * gap
        if x > gap and x + needed > width:
            x, y = gap, y + line + gap // 2
        entries.append((text, colour, x, y))
        x += needed
    return entries, (y + line + gap if legend else 0)
