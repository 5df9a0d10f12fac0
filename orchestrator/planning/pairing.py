"""Which files of a folder are the masks of which images: found by name, told apart by what is in them.

The model: a rule says how the path of an image becomes that of its mask, one folder's name by another's and one end of
the file's name by another's, wherever in the tree that is; so folders by date, by split or by sensor need one rule. A
sample of names proposes rules; each is then applied to all files, the one that pairs most first. Of the two sides the
mask is the one with few values or colours. The failure this guards against: masks that are taken for images without a
word, and images that are in no pool without one.
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import permutations, takewhile
from pathlib import Path, PurePosixPath

from orchestrator.planning.looks import MASK_WORDS, Look, spread
from workloads.datasets.decode import IMAGE_SUFFIXES

_PROPOSING_NAMES = 300
_FILES_OF_A_NAME = 24
_KIN_OF_A_TREE = 6
_NUMBER = re.compile(r"[a-zA-Z]?[0-9]+[a-zA-Z]?")
_IMAGE_WORDS = ("image", "img", "photo", "picture", "rgb", "jpeg")
_SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_AFTER_A_SPLIT = ("annotations", "annot", "images", "image", "imgs", "img", "masks", "mask", "labels", "label", "set")

ANY_SUFFIX = ".*"

Parts = tuple[str, ...]
Pair = tuple[PurePosixPath, PurePosixPath]


@dataclass(frozen=True)
class Rule:
    """An image in `folder`, its name ending in `end`, has its mask in `mask_folder`, ending in `mask_end`.

    The suffix of an image is written ``.*`` in both, since pictures of one kind may have several.
    """

    folder: Parts
    mask_folder: Parts
    end: str
    mask_end: str

    def masks_of(self, path: PurePosixPath) -> Iterator[PurePosixPath]:
        """Where the mask of an image may lie, one place for each time that the folder is in its path."""
        end = self.end.replace(ANY_SUFFIX, path.suffix)
        if not path.name.endswith(end) or (path.name == end and not self.is_of_whole_names):
            return
        name = path.name[: len(path.name) - len(end)] + self.mask_end.replace(ANY_SUFFIX, path.suffix)
        parts, length = path.parts[:-1], len(self.folder)
        for start in range(len(parts) - length + 1):
            if parts[start : start + length] == self.folder:
                yield PurePosixPath(*parts[:start], *self.mask_folder, *parts[start + length :], name)

    @property
    def is_of_whole_names(self) -> bool:
        """Whether folders tell images apart, and all files of one kind have one name."""
        return not self.end.startswith((".", "_", "-"))

    def __str__(self) -> str:
        where = "/".join(self.mask_folder)
        name = self.mask_end if self.is_of_whole_names else f"*{self.mask_end}"
        return f"{where}/{name}" if where else name


@dataclass
class Paired:
    """The images that a rule gives masks for; other masks of the same images, and other pictures that the same masks
    would go with, as depth beside colour, which are left aside."""

    rule: Rule
    masks: dict[PurePosixPath, PurePosixPath]
    rivals: list[Rule] = field(default_factory=list)
    companions: list[PurePosixPath] = field(default_factory=list)


@dataclass
class Pairing:
    """Files with their masks by rule; pictures without one; files that look like masks of no image."""

    paired: list[Paired]
    pictures: list[PurePosixPath]
    lone_masks: list[PurePosixPath]


def find_pairs(root: Path, files: Sequence[PurePosixPath]) -> Pairing:
    """Look for images and their masks among the files below `root`."""
    look = Look(root)
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
        sides = _words((*rule.mask_folder, rule.mask_end)), _words((*rule.folder, rule.end))
        if not look.is_mask_side([mask for _, mask in pairs], [image for image, _ in pairs], sides):
            del proposed[rule]
            continue
        del proposed[rule]
        masks = _apply(rule, files, free, known)
        # After the first, a few pairs that short numbers happen to make are none.
        if len(masks) < (2 if found else 1) or 50 * len(masks) < sum(len(one.masks) for one in found):
            continue
        one = Paired(rule, masks, _rivals(masks, proposed, free, look))
        one.companions = _companions(one, proposed, files, free - set(masks_and_rivals(one, known)), look)
        found.append(one)
        free -= {*masks, *masks_and_rivals(one, known), *one.companions}
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


@lru_cache(maxsize=100_000)
def split_of(folder: Parts) -> str | None:
    """The split that the names of a path's folders speak of: train, val, test, or none."""
    for part in reversed(folder):
        for word in re.split(r"[^a-z]+", part.lower()):
            for split, words in _SPLITS.items():
                if word in words or any(word.removesuffix(tail) in words for tail in _AFTER_A_SPLIT):
                    return split
    return None


def image_ends(name: str) -> Iterator[tuple[str, str]]:
    """What of an image's name may be its end, with the rest: the suffix, and one or two last words.

    A number, with a letter at most (``_006690``, ``_f00030``), tells images apart and is no end that they share.
    """
    stem = PurePosixPath(name).stem
    end = ANY_SUFFIX
    yield stem, end
    for _ in range(2):
        cut = max(stem.rfind("_"), stem.rfind("-"))
        if cut <= 0 or _NUMBER.fullmatch(stem[cut + 1 :]):
            return
        stem, end = stem[:cut], f"{stem[cut:]}{end}"
        yield stem, end


def mask_ends(name: str) -> Iterator[tuple[str, str]]:
    """As of an image, with its own suffix; or the whole name of an image and another suffix (``.jpg.png``)."""
    suffix = PurePosixPath(name).suffix
    for stem, end in image_ends(name):
        yield stem, end.replace(ANY_SUFFIX, suffix)
    inner = PurePosixPath(PurePosixPath(name).stem)
    if inner.suffix.lower() in IMAGE_SUFFIXES:
        yield inner.stem, f"{ANY_SUFFIX}{suffix}"


def _proposed(files: Sequence[PurePosixPath]) -> dict[Rule, list[Pair]]:
    """Rules that some pairs of a sample of names follow, with these pairs."""
    images: dict[str, list[tuple[PurePosixPath, str]]] = defaultdict(list)
    masks: dict[str, list[tuple[PurePosixPath, str]]] = defaultdict(list)
    for path in files:
        for stem, end in image_ends(path.name):
            images[stem].append((path, end))
        for stem, end in mask_ends(path.name):
            masks[stem].append((path, end))
    found: dict[Rule, list[Pair]] = defaultdict(list)
    both = images.keys() & masks.keys()
    keys = sorted(key for key in both if len({path for path, _ in images[key]} | {path for path, _ in masks[key]}) > 1)
    for key in keys[:: max(1, len(keys) // _PROPOSING_NAMES)]:
        for image, end in spread(sorted(images[key]), _FILES_OF_A_NAME):
            for mask, mask_end in _kin(image, masks[key]):
                if image != mask and _may_pair(image, mask):
                    found[_rule(image, end, mask, mask_end)].append((image, mask))
    for image, mask in _whole_names(files):
        found[Rule((), (), image.name, mask.name)].append((image, mask))
    return dict(found)


def _kin(image: PurePosixPath, masks: Sequence[tuple[PurePosixPath, str]]) -> list[tuple[PurePosixPath, str]]:
    """Of many files of one name those that may be an image's mask: the nearest of each tree and end."""
    trees: dict[tuple[Parts, str], list[tuple[PurePosixPath, str]]] = defaultdict(list)
    for path, end in masks:
        trees[path.parts[:-1][:1], end].append((path, end))
    nearest = partial(_nearness, image)
    near = (one for ones in trees.values() for one in heapq.nlargest(_KIN_OF_A_TREE, ones, nearest))
    return heapq.nlargest(_FILES_OF_A_NAME, near, nearest)


def _nearness(image: PurePosixPath, mask: tuple[PurePosixPath, str]) -> tuple[int, int]:
    """How many folders both paths share at their beginnings and at their ends; an image itself is the last."""
    first, second = image.parts[:-1], mask[0].parts[:-1]
    front = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
    back = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first[::-1], second[::-1], strict=False)))
    shared = min(front + back, len(first), len(second)) if mask[0] != image else -1
    return shared, front


def _may_pair(image: PurePosixPath, mask: PurePosixPath) -> bool:
    """Whether nothing that their folders say of splits is against it; masks may lie together in one folder."""
    split, other = split_of(image.parts[:-1]), split_of(mask.parts[:-1])
    return split is None or other is None or split == other


def _whole_names(files: Sequence[PurePosixPath]) -> Iterator[Pair]:
    """Pairs of files in one folder each of whose names many folders have."""
    number = Counter(path.name for path in files)
    by_folder: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for path in files:
        if number[path.name] > 1:
            by_folder[path.parent].append(path)
    folders = sorted(folder for folder, ones in by_folder.items() if 1 < len(ones) <= _FILES_OF_A_NAME)
    for folder in folders[:: max(1, len(folders) // _PROPOSING_NAMES)]:
        yield from permutations(sorted(by_folder[folder]), 2)


def _rule(image: PurePosixPath, end: str, mask: PurePosixPath, mask_end: str) -> Rule:
    """What differs between both paths."""
    one, other = image.parts[:-1], mask.parts[:-1]
    shortest = min(len(one), len(other))
    front = next((i for i in range(shortest) if one[i] != other[i]), shortest)
    back = next((i for i in range(shortest - front) if one[-1 - i] != other[-1 - i]), shortest - front)
    return Rule(one[front : len(one) - back], other[front : len(other) - back], end, mask_end)


def _rank(rule: Rule, pairs: Sequence[Pair], look: Look) -> tuple[object, ...]:
    """Most images first; of as many masks of values before those of colours, colour before grey, short ends first."""
    masks, images = [mask for _, mask in pairs], [image for image, _ in pairs]
    return (
        -len(set(images)),
        look.coloured(masks),
        not look.coloured(images),
        -_words((*rule.mask_folder, rule.mask_end)),
        len(rule.end) + len(rule.mask_end),
        str(rule),
        rule.folder,
        rule.end,
    )


def _apply(
    rule: Rule, files: Iterable[PurePosixPath], free: set[PurePosixPath], known: set[PurePosixPath]
) -> dict[PurePosixPath, PurePosixPath]:
    masks: dict[PurePosixPath, PurePosixPath] = {}
    for image in files:
        if image in free:
            found = (mask for mask in rule.masks_of(image) if mask in free and mask in known and mask != image)
            mask = next((mask for mask in found if _may_pair(image, mask)), None)
            if mask is not None:
                masks[image] = mask
    # What is the mask of one is the image of none, and what two would have is of neither.
    claimed = Counter(masks.values())
    return {image: mask for image, mask in masks.items() if image not in claimed and claimed[mask] == 1}


def _companions(
    paired: Paired,
    proposed: dict[Rule, list[Pair]],
    files: Iterable[PurePosixPath],
    free: set[PurePosixPath],
    look: Look,
) -> list[PurePosixPath]:
    """Pictures of other folders or ends that the same masks would go with."""
    rule, masks = paired.rule, paired.masks
    taken = set(masks.values())
    found: set[PurePosixPath] = set()
    for other, pairs in proposed.items():
        if other.is_of_whole_names != rule.is_of_whole_names or (other.folder, other.end) == (rule.folder, rule.end):
            continue
        same = [image for image, mask in pairs if mask in taken and image in free and image not in masks]
        if 2 * len(same) > len(pairs) and not look.like_masks(same):
            others = (image for image in files if image in free and image not in masks)
            found |= {image for image in others if any(mask in taken for mask in other.masks_of(image))}
    return sorted(found - taken)


def _rivals(
    masks: dict[PurePosixPath, PurePosixPath],
    proposed: dict[Rule, list[Pair]],
    free: set[PurePosixPath],
    look: Look,
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


def _words(names: Iterable[str]) -> int:
    """1 where names speak of masks, -1 where they speak of images, else 0."""
    text = " ".join(names).lower()
    return any(word in text for word in MASK_WORDS) - any(word in text for word in _IMAGE_WORDS)
