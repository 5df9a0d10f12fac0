"""Any folders of images and masks, by description.

Pools have the names that the user gives them. A pool's images are a folder (at any depth), a glob, a list file, or
several of these; its masks, where it has some, are a folder of the same layout or a template over the image's path. An
image's id is its path below the pool's folder without its suffix. Masks are indexed, with or without a palette, or RGB
(see `classes`). What is a mask of any pool is an image of none.
"""

import os
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Literal, Self

from pydantic import Field, model_validator

from workloads.bucket_paths import AnyPath
from workloads.configs.base import HashedConfig
from workloads.datasets.base import ImageEntry
from workloads.datasets.decode import IMAGE_SUFFIXES
from workloads.datasets.described import TRIED, Described, DescribedConfig, missing
from workloads.datasets.files import FileFacts, scan_glob, scan_tree
from workloads.errors import BrokenImageError, InputError

_FIELDS = ("stem", "name", "parent", "inside")
# {stem-_left} is the stem without the _left that it ends in.
_FIELD = re.compile(rf"\{{({'|'.join(_FIELDS)})(?:-([^{{}}]*))?\}}")


class PoolConfig(HashedConfig, tag="MaskPoolConfig"):
    """The images of a pool, and their masks."""

    images: str | tuple[str, ...] = Field(
        min_length=1, description="folder, glob (images/*/left.png) or list file, below the root; or several of them"
    )
    masks: str | None = Field(
        None,
        min_length=1,
        description="folder of the same layout, or a template below the root: {stem} and {name} of the image's file, "
        "{parent} its folder below the root, {inside} its folder below the pool's; {stem-_left} leaves out an end",
    )
    only_masked: bool = Field(
        False, description="keep the images whose mask is there; false: an image without one is an error"
    )
    only_listed: str | None = Field(
        None,
        min_length=1,
        description="text file below the root, a name a line: keep the images that it names by stem, file name or path",
    )
    share: tuple[float, float] | None = Field(
        None, description="part of the images in the order of their ids, e.g. [0.0, 0.8]; null for all"
    )

    @model_validator(mode="after")
    def _masks_to_look_for(self) -> Self:
        if self.only_masked and self.masks is None:
            raise InputError(key="only_masked", value=True, allowed="allowed: false for a pool without masks")
        return self

    @model_validator(mode="after")
    def _a_part(self) -> Self:
        if self.share is not None and not 0 <= self.share[0] < self.share[1] <= 1:
            allowed = "allowed: two numbers of 0 to 1, the first below the second"
            raise InputError(key="share", value=list(self.share), allowed=allowed)
        return self


class MasksConfig(DescribedConfig, tag="MasksConfig"):
    """Folders of images and masks."""

    name: Literal["masks"] = Field("masks", description="any folders of images and masks, by description")
    pools: dict[str, PoolConfig] = Field(min_length=1, description="pools by the names that they are given here")


_LISTING = threading.Lock()


@dataclass(frozen=True)
class _Found:
    """An image of a pool: its file below the root, and its folder below the pool's."""

    path: PurePosixPath
    inside: PurePosixPath
    facts: FileFacts


class Masks(Described):
    """Images and masks below ``root``; see the module's docstring.

    Raises
    ------
    InputError
        ``root`` is missing, the description is not complete, or its masks are not there.
    """

    name = "masks"
    of_missing_labels = "; the pool's only_masked: true leaves out images without one"

    def __init__(self, root: AnyPath, config: MasksConfig) -> None:
        super().__init__(root, config.classes, config.ignore, config.sixteen_bit)
        self.config = config
        self.pools = tuple(config.pools)
        for name, pool in config.pools.items():
            _check_template(pool.masks, f"dataset.pools.{name}.masks")
        labelled = [name for name in self.pools if self.labelled(name)]
        for name in labelled:
            self._require_masks(name)
        self._require_classes(labelled)

    def image_folder(self, pool: str) -> AnyPath:
        """The pool's folder, or the part of its glob before the first wildcard; of several what they share."""
        return self.root / _base(self._places(pool))

    def _places(self, pool: str) -> tuple[str, ...]:
        images = self.config.pools[pool].images
        return (images,) if isinstance(images, str) else images

    def scan(self, pool: str) -> Iterator[ImageEntry]:
        """Ids are paths below the pool's folder without suffix; of a list the names of files where they differ."""
        return (ImageEntry(image_id, *found.facts) for image_id, found in self._share(pool))

    def image_path(self, pool: str, image_id: str) -> AnyPath:
        """The file that was listed."""
        # Threads that read side by side wait for the first of them to list the pool.
        with _LISTING:
            if pool not in self._by_id:
                # Of an image and its mask of one stem in one folder only the image has an id.
                self._by_id[pool] = dict(self._pictures(pool))
        found = self._by_id[pool].get(image_id)
        if found is None:
            raise BrokenImageError(image_id, "the file is missing")
        return self.root / found.path

    def passed_over(self, pool: str) -> list[str]:
        """See `Dataset.passed_over`; a list file names what is read."""
        return [] if any((self.root / place).is_file() for place in self._places(pool)) else super().passed_over(pool)

    def left_out(self, pool: str) -> int:
        """Those without a mask, or that a file does not name; a share is another pool's rest."""
        described = self.config.pools[pool]
        if not described.only_masked and described.only_listed is None:
            return 0
        return len(self._pictures(pool)) - len(self._kept(pool))

    def labelled(self, pool: str) -> bool:
        """Whether the pool is described with masks."""
        return self.config.pools[pool].masks is not None

    def label_path(self, pool: str, image_id: str) -> AnyPath:
        """The file that the pool's template gives."""
        self.image_path(pool, image_id)
        return self.root / self._mask(pool, self._by_id[pool][image_id])

    @cached_property
    def _by_id(self) -> dict[str, dict[str, _Found]]:
        return {}

    def _listed(self, pool: str) -> Iterator[tuple[str, _Found]]:
        places = self._places(pool)
        base = _base(places)
        seen: set[PurePosixPath] = set()
        for place in places:
            if (self.root / place).is_file():
                found = self._of_list(self.root / place, pool)
            else:
                found = [
                    (_stem(path.relative_to(base)), _Found(path, path.relative_to(base).parent, facts))
                    for path, facts in self._scanned(place)
                ]
            yield from (one for one in found if one[1].path not in seen)
            seen |= {one.path for _, one in found}

    def _scanned(self, place: str) -> Iterator[tuple[PurePosixPath, FileFacts]]:
        """The images of a folder or a glob, by their paths below the root."""
        folder = PurePosixPath(_fixed(place))
        if str(folder) == place.rstrip("/"):
            found = scan_tree(self.root / folder, IMAGE_SUFFIXES)
        else:
            inside = str(PurePosixPath(place).relative_to(folder))
            found = scan_glob(self.root / folder, inside, IMAGE_SUFFIXES)
        return ((folder / path, facts) for path, facts in found)

    def _share(self, pool: str) -> Iterator[tuple[str, _Found]]:
        """The listed images, or the part of them that the pool keeps; a mask that lies among them is no image."""
        kept, share = self._kept(pool), self.config.pools[pool].share
        return iter(kept if share is None else kept[round(share[0] * len(kept)) : round(share[1] * len(kept))])

    def _pictures(self, pool: str) -> list[tuple[str, _Found]]:
        """All that is listed, in the order of ids."""
        return sorted(((i, one) for i, one in self._listed(pool) if not self._is_mask(one.path)), key=_by_name)

    def _kept(self, pool: str) -> list[tuple[str, _Found]]:
        """What is listed, named and masked as the pool wants it."""
        described, kept = self.config.pools[pool], self._pictures(pool)
        if described.only_listed is not None:
            kept = self._named(kept, described.only_listed, f"dataset.pools.{pool}.only_listed")
        if described.only_masked:
            kept = [one for one in kept if (self.root / self._mask(pool, one[1])).exists()]
        return kept

    def _is_mask(self, path: PurePosixPath) -> bool:
        """Whether a file is a mask of one of the pools: by a template what it gives, else what lies in the folder."""
        return path in self._masks[0] or any(path.is_relative_to(folder) for folder in self._masks[1])

    @cached_property
    def _masks(self) -> tuple[frozenset[PurePosixPath], tuple[PurePosixPath, ...]]:
        """The masks of all pools that templates give, and the folders of those that lie in one of their own."""
        given: set[PurePosixPath] = set()
        folders: set[PurePosixPath] = set()
        for name, pool in self.config.pools.items():
            if pool.masks is None:
                continue
            if "{" in pool.masks:
                # A template that gives an image itself, as that of a mask among the images may, names no mask.
                masks = {image.path: self._mask(name, image) for _, image in self._listed(name)}
                given |= {mask for image, mask in masks.items() if mask != image}
            elif not any(_is_below(place, pool.masks) for place in self._places(name)):
                folders.add(PurePosixPath(pool.masks))
        return frozenset(given), tuple(folders)

    def _named(self, listed: list[tuple[str, _Found]], file: str, key: str) -> list[tuple[str, _Found]]:
        """The images that a text file names."""
        try:
            lines = (self.root / file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.root / file} cannot be read: {error}", key=key) from None
        names = [line.split("\t")[0].strip() for line in lines if line.strip() and not line.startswith("#")]
        known = _names_of(listed)
        chosen: set[int] = set()
        for name in names:
            # Lists of some data sets have an image and its mask, or its labels, in a line.
            first = name.split(" ")[0].lstrip("/")
            beside = str(PurePosixPath(file).parent / first)
            one = next((one for one in (name, first, beside) if one in known), None)
            indices = known[one] if one is not None else []
            if len(indices) != 1:
                which = "which is no image of the pool" if not indices else f"which {len(indices)} images are called"
                raise InputError(f"{self.root / file} names {name!r}, {which}", key=key)
            chosen.update(indices)
        return [one for index, one in enumerate(listed) if index in chosen]

    def _of_list(self, file: AnyPath, pool: str) -> list[tuple[str, _Found]]:
        """The images that a list file names, a path a line (of several columns the first)."""
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file} cannot be read: {error}", key=f"dataset.pools.{pool}.images") from None
        names = [line.split("\t")[0].strip() for line in lines if line.strip() and not line.startswith("#")]
        found = []
        for name in names:
            path = PurePosixPath(name if (self.root / name).exists() else name.split(" ")[0].lstrip("/"))
            path = path if path.suffix else _with_suffix(self.root, path)
            try:
                facts = FileFacts.of((self.root / path).stat())
            except OSError:
                raise InputError(
                    f"{file} names {name!r}, and {self.root / path} is not there",
                    key=f"dataset.pools.{pool}.images",
                ) from None
            found.append(_Found(path, PurePosixPath(), facts))
        stems = Counter(one.path.stem for one in found)
        unique = max(stems.values(), default=0) == 1
        return [(one.path.stem if unique else _stem(one.path), one) for one in found]

    def _mask(self, pool: str, image: _Found) -> PurePosixPath:
        """The mask of an image, below the root."""
        masks = self.config.pools[pool].masks
        assert masks is not None
        if "{" in masks:
            path = image.path
            fields = {"stem": path.stem, "name": path.name, "parent": str(path.parent), "inside": str(image.inside)}
            filled = _FIELD.sub(lambda found: fields[found[1]].removesuffix(found[2] or ""), masks)
            return PurePosixPath(os.path.normpath(filled))
        return _with_suffix(self.root, PurePosixPath(masks) / image.inside / image.path.stem)

    def _require_masks(self, pool: str) -> None:
        """Refuse a template that finds no mask of the first images: it is wrong, and not the files."""
        described = self.config.pools[pool]
        masks, listed = described.masks, sorted(self._listed(pool), key=_by_name)
        first = listed if described.only_masked else listed[:TRIED]
        # A generator: of many images whose first has a mask one is looked for.
        if listed and not any((self.root / self._mask(pool, image)).exists() for _, image in first):
            image = listed[0][1]
            looked_for = self.root / self._mask(pool, image)
            raise missing(repr(masks), image.path, looked_for, f"dataset.pools.{pool}.masks", masks)


def _by_name(listed: tuple[str, _Found]) -> str:
    return listed[0]


def _check_template(template: str | None, key: str) -> None:
    left = _FIELD.sub("", template or "")
    if "{" in left or "}" in left:
        allowed = ", ".join(f"{{{name}}}" for name in _FIELDS)
        what = re.findall(r"\{[^{}]*\}?|\}", left)[0]
        raise InputError(f"{what} is not known", key=key, value=template, allowed=f"allowed: {allowed}")


def _names_of(listed: Sequence[tuple[str, _Found]]) -> dict[str, list[int]]:
    """Places in a listing by what an image may be called: its id, or else its path, its file's name, or the stem."""
    known: dict[str, list[int]] = {image_id: [index] for index, (image_id, _) in enumerate(listed)}
    for called in (lambda one: str(one.path), lambda one: one.path.name, lambda one: one.path.stem):
        more: dict[str, list[int]] = {}
        for index, (_, one) in enumerate(listed):
            more.setdefault(called(one), []).append(index)
        known = more | known
    return known


def _base(places: Sequence[str]) -> PurePosixPath:
    """The folder that all places of a pool lie in, before their first wildcards."""
    fixed = [PurePosixPath(_fixed(place)).parts for place in places]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*fixed, strict=False))
    return PurePosixPath(*(parts[0] for parts in shared))


def _is_below(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(PurePosixPath(folder))


def _fixed(images: str) -> str:
    """The folders of a glob before its first wildcard; all of it where there is none."""
    parts = []
    for part in PurePosixPath(images).parts:
        if any(sign in part for sign in "*?["):
            break
        parts.append(part)
    return str(PurePosixPath(*parts))


def _stem(path: PurePosixPath) -> str:
    return str(path.with_suffix(""))


def _with_suffix(root: AnyPath, path: PurePosixPath) -> PurePosixPath:
    """The file with one of the suffixes of pictures; .png where there is none."""
    for suffix in (".png", *IMAGE_SUFFIXES):
        for written in (suffix, suffix.upper()):
            if (root / f"{path}{written}").exists():
                return PurePosixPath(f"{path}{written}")
    return PurePosixPath(f"{path}.png")
