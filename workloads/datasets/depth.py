"""Pictures deeper than 8 bits, and the named ways in which their samples become 8 bits.

Cameras of 10 to 14 bits leave most of the 16 unused, so that the high byte alone, which libraries keep when they are
asked for 8 bits, is nearly black. The failure this guards against: a run on pictures that lost what was in them.
"""

import io
import warnings
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import AfterValidator, Field

from workloads.datasets.base import UInt8Array
from workloads.errors import InputError

Samples = npt.NDArray[Any]

_WIDENED = 257
_PERCENTILES = (0.01, 0.99)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTH_AT = 24
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_PLANES, _WHITE_IS_ZERO, _SEPARATE = 258, 262, 284, 0, 2
_SHOWN = "give the data set's sixteen_bit: full, percentile or [LOW, HIGH]"


def _a_range(value: Any) -> Any:
    if isinstance(value, tuple) and not value[0] < value[1]:
        raise InputError(
            key="sixteen_bit", value=list(value), allowed="allowed: two numbers, the first the smaller one"
        )
    return value


SixteenBit = Annotated[
    Literal["full", "percentile"] | tuple[float, float] | None,
    AfterValidator(_a_range),
    Field(
        description="how 16-bit images become 8 bits: full (0 to 65535), percentile (each image's 1st to 99th), or a "
        "range [low, high]; null: there are none"
    ),
]


class DepthError(Exception):
    """Why a deep picture cannot be used, in plain words."""


def deep_samples(image: Image.Image, data: bytes) -> tuple[Samples, int | None] | None:
    """The samples of a picture of more than 8 bits, and their largest possible value; None for any other picture.

    Parameters
    ----------
    image
        The loaded picture.
    data
        The bytes that it was loaded from.

    Returns
    -------
    samples : (H, W) or (H, W, 3), integers or floats.
    largest : None where samples have no such value, as floats have none.
    """
    match image.format:
        case "PNG" if data.startswith(_PNG_SIGNATURE) and data[_PNG_BIT_DEPTH_AT] == 16:
            return _of_png(data), 65535
        case "TIFF":
            return _of_tiff(image, data)
        case "JPEG2000" if image.mode != "I;16" and _jpeg2000_bits(data) > 8:
            raise DepthError("is a colour JPEG 2000 of more than 8 bits, which is not read; convert it to PNG or TIFF")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return np.asarray(image).astype(np.uint16), 65535
    return None


def is_widened(samples: Samples) -> bool:
    """Whether they are 8 bits that were widened to 16: those lose nothing, whatever the way."""
    return samples.dtype == np.uint16 and not (samples % _WIDENED).any()


def to_eight_bits(samples: Samples, largest: int | None, sixteen_bit: SixteenBit) -> UInt8Array:
    """Scale samples linearly to 0 to 255, what lies outside of the range to its ends.

    Parameters
    ----------
    samples, largest
        See `deep_samples`.
    sixteen_bit
        The named way.

    Returns
    -------
    uint8 (H, W) or (H, W, 3).
    """
    match sixteen_bit:
        case None if is_widened(samples):
            return (samples // _WIDENED).astype(np.uint8)
        case None:
            raise DepthError(f"has samples of more than 8 bits; {_SHOWN}")
        case "full":
            if largest is None:
                raise DepthError("has samples without a largest value; give sixteen_bit: percentile or [LOW, HIGH]")
            low, high = 0.0, float(largest)
        case "percentile":
            if samples.dtype.kind == "f" and not np.isfinite(samples).all():
                raise DepthError("holds samples that are not finite numbers")
            low, high = (float(end) for end in np.quantile(samples, _PERCENTILES, method="inverted_cdf"))
        case (low, high):
            pass
    spread = high - low if high > low else 1.0
    if samples.dtype == np.uint16:
        scaled = (np.arange(65536) - low) * (255 / spread)
        table: UInt8Array = np.rint(scaled.clip(0, 255)).astype(np.uint8)
        return table[samples]
    scaled = (samples.astype(np.float64) - low) * (255 / spread)
    if not np.isfinite(scaled).all():
        raise DepthError("holds samples that are not finite numbers")
    eight: UInt8Array = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    return eight


def _of_png(data: bytes) -> Samples:
    # Pillow gives the high byte of colours; torchvision is imported where there is something for it to read.
    import torch
    from torchvision.io import ImageReadMode, decode_png

    try:
        with warnings.catch_warnings():
            # Torchvision's readers are to go some day; no other that is installed gives 16-bit colours.
            warnings.simplefilter("ignore", DeprecationWarning)
            decoded = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    except RuntimeError as error:
        raise DepthError(f"cannot be decoded: {str(error).splitlines()[0]}") from None
    return _colours(decoded.permute(1, 2, 0).numpy())


def _of_tiff(image: Image.Image, data: bytes) -> tuple[Samples, int | None] | None:
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits = max(tags.get(_TIFF_BITS, (1,)))
    if bits <= 8:
        return None
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        samples = np.asarray(image)
    else:
        import tifffile

        try:
            samples = tifffile.imread(io.BytesIO(data), key=0)
        except Exception as error:  # a decoder may raise nearly anything on damaged bytes
            raise DepthError(f"cannot be decoded: {error}") from None
        if samples.ndim == 3 and tags.get(_TIFF_PLANES) == _SEPARATE:
            samples = np.moveaxis(samples, 0, -1)
        samples = _colours(samples)
    whole = samples.dtype.kind in "iu" and bits <= 16
    largest = 2**bits - 1 if whole else None
    if whole:
        samples = samples.astype(np.uint16)
        if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
            samples = (largest or 0) - samples
    return samples, largest


def _colours(samples: Samples) -> Samples:
    """(H, W) of grey, (H, W, 3) of colours; alpha is dropped."""
    if samples.ndim == 2:
        return samples
    return samples[..., :3] if samples.shape[-1] >= 3 else samples[..., 0]


def _jpeg2000_bits(data: bytes) -> int:
    """Bits of a sample by the header of the file; 8 where it does not say."""
    place = data.find(b"ihdr")
    return (data[place + 14] & 0x7F) + 1 if 0 <= place < len(data) - 14 else 8
