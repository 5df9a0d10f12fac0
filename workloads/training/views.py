"""Augmented views of an image that know, for each of their pixels, which pixel of the image it came from.

A view is a function of the image and of one `Draw`, the explicit list of its random numbers, which depends on (seed,
epoch, image id, view) alone. Geometry comes first (scale, crop window, rotation, flip), photometric changes after,
CutOut last. The geometry of a view is one affine map from the crop to the image: colours are sampled through it
bilinearly and pixel ids (`y * W + x` of the image, -1 where the picture was padded, rotated in or cut out) by rounding
to the nearest pixel, in integers. Label maps are then looked up by id, so labels and pixels cannot drift apart whatever
the transforms do.

The colour functions and the anti-aliased resizing are those of `torchvision.transforms.v2`. Its geometric transforms
are not used one after another on a `tv_tensors.Mask`: each of them rounds, rotation takes ids through float32 (2^24 + 1
comes back as 2^24), and the scaled image is built whole only to be cropped.

The failure this guards against: label maps that are warped beside the image with the default fill, which writes class 0
into every corner; and augmentation that depends on the worker that happened to draw it.

Source: Table 8 of the paper's supplement. Not given there, hence options: the probabilities of jitter, scaling and
rotation (1), the distribution of the scale (uniform), whether [321, 361] is a range of sides or a height and width
(range, one square side per batch in steps of 8), and whether CutOut keeps the label (no).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor
from torch.nn.functional import grid_sample

from workloads.configs.training import PretrainConfig
from workloads.configs.views import ViewsConfig
from workloads.errors import InputError
from workloads.imagenet import IMAGENET_MEAN, IMAGENET_STD
from workloads.seeding import generator
from workloads.training.batches import Slot

OUTSIDE = -1


@dataclass(frozen=True)
class Draw:
    """The random numbers of one view. `centre` and `cutout_at` are fractions of what the sizes allow."""

    crop: tuple[int, int]
    scale: float
    angle: float
    centre: tuple[float, float]
    flip: bool
    # (name, strength) in the order of application; brightness, contrast, saturation: factors; hue: turns.
    photometric: tuple[tuple[str, float], ...]
    grey: bool
    blur_sigma: float
    cutout: int
    cutout_at: tuple[float, float]


@dataclass(frozen=True)
class View:
    """One augmented view.

    Attributes
    ----------
    image : Tensor of float32, shape (3, h, w)
        Normalised with ImageNet's mean and standard deviation.
    pixels : Tensor of int64, shape (h, w)
        The id `y * W + x` of the image's pixel seen there, or -1.
    scale : float
        Pixels of the view per pixel of the image.
    """

    image: Tensor
    pixels: Tensor
    scale: float

    def look_up(self, label_map: np.ndarray, ignore: int) -> Tensor:
        """A label map (H, W) of the image as the view sees it: int64 (h, w), -1 where ignored or outside."""
        labels = torch.from_numpy(np.ascontiguousarray(label_map).astype(np.int64)).reshape(-1)
        labels[labels == ignore] = OUTSIDE
        seen = labels[self.pixels.clamp(min=0)]
        return torch.where(self.pixels >= 0, seen, OUTSIDE)


def crop_of_batch(config: ViewsConfig, rng: np.random.Generator) -> tuple[int, int]:
    """Height and width of every view of one batch."""
    low, high = config.crop
    if config.crop_mode == "fixed":
        return low, high
    side = low + config.crop_step * int(rng.integers((high - low) // config.crop_step + 1))
    return side, side


def check_crop(config: ViewsConfig, image_size: tuple[int, int]) -> None:
    """Refuse a crop that no allowed scale of the image can fill, so that every view would hold padding."""
    height, width = config.image_size or image_size
    largest = config.scale[1]
    need = config.crop if config.crop_mode == "fixed" else (config.crop[0], config.crop[0])
    if need[0] > math.ceil(height * largest) or need[1] > math.ceil(width * largest):
        raise InputError(
            f"crop {need[0]}x{need[1]} is larger than the image ({height}x{width}) at its largest scale "
            f"({largest}); allowed: at most {math.ceil(height * largest)}x{math.ceil(width * largest)}"
        )


def draw(config: ViewsConfig, crop: tuple[int, int], rng: np.random.Generator) -> Draw:
    """Draw one view; every number is drawn whatever the options, so that options do not shift one another."""
    uniform = rng.uniform
    low, high = config.scale
    at = uniform()
    scale = low * (high / low) ** at if config.scale_distribution == "log_uniform" else low + (high - low) * at
    angle, rotated = uniform(*config.rotation), uniform() < config.rotation_probability
    centre = (uniform(), uniform())
    flip = uniform() < config.flip
    factors = [uniform(max(0.0, 1 - strength), 1 + strength) for strength in config.jitter[:3]]
    changes = [*zip(("brightness", "contrast", "saturation"), factors, strict=True)]
    changes.append(("hue", uniform(-config.jitter[3], config.jitter[3])))
    order = rng.permutation(len(changes))
    jittered, grey = uniform() < config.jitter_probability, uniform() < config.grayscale
    sigma, blurred = uniform(0.1, 2.0), uniform() < config.blur_probability
    cutout = int(rng.integers(config.cutout[0], config.cutout[1] + 1))
    strengths = dict(zip(("brightness", "contrast", "saturation", "hue"), config.jitter, strict=True))
    return Draw(
        crop=crop,
        scale=float(scale),
        angle=float(angle) if rotated else 0.0,
        centre=centre,
        flip=bool(flip),
        photometric=tuple(changes[i] for i in order if strengths[changes[i][0]] > 0) if jittered else (),
        grey=bool(grey),
        blur_sigma=float(sigma) if blurred else 0.0,
        cutout=cutout,
        cutout_at=(uniform(), uniform()),
    )


def resize_image(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """An image uint8 (H, W, 3) at (height, width), bilinear with anti-aliasing; itself when it already has the size."""
    if size is None or image.shape[:2] == tuple(size):
        return image
    # A copy: decoded images are read-only, which torch warns about.
    planes = torch.from_numpy(image.copy()).permute(2, 0, 1)
    return F.resize(planes, list(size), antialias=True).permute(1, 2, 0).contiguous().numpy()


def prepared(image: np.ndarray, config: ViewsConfig) -> np.ndarray:
    """An image uint8 (H, W, 3) at the size that views are drawn from; refused where no crop fits it."""
    check_crop(config, (image.shape[0], image.shape[1]))
    return resize_image(image, config.image_size)


def resize_labels(labels: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """A label map (H, W) at (height, width), each pixel the label at its centre."""
    if size is None or labels.shape == tuple(size):
        return labels
    rows, columns = (_nearest(old, new) for old, new in zip(labels.shape, size, strict=True))
    return labels[rows[:, None], columns[None, :]]


def _nearest(old: int, new: int) -> np.ndarray:
    """For each of `new` equal cells over `old` pixels, the pixel that holds its centre."""
    return np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(np.int64), old - 1)


def render(
    image: np.ndarray,
    drawn: Draw,
    cutout_labels: Literal["ignore", "keep"] = "ignore",
    size: tuple[int, int] | None = None,
) -> View:
    """Make the view of an image uint8 (H, W, 3) that `drawn` describes.

    Where a `size` is given, `drawn` is of the image at that size, while colours and ids are still those of the image:
    what is drawn larger is as sharp as the image is.
    """
    own = (image.shape[0], image.shape[1])
    rows, columns = _source_coordinates(drawn, size or own)
    ratio = (1.0, 1.0)
    if size is not None:
        ratio = (size[0] / own[0], size[1] / own[1])
        rows, columns = (rows + 0.5) / ratio[0] - 0.5, (columns + 0.5) / ratio[1] - 0.5
    pixels = _nearest_ids(rows, columns, own)
    shrink = (min(1.0, drawn.scale * ratio[0]), min(1.0, drawn.scale * ratio[1]))
    colours = _photometric(_sample_colours(image, rows, columns, shrink), drawn)
    colours = F.normalize(colours, list(IMAGENET_MEAN), list(IMAGENET_STD))
    if drawn.cutout:
        tall, wide = (min(drawn.cutout, side) for side in drawn.crop)
        top = round(drawn.cutout_at[0] * (drawn.crop[0] - tall))
        left = round(drawn.cutout_at[1] * (drawn.crop[1] - wide))
        colours = F.erase(colours, top, left, tall, wide, torch.zeros(3, 1, 1))
        if cutout_labels == "ignore":
            pixels[top : top + tall, left : left + wide] = OUTSIDE
    return View(colours, pixels, drawn.scale)


def image_views(image: np.ndarray, slot: Slot, config: PretrainConfig) -> list[View]:
    """Both views of an image uint8 (H, W, 3) that has its final size, in an epoch."""
    names = ("view", slot.epoch, slot.image_id)
    first, second = (draw(config.views, slot.crop, generator(config.seed, *names, view)) for view in range(2))
    if config.least_overlap is not None:
        second = overlapping(first, second, (image.shape[0], image.shape[1]), config.least_overlap)
    return [render(image, drawn, config.views.cutout_labels) for drawn in (first, second)]


def overlapping(first: Draw, second: Draw, image_size: tuple[int, int], share: float) -> Draw:
    """Move the second view's window so that at least `share` of the smaller of both windows lies in the other.

    Along each axis the centre is drawn uniformly from the places that leave the root of `share`. Windows are taken as
    they are before they are rotated about their centres.
    """
    centre = []
    for axis, extent in enumerate(image_size):
        halves = [drawn.crop[axis] / drawn.scale / 2 for drawn in (first, second)]
        (low, high), (least, most) = (_centres(extent, half) for half in halves)
        there = low + (high - low) * first.centre[axis]
        reach = sum(halves) - math.sqrt(share) * 2 * min(halves)
        low, high = max(least, there - reach), min(most, there + reach)
        at = low + (high - low) * second.centre[axis]
        centre.append((at - least) / (most - least) if most > least else 0.0)
    return replace(second, centre=(centre[0], centre[1]))


def _centres(extent: int, half: float) -> tuple[float, float]:
    """Least and largest place, from the image's edge, of the centre of a window of twice `half` along an axis."""
    return min(half, extent - half), max(half, extent - half)


def _source_coordinates(drawn: Draw, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column of the image, float64 (h, w), that each pixel of the crop looks at; pixel centres are integers.

    The crop window lies inside the scaled image where it fits and holds all of it where it does not; it is rotated
    counter-clockwise about its own centre, as `rotate` of torchvision does.
    """
    centre = []
    for extent, crop, at in zip(image_size, drawn.crop, drawn.centre, strict=True):
        low, high = _centres(extent, crop / drawn.scale / 2)
        centre.append(low + (high - low) * at - 0.5)
    down, right = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2 for side in drawn.crop)
    if drawn.flip:
        right = -right
    cos, sin = math.cos(math.radians(drawn.angle)), math.sin(math.radians(drawn.angle))
    rows = centre[0] + (cos * down[:, None] + sin * right) / drawn.scale
    columns = centre[1] + (cos * right - sin * down[:, None]) / drawn.scale
    return rows, columns


def _nearest_ids(rows: Tensor, columns: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Ids of the pixels nearest to the coordinates, int64 (h, w), -1 outside the image; integers all the way."""
    height, width = image_size
    y, x = (rows + 0.5).floor().to(torch.int64), (columns + 0.5).floor().to(torch.int64)
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return torch.where(inside, y * width + x, OUTSIDE)


def _sample_colours(image: np.ndarray, rows: Tensor, columns: Tensor, shrink: tuple[float, float]) -> Tensor:
    """Colours at the coordinates, float32 (3, h, w) in [0, 1]: bilinear, the mean colour outside the image.

    Only the window that the crop sees is touched: a Cityscapes image at scale 2.5 has 13 million pixels, a crop of 361
    sees 0.26. A window that is shown smaller is first shrunk with anti-aliasing.
    """
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    bounds = []
    for coordinates, extent in zip((rows, columns), image.shape[:2], strict=True):
        low = min(max(0, math.floor(coordinates.min().item()) - 1), extent - 1)
        bounds.append((low, max(low + 1, min(extent, math.ceil(coordinates.max().item()) + 2))))
    (top, bottom), (left, right) = bounds
    planes = torch.from_numpy(np.array(image[top:bottom, left:right])).permute(2, 0, 1)
    if min(shrink) < 1:
        size = [max(1, round(side * share)) for side, share in zip(planes.shape[1:], shrink, strict=True)]
        planes = F.resize(planes, size, antialias=True)
    # Zero stands for the mean colour, because it is what grid_sample gives outside.
    window = F.to_dtype(planes, torch.float32, scale=True) - mean
    grid = torch.stack(
        [(columns - left + 0.5) * (2 / (right - left)) - 1, (rows - top + 0.5) * (2 / (bottom - top)) - 1],
        dim=-1,
    ).to(torch.float32)
    sampled = grid_sample(window[None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled[0].add_(mean)


def _photometric(colours: Tensor, drawn: Draw) -> Tensor:
    """Colour jitter in the drawn order, then grey, then blur; float32 (3, h, w) in [0, 1]."""
    for name, strength in drawn.photometric:
        match name:
            case "brightness":
                colours = F.adjust_brightness(colours, strength)
            case "contrast":
                colours = F.adjust_contrast(colours, strength)
            case "saturation":
                colours = F.adjust_saturation(colours, strength)
            case "hue":
                colours = F.adjust_hue(colours, strength)
    if drawn.grey:
        colours = F.rgb_to_grayscale(colours, num_output_channels=3)
    if drawn.blur_sigma:
        colours = F.gaussian_blur(colours, [5, 5], [drawn.blur_sigma, drawn.blur_sigma])
    return colours


def to_picture(view: View) -> np.ndarray:
    """The view as uint8 (h, w, 3), for looking at."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    colours = view.image.permute(1, 2, 0) * std + mean
    return (colours.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def sheet(views: list[View], labels: list[Tensor], palette: np.ndarray) -> np.ndarray:
    """Views in the upper row, what they are labelled below, for looking at: uint8 (2 h, V w, 3).

    `labels` are int64 (h, w) as `View.look_up` gives them, coloured by `palette` uint8 (P, 3), used cyclically; ignored
    pixels are black. All views have one size.
    """
    maps = [label_map.numpy() for label_map in labels]
    coloured = [np.where((shown >= 0)[..., None], palette[shown % len(palette)], 0).astype(np.uint8) for shown in maps]
    return np.concatenate([np.concatenate([to_picture(view) for view in views], 1), np.concatenate(coloured, 1)], 0)
