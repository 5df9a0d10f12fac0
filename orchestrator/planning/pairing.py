"""Which files of a folder are the masks of which images: found by name, told apart by what is in them.

The model: a rule says how the path of an image becomes that of its mask, one folder's name by another's and one end of
the file's name by another's, wherever in the tree that is; so folders by date, by split or by sensor need one rule. A
sample of names proposes rules; each is then applied to all files, the one that pairs most first. Of the two sides the
mask is the one with few values or colours. The failure this guards against: masks that are taken for images without a
word, and images that are in no pool without one.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from workloads.datasets.decode import IMAGE_SUFFIXES, MASK_COLOURS, decode_image, decode_labels, image_mode
from workloads.errors import BrokenImageError, InputError

SAMPLED = 20
"""Files that are looked at for what many are like."""

_PROPOSING_NAMES = 300
_FILES_OF_A_NAME = 24
_ALIKE = 5
# Pictures that were made of masks by JPEG or by smoothing hold many values, but nearly all pixels hold few.
_MAIN_VALUES = 16
_MAIN_SHARE = 0.9
_SMEARED_SHARE = 0.5
_STRONG_SHARE = 0.01
_NUMBER = re.compile(r"[a-zA-Z]?[0-9]+[a-zA-Z]?")
_MASK_WORDS = ("mask", "label", "annot", "anno", "ann", "gt", "truth", "seg", "target")
_IMAGE_WORDS = ("image", "img", "photo", "picture", "rgb", "jpeg")
_SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_AFTER_A_SPLIT = ("annotations", "annot", "images", "image", "imgs", "img", "masks", "mask", "labels", "label", "set")

Parts = tuple[str, ...]


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


@dataclass(frozen=True)
class Rule:
    """An image in `folder`, its name ending in `end`, has its mask in `mask_folder`, ending in `mask_end`."""

    folder: Parts
    mask_folder: Parts
    end: str
    mask_end: str

    def masks_of(self, path: PurePosixPath) -> Iterator[PurePosixPath]:
        """Where the mask of an image may lie, one place for each time that the folder is in its path."""
        if not path.name.endswith(self.end) or path.name == self.end:
            return
        name = path.name[: -len(self.end)] + self.mask_end
        parts, length = path.parts[:-1], len(self.folder)
        for start in range(len(parts) - length + 1):
            if parts[start : start + length] == self.folder:
                yield PurePosixPath(*parts[:start], *self.mask_folder, *parts[start + length :], name)

    def __str__(self) -> str:
        where = "/".join(self.mask_folder)
        return f"{where}/*{self.mask_end}" if where else f"*{self.mask_end}"


@dataclass
class Paired:
    """The images that a rule gives masks for, and other masks of the same images, which are left aside."""

    rule: Rule
    masks: dict[PurePosixPath, PurePosixPath]
    rivals: list[Rule] = field(default_factory=list)


@dataclass
class Pairing:
    """Files with their masks by rule; pictures without one; files that look like masks of no image."""

    paired: list[Paired]
    pictures: list[PurePosixPath]
    lone_masks: list[PurePosixPath]


def find_pairs(root: Path, files: Sequence[PurePosixPath]) -> Pairing:
    """Look for images and their masks among the files below `root`."""
    look = _Look(root)
    known = set(files)
    proposed = _proposed(files)
    free = set(files)
    found: list[Paired] = []
    while proposed:
        left = {
            rule: [pair for pair in pairs if pair[0] in free and pair[1] in free] for rule, pairs in proposed.items()
        }
        left = {rule: pairs for rule, pairs in left.items() if pairs}
        if not left:
            break
        rule = min(left, key=lambda one: _rank(one, left[one], look))
        pairs = left[rule]
        # The rule that takes it the other way round pairs as many.
        if not look.is_mask_side([mask for _, mask in pairs], [image for image, _ in pairs], rule):
            del proposed[rule]
            continue
        proposed.pop(Rule(rule.mask_folder, rule.folder, rule.mask_end, rule.end), None)
        del proposed[rule]
        masks = _apply(rule, files, free, known)
        # After the first, a few pairs that short numbers happen to make are none.
        if len(masks) < (2 if found else 1) or 50 * len(masks) < sum(len(one.masks) for one in found):
            continue
        found.append(Paired(rule, masks, _rivals(rule, masks, proposed, free, look)))
        free -= {*masks, *masks_and_rivals(found[-1], known)}
    # In a folder of masks alone another file is one, too, though it goes with no image.
    homes = {mask.parent for one in found for mask in one.masks.values()}
    homes -= {image.parent for one in found for image in one.masks}
    pictures, lone = look.apart([path for path in files if path in free and path.parent not in homes])
    return Pairing(found, pictures, sorted(lone + [path for path in files if path in free and path.parent in homes]))


def masks_and_rivals(one: Paired, known: set[PurePosixPath]) -> Iterator[PurePosixPath]:
    """The masks of a rule, and those of the same images by other rules."""
    yield from one.masks.values()
    for rival in one.rivals:
        yield from (mask for image in one.masks for mask in rival.masks_of(image) if mask in known)


def split_of(folder: Iterable[str]) -> str | None:
    """The split that the names of a path's folders speak of: train, val, test, or none."""
    for part in reversed(tuple(folder)):
        for word in re.split(r"[^a-z]+", part.lower()):
            for split, words in _SPLITS.items():
                if word in words or any(word.removesuffix(tail) in words for tail in _AFTER_A_SPLIT):
                    return split
    return None


def spread(files: Sequence[PurePosixPath], number: int = SAMPLED) -> list[PurePosixPath]:
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


def _values(path: Path) -> tuple[bool, dict[int, int]]:
    data = path.read_bytes()
    coloured = image_mode(data) in ("RGB", "RGBA")
    if coloured:
        wide = decode_image(data, str(path)).astype(np.int64)
        pixels = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    else:
        pixels = decode_labels(data, str(path)).astype(np.int64)
    values, counts = np.unique(pixels, return_counts=True)
    return coloured, dict(zip(values.tolist(), counts.tolist(), strict=True))


def ends(name: str) -> Iterator[str]:
    """What of a name may be its end: the suffix, two suffixes (``.jpg.png``), and one or two last words.

    A number, with a letter at most (``_006690``, ``_f00030``), tells images apart and is no end that they share.
    """
    stem, _, suffix = name.rpartition(".")
    suffix = f".{suffix}"
    yield suffix
    if (inner := PurePosixPath(stem).suffix) and inner.lower() in IMAGE_SUFFIXES and stem != inner:
        yield f"{inner}{suffix}"
    end = suffix
    for _ in range(2):
        cut = max(stem.rfind("_"), stem.rfind("-"))
        if cut <= 0 or _NUMBER.fullmatch(stem[cut + 1 :]):
            return
        stem, end = stem[:cut], f"{stem[cut:]}{end}"
        yield end


def _proposed(files: Sequence[PurePosixPath]) -> dict[Rule, list[tuple[PurePosixPath, PurePosixPath]]]:
    """Rules that some pairs of a sample of names follow, with these pairs."""
    by_key: dict[str, list[tuple[PurePosixPath, str]]] = defaultdict(list)
    for path in files:
        for end in ends(path.name):
            by_key[path.name[: -len(end)]].append((path, end))
    keys = sorted(key for key, ones in by_key.items() if key and len({path for path, _ in ones}) > 1)
    step = max(1, len(keys) // _PROPOSING_NAMES)
    found: dict[Rule, list[tuple[PurePosixPath, PurePosixPath]]] = defaultdict(list)
    for key in keys[::step]:
        ones = sorted(by_key[key])[:_FILES_OF_A_NAME]
        for image, end in ones:
            for mask, mask_end in ones:
                splits = split_of(image.parts[:-1]), split_of(mask.parts[:-1])
                if image != mask and splits[0] in (None, splits[1]):
                    found[_rule(image, end, mask, mask_end)].append((image, mask))
    return dict(found)


def _rule(image: PurePosixPath, end: str, mask: PurePosixPath, mask_end: str) -> Rule:
    """What differs between both paths."""
    one, other = image.parts[:-1], mask.parts[:-1]
    shortest = min(len(one), len(other))
    front = next((i for i in range(shortest) if one[i] != other[i]), shortest)
    back = next((i for i in range(shortest - front) if one[-1 - i] != other[-1 - i]), shortest - front)
    return Rule(one[front : len(one) - back], other[front : len(other) - back], end, mask_end)


def _rank(rule: Rule, pairs: Sequence[tuple[PurePosixPath, PurePosixPath]], look: "_Look") -> tuple[object, ...]:
    """Most pairs first; of as many those of values before those of colours, and short ends before long ones."""
    return (-len(pairs), look.coloured([mask for _, mask in pairs]), len(rule.end) + len(rule.mask_end), str(rule))


def _apply(
    rule: Rule, files: Iterable[PurePosixPath], free: set[PurePosixPath], known: set[PurePosixPath]
) -> dict[PurePosixPath, PurePosixPath]:
    masks: dict[PurePosixPath, PurePosixPath] = {}
    for image in files:
        if image not in free:
            continue
        split = split_of(image.parts[:-1])
        for mask in rule.masks_of(image):
            if mask in free and mask in known and mask != image and split in (None, split_of(mask.parts[:-1])):
                masks[image] = mask
                break
    # What is the mask of one is the image of none.
    of = set(masks.values())
    return {image: mask for image, mask in masks.items() if image not in of}


def _rivals(
    rule: Rule,
    masks: dict[PurePosixPath, PurePosixPath],
    proposed: dict[Rule, list[tuple[PurePosixPath, PurePosixPath]]],
    free: set[PurePosixPath],
    look: "_Look",
) -> list[Rule]:
    """Other rules by which the same images have masks."""
    taken = set(masks.values())
    found: list[Rule] = []
    targets: set[PurePosixPath] = set()
    for other, pairs in sorted(proposed.items(), key=lambda one: (len(one[0].end) + len(one[0].mask_end), str(one[0]))):
        theirs = [(i, m) for i, m in pairs if i in masks and m in free and m not in masks and m not in taken]
        # Short numbers are names in many folders: the other mask lies where this one does, or beside its folder.
        near = [
            m for i, m in theirs if m not in targets and m.parent.parent in (masks[i].parent.parent, masks[i].parent)
        ]
        if 2 * len(near) > len([i for i, _ in pairs if i in masks]) > 0 and look.like_masks(near):
            found.append(other)
            targets.update(near)
    return found


class _Look:
    """What is in files, each looked at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen = lru_cache(maxsize=4096)(self._values)

    def like_masks(self, files: Sequence[PurePosixPath]) -> bool:
        """Whether most of a sample hold few values or colours."""
        sample = spread(files, _ALIKE)
        return 2 * sum(self._is_alike(path) for path in sample) > len(sample)

    def coloured(self, files: Sequence[PurePosixPath]) -> bool:
        """Whether most of a sample are in colours that are not all grey."""
        seen = [self._seen(path) for path in spread(files, _ALIKE)]
        hued = [one is not None and one[0] and any(not _is_grey(colour) for colour in one[1]) for one in seen]
        return 2 * sum(hued) > len(seen)

    def is_mask_side(self, masks: Sequence[PurePosixPath], images: Sequence[PurePosixPath], rule: Rule) -> bool:
        """Whether these are the masks and those the images, and not the other way round, or neither."""
        masks, images = spread(masks, _ALIKE), spread(images, _ALIKE)
        if not self.like_masks(masks):
            # Masks in lossy files: names have to say so, and most pixels to hold few values.
            named = _words((*rule.mask_folder, rule.mask_end)) > 0 >= _words((*rule.folder, rule.end))
            return named and self._are_smeared(masks) and not self._are_smeared(images)
        if not self.like_masks(images):
            return True
        # Grey pictures of few values: their names tell, or that a mask has fewer.
        sides = _words((*rule.mask_folder, rule.mask_end)), _words((*rule.folder, rule.end))
        if sides[0] != sides[1]:
            return sides[0] > sides[1]
        counts = [
            sum(len(seen[1]) for p in spread(side, _ALIKE) if (seen := self._seen(p))) for side in (masks, images)
        ]
        return 2 * counts[0] < counts[1]

    def apart(self, files: Sequence[PurePosixPath]) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
        """Pictures and what looks like masks, told by files of equally called folders together."""
        groups: dict[tuple[str, str], list[PurePosixPath]] = defaultdict(list)
        for path in files:
            above = path.parent.name
            # Folders that are called as images are hold the masks of one each.
            beside = next((word for word in path.parts[:-1] if word.lower().startswith(_MASK_WORDS)), "")
            groups[beside or above, path.suffix.lower()].append(path)
        alike = {key for key, ones in groups.items() if len(ones) > 1 and self.like_masks(ones)}
        pictures = [path for key, ones in groups.items() if key not in alike for path in ones]
        lone = [path for key, ones in groups.items() if key in alike for path in ones]
        return sorted(pictures), sorted(lone)

    def _are_smeared(self, files: Sequence[PurePosixPath]) -> bool:
        shares = []
        for path in spread(files, _ALIKE):
            if (seen := self._seen(path)) is not None:
                shares.append(MaskValues(Counter(seen[1])).main_share())
        return bool(shares) and sorted(shares)[len(shares) // 2] >= _SMEARED_SHARE

    def _is_alike(self, path: PurePosixPath) -> bool:
        seen = self._seen(path)
        if seen is None:
            return False
        values = MaskValues(Counter(seen[1]))
        return 1 <= len(values.pixels) <= MASK_COLOURS or (values.main_share() >= _MAIN_SHARE and bool(values.blurred))

    def _values(self, path: PurePosixPath) -> tuple[bool, dict[int, int]] | None:
        try:
            return _values(self._root / path)
        except (InputError, BrokenImageError, OSError):
            return None


def _is_grey(colour: int) -> bool:
    return colour >> 16 == colour >> 8 & 255 == colour & 255


def _words(names: Iterable[str]) -> int:
    """1 where names speak of masks, -1 where they speak of images, else 0."""
    text = " ".join(names).lower()
    return any(word in text for word in _MASK_WORDS) - any(word in text for word in _IMAGE_WORDS)
