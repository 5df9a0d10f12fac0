"""What an experiment on a folder that somebody has may be: its pools, what is in its masks, what its owner has to know.

Every picture that was found is in a pool, or it is said that it is in none. Where few of many images have masks, all of
them are the pool `train`, for auxiliary labels and pre-training, and those with masks are `labelled`, for fine-tuning.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from orchestrator.planning.looks import MaskValues, count_values, spread
from orchestrator.planning.pairing import (
    Paired,
    Pairing,
    find_pairs,
    split_of,
)
from orchestrator.planning.pool_places import MANY_PLACES, Pool, describe, places_of
from workloads.datasets.classes import read_classes
from workloads.datasets.decode import IMAGE_SUFFIXES, needs_scaling, picture_size
from workloads.datasets.files import scan_tree
from workloads.datasets.masks import Masks, MasksConfig, PoolConfig
from workloads.errors import InputError
from workloads.formats import counted

LABELLED = "labelled"
"""The pool of those images of `train` that have a mask, where not all have one."""

HELD_OUT = 0.8
_LISTS = {"train": ("train.txt",), "val": ("val.txt", "valid.txt"), "test": ("test.txt",)}
_NAMED_IN_A_LIST = 0.9


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
    awkward = next(
        (path for path in files if set("*?[]{}") & set(str(path.parent)) or not str(path).isprintable()), None
    )
    if awkward is not None:
        allowed = "rename the folder: in a description * ? [ ] { } stand for other names, and a name is one line"
        raise InputError(f"{root} holds {str(awkward)!r}", key="FOLDER", allowed=allowed)
    pairing = find_pairs(root, files)
    if not pairing.paired and not pairing.pictures:
        pairing = Pairing([], pairing.lone_masks, [])
    masks = [mask for one in pairing.paired for mask in one.masks.values()]
    images = [image for one in pairing.paired for image in one.masks] + pairing.pictures
    found = Proposal(
        root=root,
        pools={},
        values=count_values(root, sorted(masks)) if masks else None,
        suffixes=Counter(path.suffix.lower() for path in images),
        sizes=Counter(size for path in spread(images) if (size := picture_size(root / path)) is not None),
        deep=any(needs_scaling((root / path).read_bytes()) for path in spread(images)),
    )
    groups = _by_split(pairing)
    lists = _split_lists(root, groups[0][1]) if len(groups) == 1 else {}
    try:
        found.pools = _pools(files, pairing, groups, lists)
        opened = _opened(found, images)
    except InputError as error:
        # Lists that name other files than there are.
        found.pools = _pools(files, pairing, groups, {})
        opened = [f"{error}; the lists are left aside", *_opened(found, images)]
    if masks:
        _name_classes(found)
    found.notes = [*_notes(found, pairing, files), *opened]
    return found


def _opened(found: Proposal, images: Sequence[PurePosixPath]) -> list[str]:
    """What a data set of these pools makes of the files: names cannot always tell them apart. Mends the counts.

    Raises
    ------
    InputError
        No data set can be opened so.
    """
    notes = []
    pools = {
        name: PoolConfig(
            images=tuple(pool.images),
            masks=pool.masks,
            only_masked=pool.only_masked,
            only_listed=pool.only_listed,
            share=pool.share,
        )
        for name, pool in found.pools.items()
    }
    dataset = Masks(found.root, MasksConfig(pools=pools, classes=["any"]))
    entries = {name: [dataset.image_path(name, one.id) for one in dataset.entries(name)] for name in pools}
    for name, paths in entries.items():
        if len(paths) != found.pools[name].count:
            seemed = found.pools[name].count
            notes.append(f"pool {name} holds {counted(len(paths), 'file')}, where {seemed} seemed to belong there")
            found.pools[name].count = len(paths)
    held = {str(path) for paths in entries.values() for path in paths}
    left = [path for path in images if str(found.root / path) not in held]
    if left:
        are = "is" if len(left) == 1 else "are"
        notes.append(f"{counted(len(left), 'picture')}, as {left[0]}, {are} in no pool")
    for name in ("train", LABELLED):
        both = set(map(str, entries.get(name, ()))) & set(map(str, entries.get("val", ())))
        if both and found.pools[name].masks and found.pools[name].count > 1:
            are = "is" if len(both) == 1 else "are"
            notes.append(f"{counted(len(both), 'image')} of val, as {min(both)}, {are} in {name}, too")
    return notes


Group = tuple[Paired, dict[PurePosixPath, PurePosixPath]]


def _by_split(pairing: Pairing) -> list[Group]:
    """The images of each rule with their masks, by split."""
    groups: list[Group] = []
    for paired in pairing.paired:
        by_split: dict[str, dict[PurePosixPath, PurePosixPath]] = defaultdict(dict)
        for image, mask in paired.masks.items():
            by_split[split_of(image.parts[:-1]) or "train"][image] = mask
        groups += [(paired, group) for _, group in sorted(by_split.items())]
    return groups


def _pools(
    files: Sequence[PurePosixPath], pairing: Pairing, groups: Sequence[Group], lists: Mapping[str, tuple[str, int]]
) -> dict[str, Pool]:
    pools: dict[str, Pool] = {}
    masks = {mask for paired in pairing.paired for mask in paired.masks.values()}
    spare = set(pairing.pictures)
    tests = {path for path in spare if split_of(path.parts[:-1]) == "test"}
    unmasked = spare - tests
    if not groups and not unmasked:
        # All of it lies in a folder called so: it is what there is.
        unmasked, tests = tests, set()
    for paired, group in groups:
        split = split_of(next(iter(group)).parts[:-1]) or "train"
        for described, of in describe(paired.rule, group, files, masks, spare):
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
        pools["train"] = Pool(places_of(wanted, pictures), len(wanted))
    if tests and "test" not in pools:
        pools["test"] = Pool(places_of(tests, pictures), len(tests))
    if groups:
        _hold_out(pools)
    order = {"train": 0, LABELLED: 1, "val": 3, "test": 4}
    return dict(sorted(pools.items(), key=lambda one: order.get(one[0], 2)))


def _free(name: str, taken: Iterable[str]) -> str:
    used = set(taken)
    return name if name not in used else next(f"{name}{n}" for n in range(2, 10_000) if f"{name}{n}" not in used)


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
    masked = [name for name, pool in pools.items() if pool.masks]
    if masked == ["test"] and "train" in pools:
        pools["val"] = pools.pop("test")
    if "train" not in pools:
        first = min((name for name, pool in pools.items() if pool.masks), key=lambda name: (name == "test", name))
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
        if paired.companions:
            yield (
                f"{counted(len(paired.companions), 'picture')}, as {paired.companions[0]}, would go with the masks of "
                f"{next(iter(paired.masks))} and its like, and one image a mask is read: they are left aside"
            )
    if pairing.lone_masks:
        yield from _about_lone_masks(found, pairing)
    if found.values is not None:
        yield from _about_values(found.values)
    if {"leftImg8bit", "gtFine"} <= {part for path in files for part in path.parts[:-1]}:
        yield "the folders are those of Cityscapes: dataset {name: cityscapes} reads them with its 19 classes"
    unused = [name for name in found.pools if name not in ("train", LABELLED, "val", "test")]
    if unused:
        yield f"nothing uses {', '.join(unused)}: dataset.pool and dataset.val name what is"
    if any(len(pool.images) > MANY_PLACES for pool in found.pools.values()):
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
