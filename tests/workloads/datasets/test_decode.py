import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from workloads.datasets.decode import decode_image, decode_labels, decode_picture, label_doubts, picture_size
from workloads.errors import BrokenImageError, InputError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of(bit_depth: int, colour_type: int, width: int, height: int, rows: bytes) -> bytes:
    """A PNG written by hand, for kinds that Pillow cannot write."""

    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@settings(max_examples=30)
@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))))
def test_lossless_rgb_comes_back_bit_for_bit_down_to_one_pixel(pixels: np.ndarray) -> None:
    picture = decode_picture(encoded(Image.fromarray(pixels)), "a")
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.pixels.dtype == np.uint8 and picture.pixels.flags.writeable
    assert picture.notes == ()


def test_greyscale_is_replicated_and_noted() -> None:
    grey = np.array([[0, 9], [200, 255]], dtype=np.uint8)
    picture = decode_picture(encoded(Image.fromarray(grey)), "a")
    np.testing.assert_array_equal(picture.pixels, np.stack([grey] * 3, axis=-1))
    assert picture.notes == ("greyscale",)


def test_alpha_is_dropped_not_composited() -> None:
    rgba = np.array([[[10, 20, 30, 0], [40, 50, 60, 128]]], dtype=np.uint8)
    picture = decode_picture(encoded(Image.fromarray(rgba)), "a")
    np.testing.assert_array_equal(picture.pixels, rgba[..., :3])
    assert picture.notes == ("alpha",)


def test_palette_with_transparency_gives_the_palettes_colours() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    image.putpalette([255, 0, 0, 0, 255, 0, 7, 8, 9])
    picture = decode_picture(encoded(image, transparency=bytes([0, 100, 255])), "a")
    np.testing.assert_array_equal(picture.pixels, [[[255, 0, 0], [0, 255, 0], [7, 8, 9]]])
    assert picture.notes == ("palette", "transparency")


def test_sixteen_bits_are_noted() -> None:
    samples = np.array([[0, 255, 256], [32768, 65279, 65535]], dtype=np.uint16)
    assert decode_picture(encoded(Image.fromarray(samples)), "a", "full").notes == ("greyscale", "16-bit")


def test_cmyk_jpeg_is_converted() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    picture = decode_picture(encoded(image, "JPEG", quality=95), "a")
    assert picture.notes == ("CMYK",)
    red, green, blue = picture.pixels.mean(axis=(0, 1))
    assert red > 240 and green < 15 and blue < 15


def test_exif_orientation_is_ignored_and_noted() -> None:
    image = Image.fromarray(np.zeros((8, 16, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    picture = decode_picture(encoded(image, "JPEG", exif=exif), "a")
    assert picture.pixels.shape == (8, 16, 3)
    assert picture.notes == ("EXIF orientation ignored",)


def a_jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise), "JPEG", quality=90)


def a_png() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"this is a text file, saved as picture.png\n" * 10, "is not an image"),
        (b"<!DOCTYPE html><html>404</html>", "is not an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "Git LFS pointer"),
        (a_jpeg()[: len(a_jpeg()) // 2], "cannot be decoded"),
        (a_jpeg()[:30], ""),
        (a_png()[: len(a_png()) // 2], "cannot be decoded"),
        (a_png()[:20], ""),
        (png_of(8, 2, 60_000, 60_000, b"\0" * 100), "pixels"),
        (png_of(8, 2, 9_000, 9_000, b"\0" * 100), "9000 x 9000 pixels"),
    ],
    ids=[
        "empty",
        "text",
        "web page",
        "lfs",
        "jpeg half",
        "jpeg head",
        "png half",
        "png head",
        "bomb",
        "large",
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_unusable_bytes_are_a_broken_image_with_a_plain_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BrokenImageError) as caught:
        decode_image(data, "aachen/7")
    assert caught.value.image_id == "aachen/7"
    assert reason in caught.value.reason
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


@settings(max_examples=60)
@given(st.data())
def test_damaged_files_never_raise_anything_but_broken_image(data: st.DataObject) -> None:
    original = data.draw(st.sampled_from([a_jpeg(), a_png()]))
    damaged = bytearray(original[: data.draw(st.integers(0, len(original)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = decode_image(bytes(damaged), "a")
    except BrokenImageError:
        return
    assert pixels.ndim == 3 and pixels.shape[2] == 3


def test_thirty_two_bit_samples_are_refused_rather_than_clipped() -> None:
    image = Image.fromarray(np.full((2, 2), 1e5, dtype=np.float32))
    with pytest.raises(BrokenImageError, match="more than 8 bits"):
        decode_image(encoded(image, "TIFF"), "a")


def test_label_files_give_stored_values_whatever_their_kind() -> None:
    values = np.array([[0, 3], [11, 255]], dtype=np.uint8)
    indexed = Image.fromarray(values)
    indexed.putpalette([40] * 768)
    for image in (Image.fromarray(values), indexed, Image.fromarray(values.astype(np.uint16))):
        decoded = decode_labels(encoded(image), "x.png")
        assert decoded.dtype == np.uint16
        np.testing.assert_array_equal(decoded, values)


def test_colours_in_a_label_file_are_refused() -> None:
    with pytest.raises(InputError, match=r"gt/x\.png: holds RGB samples"):
        decode_labels(encoded(Image.new("RGB", (2, 2))), "gt/x.png")


def test_size_comes_from_the_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(a_jpeg()[:700])
    assert picture_size(path) == (64, 64)
    assert picture_size(tmp_path / "missing.jpg") is None


def stored_in(kind: str, values: np.ndarray) -> bytes:
    """Label values below 4 as different formats keep them in fewer than 8 bits, or in 8 with another largest value."""
    height, width = values.shape
    bits = int(kind[-1])
    if kind.startswith(("png", "tiff")):
        padded = np.pad(values, ((0, 0), (0, -width % (8 // bits)))).reshape(height, -1, 8 // bits)
        rows = [
            bytes(sum(int(v) << (8 - bits * (k + 1)) for k, v in enumerate(group)) for group in row) for row in padded
        ]
    if kind.startswith("png"):
        return png_of(bits, 0, width, height, b"".join(b"\0" + row for row in rows))
    if kind.startswith("tiff"):
        data, photometric = b"".join(rows), 0 if "white" in kind else 1
        tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 278: height, 279: len(data)}
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        return (
            struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0" * 4
        )
    if kind.startswith("pbm"):
        return b"P1\n%d %d\n" % (width, height) + b" ".join(b"%d" % v for v in values.ravel())
    return b"P5\n# of a camera\n%d %d\n%d\n" % (width, height, int(kind[3:])) + values.astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    "kind",
    [
        "png1",
        "png2",
        "png4",
        "tiff1",
        "tiff2",
        "tiff4",
        "tiff white 1",
        "tiff white 4",
        "tiff white 8",
        "pbm1",
        "pgm3",
        "pgm11",
    ],
)
def test_label_values_are_those_stored_whatever_the_bit_depth(kind: str) -> None:
    values = np.arange(30).reshape(5, 6) % (2 if kind[-1] == "1" and kind != "pgm11" else 4)
    np.testing.assert_array_equal(decode_labels(stored_in(kind, values), "x"), values)


def test_what_makes_label_files_look_wrong_is_said() -> None:
    values = np.array([[0, 85], [170, 0]], dtype=np.uint8)
    assert label_doubts(encoded(Image.fromarray(values)), values) == (
        "hold multiples of 85 only: values that were spread out to be seen",
    )
    (lossy,) = label_doubts(encoded(Image.fromarray(values), "JPEG"), np.array([[1, 2]]))
    assert lossy.startswith("are JPEG, a lossy format")
    assert label_doubts(encoded(Image.fromarray(values)), np.array([[0, 20]])) == ()
