"""Pools as an experiment describes them: the places of some files, and the template of their masks."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from orchestrator.planning.pairing import ANY_SUFFIX, Rule
from workloads.bucket_paths import matches

# A pool of more places is a list that nobody reads.
MANY_PLACES = 4


@dataclass
class Pool:
    """A pool as an experiment describes it, and how many images it has."""

    images: list[str]
    count: int
    masks: str | None = None
    only_masked: bool = False
    only_listed: str | None = None
    share: tuple[float, float] | None = None


def describe(
    rule: Rule,
    group: dict[PurePosixPath, PurePosixPath],
    files: Sequence[PurePosixPath],
    masks: set[PurePosixPath],
    spare: set[PurePosixPath],
) -> Iterator[tuple[Pool, dict[PurePosixPath, PurePosixPath]]]:
    """Pools that describe the images of a rule with their masks: one, or one for each folder that one cannot hold."""
    base = _shared(group)
    template = _template(rule, base, group)
    if template is None:
        parts: dict[PurePosixPath, dict[PurePosixPath, PurePosixPath]] = defaultdict(dict)
        for image, mask in group.items():
            parts[PurePosixPath(*image.parts[: len(base.parts) + 1])][image] = mask
        for part in parts.values():
            yield from describe(rule, part, files, masks, spare)
        return
    others = [path for path in files if path.is_relative_to(base) and path not in group and path not in masks]
    if all(path in spare for path in others):
        # Images beside them that have no mask are left out by asking for one.
        places = [str(base)]
    else:
        places = places_of(set(group), [path for path in files if path not in masks and path not in spare])
    yield Pool(places, len(group), template, only_masked=any(path in spare for path in others)), group


def _shared(paths: Iterable[PurePosixPath]) -> PurePosixPath:
    """The deepest folder that holds all of the files."""
    return PurePosixPath(os.path.commonpath([str(path.parent) for path in paths]) or ".")


def _template(rule: Rule, base: PurePosixPath, group: dict[PurePosixPath, PurePosixPath]) -> str | None:
    """The path of a mask as a template of its image's, where one serves for all."""
    if rule.is_of_whole_names:
        name = rule.mask_end
    elif ANY_SUFFIX in rule.mask_end:
        name = rule.mask_end.replace(ANY_SUFFIX, "{name}")
    else:
        inner = rule.end.removesuffix(ANY_SUFFIX)
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


def places_of(wanted: set[PurePosixPath], files: Sequence[PurePosixPath]) -> list[str]:
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
            found += places_of(theirs, ones)
    if len(found) > MANY_PLACES:
        tails = {PurePosixPath(place).relative_to(base).parts[1:] for place in found}
        pattern = "/".join(("*", *next(iter(tails)), "**", "*"))
        if len(tails) == 1 and {path for path in inside if matches(path.relative_to(base), pattern)} == wanted:
            return [f"{base}/{pattern}".removeprefix("./")]
    return found
