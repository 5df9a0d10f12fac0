"""Pictures of more than 8 bits: whatever file holds them, the named way decides what is seen of them."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from pydantic import TypeAdapter

from workloads.datasets import DatasetConfig, open_dataset
from workloads.datasets.decode import decode_picture
from workloads.datasets.depth import SixteenBit
from workloads.errors import BrokenImageError

SAMPLES = np.array([[0, 255, 256], [4095, 32768, 65535]], dtype=np.uint16)
COLOURS = np.stack([SAMPLES, SAMPLES[::-1], SAMPLES[:, ::-1]], axis=-1)
FULL = np.array([[0, 1, 1], [16, 128, 255]], dtype=np.uint8)


def png(samples: np.ndarray) -> bytes:
    """A PNG of 16 bits written by hand: Pillow writes none in colour."""

    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    kind = 0 if samples.ndim == 2 else {2: 4, 3: 2, 4: 6}[samples.shape[2]]
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff(samples: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


def pgm(samples: np.ndarray) -> bytes:
    return f"P5 {samples.shape[1]} {samples.shape[0]} 65535\n".encode() + samples.astype(">u2").tobytes()


GREY = {"PNG": png, "TIFF": tiff, "PGM": pgm}
COLOUR = {
    "PNG": png,
    "PNG with alpha": lambda samples: png(np.concatenate([samples, samples[..., :1]], axis=-1)),
    "TIFF": lambda samples: tiff(samples, photometric="rgb"),
    "TIFF of planes": lambda samples: tiff(np.moveaxis(samples, -1, 0), photometric="rgb", planarconfig="separate"),
}


@pytest.mark.parametrize("kind", GREY)
def test_full_scales_all_sixteen_bits(kind: str) -> None:
    picture = decode_picture(GREY[kind](SAMPLES), "a", "full")
    np.testing.assert_array_equal(picture.pixels, np.stack([FULL] * 3, axis=-1))


@pytest.mark.parametrize("kind", COLOUR)
def test_colours_are_not_their_high_bytes(kind: str) -> None:
    """12 bits of 16, as a camera has: the high byte would hold 16 shades."""
    twelve = COLOURS // 16
    picture = decode_picture(COLOUR[kind](twelve), "a", (0, 4095))
    np.testing.assert_array_equal(picture.pixels, np.rint(twelve / 4095 * 255).astype(np.uint8))


def test_percentile_is_that_of_the_picture_over_all_its_channels() -> None:
    random = np.random.default_rng(0)
    samples = random.integers(1000, 3000, (40, 50, 3)).astype(np.uint16)
    samples[0, 0] = 65535
    low, high = np.sort(samples, axis=None)[[int(0.01 * samples.size) - 1, int(0.99 * samples.size) - 1]]
    expected = np.rint(np.clip((samples.astype(float) - low) / (high - low), 0, 1) * 255)
    picture = decode_picture(png(samples), "a", "percentile")
    assert np.abs(picture.pixels - expected).max() <= 1
    assert picture.pixels[0, 0].tolist() == [255, 255, 255]
    assert (picture.pixels.min(), picture.pixels[1:].mean().round()) == (0, expected[1:].mean().round())
    constant = decode_picture(png(np.full((3, 4), 700, np.uint16)), "a", "percentile")
    assert not constant.pixels.any()


def test_floats_have_a_percentile_and_a_range_but_no_whole() -> None:
    data = tiff(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert decode_picture(data, "a", (0, 1)).pixels[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(BrokenImageError, match="a: has samples without a largest value; give sixteen_bit"):
        decode_picture(data, "a", "full")
    with pytest.raises(BrokenImageError, match="not finite"):
        decode_picture(tiff(np.array([[0.0, np.nan]], np.float32)), "a", "percentile")


@pytest.mark.parametrize("data", [png(SAMPLES), png(COLOURS), tiff(COLOURS, photometric="rgb"), pgm(SAMPLES)])
def test_without_a_name_for_it_nothing_is_scaled(data: bytes) -> None:
    with pytest.raises(
        BrokenImageError, match=r"more than 8 bits; give the data set's sixteen_bit: full, percentile or"
    ):
        decode_picture(data, "a")


def test_eight_bits_that_were_widened_to_sixteen_need_no_name_for_it() -> None:
    eight = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    widened = eight.astype(np.uint16) * 257
    for way in (None, "full"):
        np.testing.assert_array_equal(decode_picture(png(widened), "a", way).pixels, eight)


def test_pictures_of_eight_bits_are_left_alone() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    np.testing.assert_array_equal(decode_picture(buffer.getvalue(), "a", "percentile").pixels, pixels)


@pytest.mark.parametrize("data", [png(COLOURS)[:70], tiff(COLOURS, photometric="rgb")[:150]])
def test_a_damaged_file_is_a_broken_image(data: bytes) -> None:
    with pytest.raises(BrokenImageError):
        decode_picture(data, "a", "full")


def test_the_way_is_part_of_what_a_data_set_is_and_a_wrong_one_is_refused(tmp_path: Any) -> None:
    (tmp_path / "0.png").write_bytes(png(COLOURS))
    adapter: TypeAdapter[Any] = TypeAdapter(DatasetConfig)
    ways: list[SixteenBit] = [None, "full", "percentile", (0, 4095), (0, 4096)]
    found = [open_dataset(adapter.validate_python({"name": "folder", "sixteen_bit": way}), tmp_path) for way in ways]
    assert len({str(dataset.identity()) for dataset in found}) == 5
    assert found[0].identity() == {"name": "folder", "num_classes": None}
    assert found[1].read_image("train", "0.png")[0, 1].tolist() == [1, 128, 1]
    for wrong in ([5, 5], [1], "high byte"):
        with pytest.raises(ValueError, match="sixteen_bit"):
            adapter.validate_python({"name": "folder", "sixteen_bit": wrong})
