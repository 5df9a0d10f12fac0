"""Bytes of a file to pixels, with a plain reason when that is impossible.

The model: a picture comes out as uint8 (H, W, 3) RGB, a label file as uint16 (H, W) values, or one error says
why not. The failure this guards against: one truncated download, one web page saved as .png or one hostile
file ending a run of thousands of images, or worse, being taken for an image in silence.

What is converted, and how: greyscale is replicated over the channels; alpha and transparency are dropped, not
composited; palettes are looked up; samples of fewer than 8 bits are spread over 0 to 255; deeper ones are
scaled in the way that is named (see `depth`); CMYK goes through Pillow's formula without colour profiles; of
several frames the first is taken. EXIF orientation is ignored: pixels are taken as they are stored, so that label
maps fit the file as Pillow and torchvision read it.
"""

import io
import math
import re
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from workloads.bucket_paths import AnyPath
from workloads.datasets.base import Picture, UInt8Array
from workloads.datasets.depth import DepthError, SixteenBit, deep_samples, is_widened, to_eight_bits
from workloads.errors import BrokenImageError, InputError

MAX_PIXELS = 80_000_000
"""Larger pictures are refused before they are decoded: a small file can hold gigabytes of zeros."""

MASK_COLOURS = 64
"""A picture of no more colours is likely a mask: photographs have thousands."""

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".gif", ".jp2"),
)
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF", "JPEG2000")
_LOSSY_FORMATS = ("JPEG", "MPO", "WEBP", "JPEG2000")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTH_AT = 24
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_WHITE_IS_ZERO = 258, 262, 0
_LFS_POINTER = b"version https://git-lfs"
_MODE_NOTES = {
    "1": "black and white",
    "L": "greyscale",
    "LA": "greyscale with alpha",
    "La": "greyscale with alpha",
    "P": "palette",
    "PA": "palette",
    "RGBA": "alpha",
    "RGBa": "alpha",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "I;16": "greyscale",
    "I;16B": "greyscale",
    "I;16L": "greyscale",
}


def decode_image(data: bytes, image_id: str) -> UInt8Array:
    """Decode the bytes of an image file to uint8 (H, W, 3), RGB.

    Raises:
        BrokenImageError: empty, not an image, truncated, too large, or of a kind that has no defined conversion.
    """
    return decode_picture(data, image_id).pixels


def decode_picture(data: bytes, image_id: str, sixteen_bit: SixteenBit = None) -> Picture:
    """Decode as :func:`decode_image` does, and say what was converted, e.g. ``("greyscale", "16-bit")``.

    ``sixteen_bit`` names how samples of more than 8 bits are scaled; without it such pictures are refused.

    Raises:
        BrokenImageError: as :func:`decode_image`.
    """
    try:
        image = _load(data)
        notes = _notes(image, data)
        deep = deep_samples(image, data)
        if deep is not None:
            eight = to_eight_bits(*deep, sixteen_bit)
            return Picture(np.repeat(eight[..., None], 3, axis=2) if eight.ndim == 2 else eight, notes)
        if image.mode not in _MODE_NOTES and image.mode != "RGB":
            raise _UnusableError(f"Pillow mode {image.mode} (samples wider than 16 bits?) has no defined 8-bit form")
        # Pillow would composite or warn where a palette carries transparency; alpha is dropped everywhere
        # alike.
        image.info.pop("transparency", None)
        return Picture(np.array(image.convert("RGB"), dtype=np.uint8), notes)
    except (_UnusableError, DepthError) as error:
        raise BrokenImageError(image_id, str(error)) from None


def needs_scaling(data: bytes) -> bool:
    """Whether a picture has more than 8 bits, so that it must be said how they become 8; no where it is none."""
    try:
        deep = deep_samples(_load(data), data)
    except (_UnusableError, DepthError):
        return False
    return deep is not None and not is_widened(deep[0])


def looks_like_mask(pixels: UInt8Array) -> bool:
    """Whether a picture uint8 (H, W, 3) has so few colours that it is likely a mask; 100 000 pixels are looked at."""
    flat = pixels.reshape(-1, 3)
    seen = flat[:: max(1, len(flat) // 100_000)].astype(np.int32)
    return len(np.unique(seen[:, 0] << 16 | seen[:, 1] << 8 | seen[:, 2])) <= MASK_COLOURS


def decode_labels(data: bytes, where: str) -> npt.NDArray[np.uint16]:
    """Decode the bytes of a label file to its stored values, uint16 (H, W), whatever the bit depth.

    Palette files give their indices, greyscale files what they hold and not the shade of grey that it stands for.

    Raises:
        InputError: cannot be decoded, or holds colours instead of one value a pixel; ``where`` names the
            file.
    """
    try:
        image = _load(data)
    except _UnusableError as error:
        raise InputError(f"{where}: {error}") from None
    if image.mode == "P" or image.mode.startswith("I;16"):
        return np.array(image, dtype=np.uint16)
    if image.mode in ("L", "1"):
        shown = np.array(image, dtype=np.uint8).astype(np.uint16)
        largest, turned = _sample_range(image, data)
        stored = shown if image.mode == "1" else (shown * largest + 127) // 255
        return largest - stored if turned else stored
    if image.mode == "I":
        values = np.array(image, dtype=np.int64)
        if image.format == "PPM":
            values = (values * _sample_range(image, data)[0] + 32767) // 65535
        if values.min(initial=0) >= 0 and values.max(initial=0) < 65536:
            return values.astype(np.uint16)
    raise InputError(f"{where}: holds {image.mode} samples; a label file holds one value a pixel (8 or 16 bits)")


def image_mode(data: bytes) -> str:
    """Pillow's mode of an image's samples; empty where it cannot be told, which decoding reports."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return image.mode
    except Exception:  # whatever is wrong with the image is reported by whoever decodes it
        return ""


def label_doubts(data: bytes, values: npt.NDArray[np.uint16]) -> tuple[str, ...]:
    """What makes it likely that a label file's values are not what was once annotated."""
    doubts = []
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        if image.format in _LOSSY_FORMATS:
            doubts.append(f"are {image.format}, a lossy format: values at borders may be none that was annotated")
    found = [int(value) for value in np.unique(values) if 0 < value < 255]
    step = math.gcd(*found)
    if len(found) > 1 and step >= 10:
        doubts.append(f"hold multiples of {step} only: values that were spread out to be seen")
    return tuple(doubts)


def picture_size(path: AnyPath) -> tuple[int, int] | None:
    """(height, width) from the header of an image file, without decoding it; None when it cannot be told."""
    try:
        if isinstance(path, Path) and not path.is_file():
            return None
        with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
            return image.height, image.width
    except Exception:  # whatever is wrong with the image is reported by whoever decodes it
        return None


def _sample_range(image: Image.Image, data: bytes) -> tuple[int, bool]:
    """The largest value that a sample of a greyscale file can hold, and whether Pillow shows it as black."""
    match image.format:
        case "PNG":
            return 2 ** min(data[_PNG_BIT_DEPTH_AT], 8) - 1, False
        case "TIFF":
            tags = image.tag_v2  # type: ignore[attr-defined]
            bits = tags.get(_TIFF_BITS, (1,))[0]
            return 2 ** min(bits, 8) - 1, tags.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO
        case "PPM":
            words = re.sub(rb"#[^\r\n]*", b" ", data[:4096]).split(maxsplit=4)
            # A bitmap has no largest value, and its 1 is black.
            return (1, True) if words[0] in (b"P1", b"P4") else (int(words[3]), False)
        case _:
            return (1 if image.mode == "1" else 255), False


class _UnusableError(Exception):
    """Why a picture cannot be used, in plain words."""


def _load(data: bytes) -> Image.Image:
    if not data:
        raise _UnusableError("is an empty file")
    if data.startswith(_LFS_POINTER):
        raise _UnusableError("is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        raise _UnusableError(f"is not an image ({', '.join(_FORMATS)} are read)") from None
    except Image.DecompressionBombError:
        raise _UnusableError(f"claims to be larger than {MAX_PIXELS} pixels; refused") from None
    except (OSError, ValueError, SyntaxError, struct.error) as error:
        raise _UnusableError(f"cannot be decoded: {error}") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _UnusableError(f"has {width} x {height} pixels; at most {MAX_PIXELS} are decoded")
    try:
        image.load()
    except MemoryError:
        raise
    # A decoder may raise nearly anything on damaged bytes (SyntaxError, zlib.error, IndexError ...); all mean
    # one thing.
    except Exception as error:
        reason = "truncated" if "truncated" in str(error) else f"damaged: {error}"
        raise _UnusableError(f"cannot be decoded, {reason}") from None
    return image


def _notes(image: Image.Image, data: bytes) -> tuple[str, ...]:
    notes = []
    if image.mode in _MODE_NOTES:
        notes.append(_MODE_NOTES[image.mode])
    deep_png = data.startswith(_PNG_SIGNATURE) and data[_PNG_BIT_DEPTH_AT] == 16
    if deep_png or image.mode.startswith("I;16"):
        notes.append("16-bit")
    if "transparency" in image.info:
        notes.append("transparency")
    if getattr(image, "n_frames", 1) > 1:
        notes.append("several frames, first taken")
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
    except Exception:  # damaged EXIF says nothing about the pixels
        turned = False
    if turned:
        notes.append("EXIF orientation ignored")
    return tuple(notes)
