import dataclasses

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode

from workloads.configs.training import PretrainConfig
from workloads.configs.views import ViewsConfig
from workloads.errors import InputError
from workloads.imagenet import IMAGENET_MEAN, IMAGENET_STD
from workloads.seeding import generator
from workloads.training.batches import Slot
from workloads.training.views import (
    Draw,
    check_crop,
    crop_of_batch,
    draw,
    image_views,
    overlapping,
    render,
    resize_image,
    resize_labels,
    sheet,
    to_picture,
)

torch.set_num_threads(1)
PLAIN = Draw(
    crop=(40, 60),
    scale=1.0,
    angle=0.0,
    centre=(0.5, 0.5),
    flip=False,
    photometric=(),
    grey=False,
    blur_sigma=0.0,
    cutout=0,
    cutout_at=(0.0, 0.0),
)


def picture(height=40, width=60):
    """An image whose red and green are its coordinates, so that a colour says where it came from."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([4 * y, 4 * x, 0 * y + 77], axis=-1).astype(np.uint8)


def colours(view):
    return view.image * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)


def test_defaults_are_table_8():
    config = ViewsConfig()
    assert config.jitter == (0.4, 0.4, 0.4, 0.1)
    assert (config.grayscale, config.flip) == (0.2, 0.5)
    assert (config.cutout, config.scale, config.rotation, config.crop) == (
        (0, 40),
        (0.4, 2.5),
        (-60.0, 60.0),
        (321, 361),
    )


def test_view_without_changes_is_the_image():
    view = render(picture(), PLAIN)
    assert np.array_equal(to_picture(view), picture())
    assert torch.equal(view.pixels, torch.arange(40 * 60).view(40, 60))


def test_flip_mirrors_colours_and_pixels():
    view = render(picture(), dataclasses.replace(PLAIN, flip=True))
    assert np.array_equal(to_picture(view), picture()[:, ::-1])
    assert torch.equal(view.pixels, torch.arange(40 * 60).view(40, 60).flip(1))


@pytest.mark.parametrize("angle", [-60.0, -17.0, 33.0, 60.0])
def test_rotation_agrees_with_torchvision(angle):
    size = (41, 61)
    view = render(picture(*size), dataclasses.replace(PLAIN, crop=size, angle=angle))
    ids = torch.arange(size[0] * size[1], dtype=torch.int32).view(1, *size)
    turned = F.rotate(tv_tensors.Mask(ids), angle, fill=-1)[0]
    assert (view.pixels == turned).float().mean() > 0.99, "coordinates may differ in ties only"
    image = torch.from_numpy(picture(*size)).permute(2, 0, 1).float() / 255
    fill = list(IMAGENET_MEAN)
    expected = F.rotate(image, angle, InterpolationMode.BILINEAR, fill=fill)
    # At the border torchvision weighs the colour by its coverage twice; compare where the coverage is whole.
    coverage = F.rotate(torch.ones(1, *size), angle, InterpolationMode.BILINEAR)[0]
    for whole in (coverage > 0.999, coverage == 0):
        assert whole.any()
        torch.testing.assert_close(colours(view)[:, whole], expected[:, whole], atol=0.01, rtol=0)


def test_scaling_agrees_with_anti_aliased_resize():
    generator_ = np.random.default_rng(0)
    image = generator_.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    view = render(image, dataclasses.replace(PLAIN, crop=(20, 30), scale=0.5))
    expected = resize_image(image, (20, 30))
    assert np.abs(to_picture(view).astype(int) - expected).max() <= 1
    smooth = picture()
    view = render(smooth, dataclasses.replace(PLAIN, crop=(80, 120), scale=2.0))
    inner = np.abs(to_picture(view).astype(int) - resize_image(smooth, (80, 120)))[2:-2, 2:-2]
    assert inner.max() <= 1


@settings(max_examples=60)
@given(
    scale=st.floats(0.4, 2.5),
    angle=st.floats(-60, 60),
    centre=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    flip=st.booleans(),
)
def test_ids_say_where_every_colour_came_from(scale, angle, centre, flip):
    view = render(picture(), dataclasses.replace(PLAIN, scale=scale, angle=angle, centre=centre, flip=flip))
    seen = view.pixels >= 0
    y, x = view.pixels[seen] // 60, view.pixels[seen] % 60
    found = colours(view)[:, seen] * 255 / 4
    # Away from the border, where the fill is mixed in, the colour is the pixel's, within the width of its
    # filter.
    inner = (y > 3) & (y < 36) & (x > 3) & (x < 56)
    reach = 1.0 / min(1.0, scale) + 0.6
    assert inner.any()
    assert (found[0] - y)[inner].abs().max() <= reach
    assert (found[1] - x)[inner].abs().max() <= reach


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31))
def test_labels_follow_the_ids_and_padding_is_ignored_never_class_0(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 300, (40, 60)).astype(np.uint16)
    labels[:5] = 65535
    config = ViewsConfig(crop_mode="fixed", crop=(48, 48))
    view = render(picture(), draw(config, (48, 48), rng))
    seen = view.look_up(labels, ignore=65535)
    assert set(seen[view.pixels < 0].tolist()) <= {-1}
    inside = view.pixels[view.pixels >= 0].numpy()
    expected = labels.reshape(-1)[inside].astype(int)
    expected[expected == 65535] = -1
    assert np.array_equal(seen[view.pixels >= 0].numpy(), expected)
    assert 0 not in seen, "no pixel is of class 0, and neither is padding"


def test_small_image_is_padded_and_the_whole_of_it_seen():
    view = render(picture(20, 20), dataclasses.replace(PLAIN, crop=(40, 60), centre=(0.1, 0.9)))
    assert set(view.pixels.unique().tolist()) == {-1, *range(400)}
    assert (view.pixels >= 0).sum() == 400
    torch.testing.assert_close(colours(view)[:, 39, 0], torch.tensor(IMAGENET_MEAN), atol=1e-5, rtol=0)


def test_ids_are_exact_beyond_what_float32_holds():
    wide = np.zeros((2, 2**23 + 3, 3), np.uint8)
    view = render(wide, dataclasses.replace(PLAIN, crop=(2, 4), centre=(0.5, 1.0)))
    last = 2 * (2**23 + 3) - 1
    assert view.pixels[1].tolist() == [last - 3, last - 2, last - 1, last]


@pytest.mark.parametrize(("rule", "expected"), [("ignore", 0), ("keep", 100)])
def test_cutout_erases_a_square(rule, expected):
    drawn = dataclasses.replace(PLAIN, cutout=10, cutout_at=(0.5, 0.5))
    view = render(picture(), drawn, rule)
    square = view.image[:, 15:25, 25:35]
    assert torch.equal(square, torch.zeros_like(square))
    assert (view.pixels[15:25, 25:35] >= 0).sum() == expected
    assert (view.pixels >= 0).sum() == 2400 - 100 + expected


def test_photometric_changes_leave_the_ids():
    drawn = dataclasses.replace(
        PLAIN,
        photometric=(("brightness", 1.3), ("hue", 0.1), ("contrast", 0.7), ("saturation", 1.2)),
        blur_sigma=1.0,
    )
    view = render(picture(), drawn)
    assert torch.equal(view.pixels, render(picture(), PLAIN).pixels)
    assert not torch.allclose(view.image, render(picture(), PLAIN).image, atol=0.1)
    grey = colours(render(picture(), dataclasses.replace(PLAIN, grey=True)))
    torch.testing.assert_close(grey[0], grey[1])


def test_a_view_depends_on_its_names_alone():
    config = ViewsConfig(crop_mode="fixed", crop=(40, 40))

    def view(epoch, number):
        return render(picture(), draw(config, (40, 40), generator(3, "view", epoch, "a.png", number)))

    first = view(0, 0)
    torch.manual_seed(99)
    np.random.seed(99)
    view(1, 1)
    again = view(0, 0)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.image, view(1, 0).image)
    assert not torch.equal(first.image, view(0, 1).image)


def test_draws_fill_the_ranges_of_table_8():
    rng = np.random.default_rng(1)
    drawn = [draw(ViewsConfig(), (321, 321), rng) for _ in range(4000)]
    for values, low, high in (
        ([d.scale for d in drawn], 0.4, 2.5),
        ([d.angle for d in drawn], -60, 60),
        ([d.cutout for d in drawn], 0, 40),
    ):
        assert low <= min(values) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < max(values) <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    assert np.mean([d.grey for d in drawn]) == pytest.approx(0.2, abs=0.03)
    assert np.mean([d.flip for d in drawn]) == pytest.approx(0.5, abs=0.04)
    for name, strength in (("brightness", 0.4), ("contrast", 0.4), ("saturation", 0.4)):
        factors = [dict(d.photometric)[name] for d in drawn]
        assert 1 - strength <= min(factors) < max(factors) <= 1 + strength
    assert max(abs(dict(d.photometric)["hue"]) for d in drawn) <= 0.1
    assert len({tuple(name for name, _ in d.photometric) for d in drawn}) == 24, "any order of the four"


def test_crop_is_one_square_per_batch_in_steps_or_fixed():
    sides = {crop_of_batch(ViewsConfig(), np.random.default_rng(seed)) for seed in range(200)}
    assert sides == {(side, side) for side in (321, 329, 337, 345, 353, 361)}
    fixed = ViewsConfig(crop_mode="fixed", crop=(321, 361))
    assert crop_of_batch(fixed, np.random.default_rng(0)) == (321, 361)


def test_crop_larger_than_the_image_is_refused():
    check_crop(ViewsConfig(), (480, 640))
    with pytest.raises(InputError, match=r"321x321 is larger than the image \(100x200\)"):
        check_crop(ViewsConfig(), (100, 200))
    check_crop(ViewsConfig(image_size=(200, 400)), (100, 200))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale", (2.0, 1.0)),
        ("rotation", (9, -9)),
        ("cutout", (-3, 5)),
        ("crop", (361, 321)),
        ("jitter", (0, 0, 0, 0.7)),
    ],
)
def test_impossible_ranges_are_refused(field, value):
    with pytest.raises(ValueError, match=r"crop|scale|rotation|cutout|jitter"):
        ViewsConfig(**{field: value})


def test_resizing_takes_the_label_at_each_centre():
    labels = np.arange(16, dtype=np.uint16).reshape(4, 4)
    assert np.array_equal(resize_labels(labels, (2, 2)), [[5, 7], [13, 15]])
    assert np.array_equal(resize_labels(labels, (8, 8)), labels.repeat(2, 0).repeat(2, 1))
    assert resize_labels(labels, None) is labels
    image = picture()
    assert resize_image(image, None) is image
    assert resize_image(image, (20, 30)).shape == (20, 30, 3)


def test_sheet_shows_views_above_their_labels():
    views = [render(picture(), PLAIN), render(picture(20, 20), PLAIN)]
    palette = np.array([[250, 0, 0], [0, 250, 0]], np.uint8)
    maps = [np.ones((40, 60), np.uint16), np.full((20, 20), 2, np.uint16)]
    shown = sheet(views, [view.look_up(m, 65535) for view, m in zip(views, maps, strict=True)], palette)
    assert shown.shape == (80, 120, 3)
    assert np.array_equal(shown[:40, :60], picture())
    assert (shown[40:, :60] == palette[1]).all()
    assert (shown[60, 90] == palette[0]).all(), "label 2 takes the first colour again"
    assert (shown[41, 61] == 0).all(), "outside the small image"


def window(drawn, image_size):
    """(first, last) along each axis, in pixels from the image's edge."""
    spans = []
    for extent, crop, at in zip(image_size, drawn.crop, drawn.centre, strict=True):
        half = crop / drawn.scale / 2
        low, high = min(half, extent - half), max(half, extent - half)
        spans.append((low + (high - low) * at - half, low + (high - low) * at + half))
    return spans


def share_of_the_smaller(first, second, image_size):
    common, areas = 1.0, [1.0, 1.0]
    for one, other in zip(window(first, image_size), window(second, image_size), strict=True):
        common *= max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
        areas = [areas[0] * (one[1] - one[0]), areas[1] * (other[1] - other[0])]
    return common / min(areas)


@pytest.mark.parametrize("image_size", [(1024, 2048), (480, 640), (150, 700)])
def test_windows_overlap_by_the_least_share_and_lie_where_they_may(image_size):
    config = ViewsConfig()
    shares, apart = [], 0
    for seed in range(300):
        first, second = (draw(config, (345, 345), generator(seed, view)) for view in range(2))
        moved = overlapping(first, second, image_size, 0.5)
        assert all(-1e-9 <= at <= 1 + 1e-9 for at in moved.centre)
        assert dataclasses.replace(moved, centre=second.centre) == second
        shares.append(share_of_the_smaller(first, moved, image_size))
        apart += share_of_the_smaller(first, second, image_size) == 0
    assert min(shares) >= 0.5 - 1e-6
    assert max(shares) > 0.99
    if image_size == (1024, 2048):
        assert apart > 0.5 * 300, "windows drawn by themselves mostly have nothing in common"


@pytest.mark.parametrize(
    ("changes", "overlap"),
    [
        ({"objective": "moco"}, 0.5),
        ({"objective": "pixpro", "view_overlap": 0.8}, 0.8),
        ({"contrast": {"positives": "pixel"}}, 0.5),
        ({"contrast": {"positives": "superpixel"}}, None),
        ({}, None),
    ],
)
def test_only_views_that_give_the_positives_overlap(changes, overlap):
    views = ViewsConfig(crop_mode="fixed", crop=(33, 33), scale=(1, 1), rotation=(0, 0), cutout=(0, 0))
    config = PretrainConfig.model_validate({"steps": 1, "views": views, **changes})
    assert config.least_overlap == overlap
    image = np.zeros((200, 300, 3), np.uint8)
    common = []
    for number in range(40):
        first, second = image_views(image, Slot(f"i{number}", 0, (33, 33)), config)
        common.append(np.isin(first.pixels, second.pixels).mean())
    assert min(common) >= (overlap - 0.05 if overlap else 0)
    assert overlap or np.mean(np.array(common) == 0) > 0.5


def test_a_view_of_a_shrunken_size_is_made_of_the_image_itself():
    """Enlarged twice at half its size, an image is what it was; at half size the view is that of the shrunken image."""
    image = np.random.default_rng(3).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    whole = ViewsConfig(crop_mode="fixed", crop=(64, 96), scale=(2, 2), rotation=(0, 0), flip=0, jitter=(0, 0, 0, 0))
    plain = whole.model_copy(update={"grayscale": 0.0, "cutout": (0, 0)})
    sharp = render(image, draw(plain, (64, 96), np.random.default_rng(0)), size=(32, 48))
    assert torch.equal(sharp.pixels, torch.arange(64 * 96).reshape(64, 96))
    assert np.abs(to_picture(sharp).astype(int) - image).max() <= 1
    half = plain.model_copy(update={"scale": (1.0, 1.0), "crop": (32, 48)})
    drawn = draw(half, (32, 48), np.random.default_rng(0))
    small = render(image, drawn, size=(32, 48))
    shrunken = render(resize_image(image, (32, 48)), drawn)
    torch.testing.assert_close(small.image, shrunken.image, atol=0.05, rtol=0)
    assert torch.equal(small.pixels // 96 // 2 * 48 + small.pixels % 96 // 2, shrunken.pixels)
