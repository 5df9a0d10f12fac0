"""What an experiment on a folder that somebody has may be: its pools, what is in its masks, what its owner has to know.

Every picture that was found is in a pool, or it is said that it is in none. Where few of many images have masks, all of
them are the pool `train`, for auxiliary labels and pre-training, and those with masks are `labelled`, for fine-tuning.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from orchestrator.planning.pairing import (
    MaskValues,
    Paired,
    Pairing,
    Rule,
    count_values,
    find_pairs,
    split_of,
    spread,
)
from workloads.bucket_paths import matches
from workloads.datasets.classes import read_classes
from workloads.datasets.decode import IMAGE_SUFFIXES, needs_scaling, picture_size
from workloads.datasets.files import scan_tree
from workloads.errors import InputError
from workloads.formats import counted

LABELLED = "labelled"
"""The pool of those images of `train` that have a mask, where not all have one."""

HELD_OUT = 0.8
# A pool of more places is a list that nobody reads.
_PLACES = 4
_LISTS = {"train": ("train.txt",), "val": ("val.txt", "valid.txt"), "test": ("test.txt",)}
_NAMED_IN_A_LIST = 0.9


@dataclass
class Pool:
    """A pool as an experiment describes it, and how many images it has."""

    images: list[str]
    count: int
    masks: str | None = None
    only_masked: bool = False
    only_listed: str | None = None
    share: tuple[float, float] | None = None


@dataclass
class Proposal:
    """What was found in a folder.

    `values` are those of a sample of the masks, and `class_names` what a file in the folder calls them; `notes` is what
    the owner has to know or decide; `deep` is whether images have more than 8 bits.
    """

    root: Path
    pools: dict[str, Pool]
    values: MaskValues | None
    suffixes: Counter[str]
    sizes: Counter[tuple[int, int]]
    notes: list[str] = field(default_factory=list)
    class_file: str | None = None
    class_names: dict[int, str] = field(default_factory=dict)
    deep: bool = False

    @property
    def has_masks(self) -> bool:
        """Whether any pool has masks."""
        return any(pool.masks for pool in self.pools.values())


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
    pairing = find_pairs(root, files)
    if not pairing.paired and not pairing.pictures:
        pairing = Pairing([], pairing.lone_masks, [])
    pools = _pools(root, files, pairing)
    masks = [mask for one in pairing.paired for mask in one.masks.values()]
    images = [image for one in pairing.paired for image in one.masks] + pairing.pictures
    found = Proposal(
        root=root,
        pools=pools,
        values=count_values(root, sorted(masks)) if masks else None,
        suffixes=Counter(path.suffix.lower() for path in images),
        sizes=Counter(size for path in spread(images) if (size := picture_size(root / path)) is not None),
        deep=any(needs_scaling((root / path).read_bytes()) for path in spread(images)),
    )
    if masks:
        _hold_out(pools)
        _name_classes(found)
    found.notes = list(_notes(found, pairing, files))
    return found


def _pools(root: Path, files: Sequence[PurePosixPath], pairing: Pairing) -> dict[str, Pool]:
    pools: dict[str, Pool] = {}
    groups: list[tuple[Paired, dict[PurePosixPath, PurePosixPath]]] = []
    for paired in pairing.paired:
        by_split: dict[str, dict[PurePosixPath, PurePosixPath]] = defaultdict(dict)
        for image, mask in paired.masks.items():
            by_split[split_of(image.parts[:-1]) or "train"][image] = mask
        groups += [(paired, group) for _, group in sorted(by_split.items())]
    lists = _split_lists(root, groups[0][1]) if len(groups) == 1 else {}
    masks = {mask for paired in pairing.paired for mask in paired.masks.values()}
    spare = set(pairing.pictures)
    tests = {path for path in spare if split_of(path.parts[:-1]) == "test"}
    unmasked = spare - tests
    for paired, group in groups:
        split = split_of(next(iter(group)).parts[:-1]) or "train"
        for described, of in _describe(paired.rule, group, files, masks, spare):
            # All images of train are for auxiliary labels, those with a mask for fine-tuning, too.
            name = LABELLED if split == "train" and unmasked else split
            if lists:
                for part, (file, count) in lists.items():
                    listed = Pool(described.images, count, described.masks, bool(unmasked), only_listed=file)
                    pools[LABELLED if part == "train" and unmasked else part] = listed
                continue
            described.count = len(of)
            pools[_free(name, pools)] = described
    # Masks need not be kept out of a pool: what is a mask of any pool is an image of none.
    pictures = [path for path in files if path not in masks]
    if unmasked:
        masked = {image for _, group in groups for image in group}
        wanted = unmasked | {image for image in masked if split_of(image.parts[:-1]) in (None, "train")}
        pools["train"] = Pool(_places(wanted, pictures), len(wanted))
    if tests and "test" not in pools:
        pools["test"] = Pool(_places(tests, pictures), len(tests))
    order = {"train": 0, LABELLED: 1, "val": 3, "test": 4}
    return dict(sorted(pools.items(), key=lambda one: order.get(one[0], 2)))


def _free(name: str, taken: Iterable[str]) -> str:
    used = set(taken)
    return name if name not in used else next(f"{name}{n}" for n in range(2, 10_000) if f"{name}{n}" not in used)


def _describe(
    rule: Rule,
    group: dict[PurePosixPath, PurePosixPath],
    files: Sequence[PurePosixPath],
    masks: set[PurePosixPath],
    spare: set[PurePosixPath],
) -> Iterator[tuple[Pool, dict[PurePosixPath, PurePosixPath]]]:
    """Pools that describe the images of a rule with their masks: one, or one for each folder that one cannot hold."""
    base = _shared(group)
    if (template := _template(rule, base, group)) is None:
        parts: dict[PurePosixPath, dict[PurePosixPath, PurePosixPath]] = defaultdict(dict)
        for image, mask in group.items():
            parts[PurePosixPath(*image.parts[: len(base.parts) + 1])][image] = mask
        for part in parts.values():
            yield from _describe(rule, part, files, masks, spare)
        return
    # Images beside them that have no mask are left out by asking for one.
    others = [path for path in files if path.is_relative_to(base) and path not in group and path not in masks]
    if all(path in spare for path in others):
        images = str(base)
    else:
        deep = any(image.parent != base for image in group)
        images = f"{base}/{'**/' if deep else ''}*{rule.end}".removeprefix("./")
    yield Pool([images], len(group), template, only_masked=any(path in spare for path in others)), group


def _shared(paths: Iterable[PurePosixPath]) -> PurePosixPath:
    """The deepest folder that holds all of the files."""
    return PurePosixPath(os.path.commonpath([str(path.parent) for path in paths]) or ".")


def _template(rule: Rule, base: PurePosixPath, group: dict[PurePosixPath, PurePosixPath]) -> str | None:
    """The path of a mask as a template of its image's, where one serves for all."""
    if rule.mask_end != rule.end and rule.mask_end.startswith(rule.end):
        name = f"{{name}}{rule.mask_end.removeprefix(rule.end)}"
    else:
        inner = rule.end.rpartition(".")[0]
        name = f"{{stem{f'-{inner}' if inner else ''}}}{rule.mask_end}"
    inside = {image: image.parent.relative_to(base) for image in group}
    folders = {_without(mask.parent, inside[image]) for image, mask in group.items()}
    if len(folders) == 1 and (folder := next(iter(folders))) is not None:
        deep = "" if all(one == PurePosixPath() for one in inside.values()) else "{inside}/"
        return f"{folder}/{deep}{name}".removeprefix("./")
    beside = {os.path.relpath(mask.parent, image.parent) for image, mask in group.items()}
    return f"{{parent}}/{next(iter(beside))}/{name}".replace("/./", "/") if len(beside) == 1 else None


def _without(folder: PurePosixPath, inside: PurePosixPath) -> PurePosixPath | None:
    """The folder that another begins with, whose end is known."""
    if inside == PurePosixPath():
        return folder
    kept = len(folder.parts) - len(inside.parts)
    return PurePosixPath(*folder.parts[:kept]) if kept >= 0 and folder.parts[kept:] == inside.parts else None


def _places(wanted: set[PurePosixPath], files: Sequence[PurePosixPath]) -> list[str]:
    """Folders and globs that hold the wanted files and, as far as names allow, none of the others."""
    base = _shared(wanted)
    inside = [path for path in files if path.is_relative_to(base)]
    if all(path in wanted for path in inside):
        return [str(base)]
    below: dict[str, list[PurePosixPath]] = defaultdict(list)
    for path in inside:
        parts = path.relative_to(base).parts
        below[parts[0] if len(parts) > 1 else f"*{path.suffix}"].append(path)
    found: list[str] = []
    for name, ones in sorted(below.items()):
        theirs = {path for path in ones if path in wanted}
        if theirs and (len(theirs) == len(ones) or name.startswith("*.")):
            found.append(f"{base}/{name}".removeprefix("./"))
        elif theirs:
            found += _places(theirs, ones)
    if len(found) > _PLACES:
        tails = {PurePosixPath(place).relative_to(base).parts[1:] for place in found}
        pattern = "/".join(("*", *next(iter(tails)), "**", "*"))
        if len(tails) == 1 and {path for path in inside if matches(path.relative_to(base), pattern)} == wanted:
            return [f"{base}/{pattern}".removeprefix("./")]
    return found


def _split_lists(root: Path, group: dict[PurePosixPath, PurePosixPath]) -> dict[str, tuple[str, int]]:
    """Text files that say which image belongs to which split, and how many each names of those with masks."""
    stems = {image.stem for image in group}
    best: dict[str, tuple[str, int]] = {}
    by_folder: dict[PurePosixPath, dict[str, tuple[str, int]]] = defaultdict(dict)
    for path, _ in scan_tree(root, (".txt",)):
        split = next((split for split, names in _LISTS.items() if path.name.lower() in names), None)
        if split is None:
            continue
        try:
            lines = (root / path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        names = [PurePosixPath(line.split()[0]).name for line in lines if line.strip() and not line.startswith("#")]
        known = [name for name in names if name in stems or PurePosixPath(name).stem in stems]
        if names and len(known) >= _NAMED_IN_A_LIST * len(names):
            by_folder[path.parent][split] = (str(path), len(known))
    for found in by_folder.values():
        if {"train", "val"} <= found.keys() and sum(c for _, c in found.values()) > sum(c for _, c in best.values()):
            best = found
    return best


def _hold_out(pools: dict[str, Pool]) -> None:
    """Keep the last fifth of the images with masks for scores, where the folder has no pool for them.

    A folder that calls all of its images by another split has none for training; they are what there is to train on.
    """
    if "train" not in pools:
        first = next(name for name, pool in pools.items() if pool.masks)
        renamed = {"train" if name == first else name: pool for name, pool in pools.items()}
        pools.clear()
        pools |= renamed
    if "val" in pools:
        return
    name = next(name for name, pool in pools.items() if pool.masks)
    pool = pools[name]
    kept = Pool(pool.images, pool.count, pool.masks, pool.only_masked, pool.only_listed)
    if pool.count > 1:
        # Of two images one each.
        part = HELD_OUT if pool.count > 2 else 0.5
        pool.share, kept.share = (0.0, part), (part, 1.0)
        kept.count -= round(part * pool.count)
        pool.count -= kept.count
    rest = {other: pools.pop(other) for other in [*pools][[*pools].index(name) + 1 :]}
    pools |= {"val": kept} | rest


def _name_classes(found: Proposal) -> None:
    """What a file that is beside the masks calls the classes: CVAT's labelmap.txt, Roboflow's _classes.csv."""
    assert found.values is not None
    for path, _ in scan_tree(found.root, (".txt", ".csv")):
        if path.name == "labelmap.txt" and found.values.coloured:
            try:
                read_classes(str(path), found.root)
            except InputError:
                continue
            found.class_file = str(path)
            return
        if path.name == "_classes.csv":
            try:
                lines = (found.root / path).read_text(encoding="utf-8").splitlines()[1:]
                cells = [line.split(",", 1) for line in lines if "," in line]
                found.class_names = {int(value): name.strip() for value, name in cells}
            except (OSError, ValueError):
                continue
            return


def _notes(found: Proposal, pairing: Pairing, files: Sequence[PurePosixPath]) -> Iterator[str]:
    for paired in pairing.paired:
        if paired.rivals:
            others = ", ".join(str(rival) for rival in paired.rivals[:3])
            yield f"images have other masks beside {paired.rule}, and one is read: {others} are left aside"
    if pairing.lone_masks:
        yield from _about_lone_masks(found, pairing)
    if found.values is not None:
        yield from _about_values(found.values)
    if {"leftImg8bit", "gtFine"} <= {part for path in files for part in path.parts[:-1]}:
        yield "the folders are those of Cityscapes: dataset {name: cityscapes} reads them with its 19 classes"
    unused = [name for name in found.pools if name not in ("train", LABELLED, "val", "test")]
    if unused:
        yield f"nothing uses {', '.join(unused)}: dataset.pool and dataset.val name what is"
    tests = [path for path in pairing.pictures if split_of(path.parts[:-1]) == "test"]
    if tests and found.pools.get("test", Pool([], 0)).masks:
        are = "is" if len(tests) == 1 else "are"
        yield f"{counted(len(tests), 'picture')} without a mask, as {tests[0]}, {are} in no pool"
    if any(len(pool.images) > _PLACES for pool in found.pools.values()):
        yield "a pool has many places; it may be simpler to move its images to a folder of their own"
    if not pairing.paired and (notes := [path for path, _ in scan_tree(found.root, (".json",))]):
        yield f"annotations in JSON, as {notes[0]}, are not read; masks have to be made of them"


def _about_lone_masks(found: Proposal, pairing: Pairing) -> Iterator[str]:
    homes = {mask.parent for one in pairing.paired for mask in one.masks.values()}
    if orphans := [path for path in pairing.lone_masks if path.parent in homes]:
        go = "goes" if len(orphans) == 1 else "go"
        yield f"{counted(len(orphans), 'mask')}, as {orphans[0]}, {go} with no picture by name"
    lone = [path for path in pairing.lone_masks if path.parent not in homes]
    if not lone:
        return
    stems = {path.stem for path in pairing.pictures}
    several = Counter(next((part for part in reversed(mask.parts[:-1]) if part in stems), "") for mask in lone)
    image, count = several.most_common(1)[0]
    if image and count > 1:
        yield (
            f"{count} masks for {image}, as {next(m for m in lone if image in m.parts)}: one mask an image is read; "
            "put those of an image into one file, a value for each class"
        )
        return
    folders = list(dict.fromkeys(str(path.parent / f"*{path.suffix}").removeprefix("./") for path in lone))
    more = f" and {len(folders) - 3} more" if len(folders) > 3 else ""
    yield f"{', '.join(folders[:3])}{more} look like masks, but no pictures go with them by name"


def _about_values(values: MaskValues) -> Iterator[str]:
    if strong := values.blurred:
        yield (
            f"masks hold {len(values.pixels)} values, most pixels one of {len(strong)}: they were blurred by JPEG or "
            "by resizing, and have to be saved again without either"
        )
    if values.others:
        yield (
            f"of {values.files + values.others} masks looked at {values.others} "
            f"{'is' if values.others == 1 else 'are'} in {'values' if values.coloured else 'colours'} and not in "
            f"{'colours' if values.coloured else 'values'} as the others; all have to be the same"
        )
