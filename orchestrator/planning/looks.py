"""What is in the files of a folder: whether they are pictures or masks, and which values masks hold."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from workloads.datasets.decode import MASK_COLOURS, decode_image, decode_labels, image_mode
from workloads.errors import BrokenImageError, InputError

SAMPLED = 20
"""Files that are looked at for what many are like."""
_ALIKE = 5
_GROUPS = 40
_LOOKED_AT = 200_000
# Pictures that were made of masks by JPEG or by smoothing hold many values, but nearly all pixels hold few.
_MAIN_VALUES = 16
_MAIN_SHARE = 0.9
_SMEARED_SHARE = 0.5
_STRONG_SHARE = 0.01
MASK_WORDS = ("mask", "label", "annot", "anno", "ann", "gt", "truth", "seg", "target")
"""What names of folders and files of masks begin with or hold."""

One = TypeVar("One")


@dataclass
class MaskValues:
    """Pixels of a sample of masks by value, or by colour as [r, g, b] in an integer.

    `files` is of how many masks; `others` is how many were left out, being in values where these are in colours or the
    other way round.
    """

    pixels: Counter[int] = field(default_factory=Counter)
    coloured: bool = False
    files: int = 0
    others: int = 0

    @property
    def blurred(self) -> list[int]:
        """The values that most pixels hold, where many others pass from one to the other; else none."""
        strong = self._strong()
        many = len(self.pixels) > MASK_COLOURS or self.main_share() >= _MAIN_SHARE
        return strong if many and 2 <= len(strong) <= len(self.pixels) // 3 else []

    def main_share(self) -> float:
        """The share of the pixels that hold one of the values which most hold."""
        return sum(count for _, count in self.pixels.most_common(_MAIN_VALUES)) / max(1, self.pixels.total())

    def _strong(self) -> list[int]:
        # Those that a smear passes through hold few pixels each.
        least = _STRONG_SHARE * self.pixels.total()
        common = self.pixels.most_common(_MAIN_VALUES) if len(self.pixels) > _MAIN_VALUES else []
        return sorted(value for value, count in common if count >= least)


def spread(files: Sequence[One], number: int = SAMPLED) -> list[One]:
    """At most so many of the files, spread evenly over all."""
    if len(files) <= number:
        return list(files)
    return [files[round(index * (len(files) - 1) / (number - 1))] for index in range(number)]


def count_values(root: Path, files: Sequence[PurePosixPath]) -> MaskValues:
    """Pixels of a sample of masks by value; of a mixture of values and colours only those of the first kind seen."""
    found = MaskValues()
    for path in spread(files):
        try:
            coloured, pixels = _values(root / path)
        except (InputError, BrokenImageError, OSError):
            continue
        if found.files and coloured != found.coloured:
            found.others += 1
            continue
        found.files += 1
        found.coloured = coloured
        found.pixels.update(pixels)
    return found


def _values(path: Path, most: int | None = None) -> tuple[bool, dict[int, int]]:
    """Whether a file is in colour, and how many of its pixels, or of `most` of them spread over it, hold what."""
    data = path.read_bytes()
    coloured = image_mode(data) in ("RGB", "RGBA")
    if coloured:
        wide = decode_image(data, str(path)).astype(np.int64)
        pixels = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    else:
        pixels = decode_labels(data, str(path)).astype(np.int64)
    if most is not None and pixels.size > most:
        step = int(np.ceil(np.sqrt(pixels.size / most)))
        pixels = pixels[::step, ::step]
    values, counts = np.unique(pixels, return_counts=True)
    return coloured, dict(zip(values.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True)
class _Seen:
    """What a file holds, as far as it tells masks from pictures."""

    values: int
    hued: bool
    main_share: float
    blurred: bool

    @property
    def is_like_a_mask(self) -> bool:
        return 1 <= self.values <= MASK_COLOURS or (self.main_share >= _MAIN_SHARE and self.blurred)


class Look:
    """What is in files, each looked at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen = lru_cache(maxsize=None)(self._read)

    def like_masks(self, files: Sequence[PurePosixPath]) -> bool:
        """Whether most of a sample hold few values or colours."""
        seen = self._sample(files)
        return 2 * sum(one is not None and one.is_like_a_mask for one in seen) > len(seen)

    def coloured(self, files: Sequence[PurePosixPath]) -> bool:
        """Whether most of a sample are in colours that are not all grey."""
        seen = self._sample(files)
        return 2 * sum(one is not None and one.hued for one in seen) > len(seen)

    def is_mask_side(
        self, masks: Sequence[PurePosixPath], images: Sequence[PurePosixPath], sides: tuple[int, int]
    ) -> bool:
        """Whether these are the masks and those the images, and not the other way round, or neither.

        `sides` is what the names of both speak of: 1 of masks, -1 of images, else 0.
        """
        if not self.like_masks(masks):
            # Masks in lossy files: names have to say so, and most pixels to hold few values.
            return sides[0] > 0 >= sides[1] and self._are_smeared(masks) and not self._are_smeared(images)
        if not self.like_masks(images):
            return True
        # Grey pictures of few values: their names tell, or that a mask has fewer.
        if sides[0] != sides[1]:
            return sides[0] > sides[1]
        counts = [sum(one.values for one in self._sample(side) if one is not None) for side in (masks, images)]
        return 2 * counts[0] < counts[1]

    def apart(self, files: Sequence[PurePosixPath]) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
        """Pictures and what looks like masks, told by files of equally called folders together."""
        number = Counter(path.name for path in files)
        groups: dict[tuple[str, str], list[PurePosixPath]] = defaultdict(list)
        for path in files:
            # Folders that are called as images are hold the masks of one each; and files may be told by their names.
            beside = next((word for word in path.parts[:-1] if word.lower().startswith(MASK_WORDS)), "")
            kind = path.name if number[path.name] > 2 else beside or path.parent.name
            groups[kind, path.suffix.lower()].append(path)
        if len(groups) > _GROUPS:
            # Folders by date or by number: what is in some is in all.
            merged: dict[tuple[str, str], list[PurePosixPath]] = defaultdict(list)
            for (_, suffix), ones in groups.items():
                merged["", suffix] += ones
            groups = merged
        alike = {key for key, ones in groups.items() if len(ones) > 1 and self.like_masks(sorted(ones))}
        pictures = [path for key, ones in groups.items() if key not in alike for path in ones]
        lone = [path for key, ones in groups.items() if key in alike for path in ones]
        return sorted(pictures), sorted(lone)

    def _sample(self, files: Sequence[PurePosixPath]) -> list[_Seen | None]:
        return [self._seen(path) for path in spread(files, _ALIKE)]

    def _are_smeared(self, files: Sequence[PurePosixPath]) -> bool:
        shares = sorted(one.main_share for one in self._sample(files) if one is not None)
        return bool(shares) and shares[len(shares) // 2] >= _SMEARED_SHARE

    def _read(self, path: PurePosixPath) -> _Seen | None:
        try:
            coloured, pixels = _values(self._root / path, most=_LOOKED_AT)
        except (InputError, BrokenImageError, OSError):
            return None
        values = MaskValues(Counter(pixels))
        hued = coloured and any(not _is_grey(colour) for colour in pixels)
        return _Seen(len(pixels), hued, values.main_share(), bool(values.blurred))


def _is_grey(colour: int) -> bool:
    return colour >> 16 == colour >> 8 & 255 == colour & 255
