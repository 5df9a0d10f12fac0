"""Any folders of images and masks, by description.

Pools have the names that the user gives them. A pool's images are a folder (at any depth), a glob or a list file; its
masks, where it has some, are a folder of the same layout or a template over the image's path. An image's id is its path
below the pool's folder without its suffix. Masks are indexed, with or without a palette, or RGB (see `classes`).
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from workloads.configs.base import HashedConfig
from workloads.datasets.base import ImageEntry, Json, UInt8Array
from workloads.datasets.classes import Classes, ClassTable, Ignored, read_classes
from workloads.datasets.decode import IMAGE_SUFFIXES, decode_image, decode_labels, image_mode, label_doubts
from workloads.datasets.files import FileDataset, FileFacts, scan_tree
from workloads.errors import BrokenImageError, InputError

_FIELDS = ("stem", "name", "parent", "inside")
_COLOURED = ("RGB", "RGBA")
# {stem-_left} is the stem without the _left that it ends in.
_FIELD = re.compile(rf"\{{({'|'.join(_FIELDS)})(?:-([^{{}}]*))?\}}")
_TRIED = 20
_LISTED = 3


class PoolConfig(HashedConfig, tag="MaskPoolConfig"):
    """The images of a pool, and their masks."""

    images: str = Field(min_length=1, description="folder, glob (images/*/left.png) or list file, below the root")
    masks: str | None = Field(
        None,
        min_length=1,
        description="folder of the same layout, or a template below the root: {stem} and {name} of the image's file, "
        "{parent} its folder below the root, {inside} its folder below the pool's; {stem-_left} leaves out an end",
    )

    share: tuple[float, float] | None = Field(
        None, description="part of the images in the order of their ids, e.g. [0.0, 0.8]; null for all"
    )

    @model_validator(mode="after")
    def _a_part(self) -> Self:
        if self.share is not None and not 0 <= self.share[0] < self.share[1] <= 1:
            allowed = "allowed: two numbers of 0 to 1, the first below the second"
            raise InputError(key="share", value=list(self.share), allowed=allowed)
        return self


class MasksConfig(HashedConfig, tag="MasksConfig"):
    """Folders of images and masks."""

    name: Literal["masks"] = Field("masks", description="any folders of images and masks, by description")
    pools: dict[str, PoolConfig] = Field(min_length=1, description="pools by the names that they are given here")
    classes: Classes | None = Field(
        None, description="names in the order of their values, {value: name}, {name, values, colour}, or a file of them"
    )
    ignore: Ignored = Field((), description="values, or colours, of pixels that count for nothing")
    pool: str = Field("train", description="pool whose images are labelled")
    val: str = Field("val", description="pool with masks on which scores are measured")

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


@dataclass(frozen=True)
class _Found:
    """An image of a pool: its file below the root, and its folder below the pool's."""

    path: PurePosixPath
    inside: PurePosixPath
    facts: FileFacts


class Masks(FileDataset):
    """Images and masks below ``root``; see the module's docstring.

    Raises
    ------
    InputError
        ``root`` is missing, the description is not complete, or its masks are not there.
    """

    name = "masks"

    def __init__(self, root: Path, config: MasksConfig) -> None:
        super().__init__(root)
        self.config = config
        self.pools = tuple(config.pools)
        for name, pool in config.pools.items():
            _check_template(pool.masks, f"dataset.pools.{name}.masks")
        classes = read_classes(config.classes, root) if config.classes is not None else []
        self._table = ClassTable.of(classes, config.ignore)
        self.classes = self._table.names
        self.palette = self._table.palette
        labelled = [name for name in self.pools if self.labelled(name)]
        for name in labelled:
            self._require_masks(name)
        if labelled and not classes:
            raise InputError(
                "is missing", key="dataset.classes", allowed=f"pool {labelled[0]} has masks: give names or a file"
            )

    def image_folder(self, pool: str) -> Path:
        """The pool's folder, or the part of its glob before the first wildcard."""
        return self.root / _fixed(self.config.pools[pool].images)

    def scan(self, pool: str) -> Iterator[ImageEntry]:
        """Ids are paths below the pool's folder without suffix; of a list the names of files where they differ."""
        return (ImageEntry(image_id, *found.facts) for image_id, found in self._share(pool))

    def image_path(self, pool: str, image_id: str) -> Path:
        """The file that was listed."""
        found = self._by_id.setdefault(pool, {})
        if not found:
            found.update(self._listed(pool))
        if image_id not in found:
            raise BrokenImageError(image_id, "the file is missing")
        return self.root / found[image_id].path

    def labelled(self, pool: str) -> bool:
        """Whether the pool is described with masks."""
        return self.config.pools[pool].masks is not None

    def label_path(self, pool: str, image_id: str) -> Path:
        """The file that the pool's template gives."""
        self.image_path(pool, image_id)
        return self.root / self._mask(pool, self._by_id[pool][image_id])

    def decode_ground_truth(self, data: bytes, path: Path) -> UInt8Array:
        """Classes of an indexed or an RGB mask."""
        mode = image_mode(data)
        if mode in _COLOURED or (mode == "P" and self._table.by_colour_alone):
            try:
                return self._table.of_colours(decode_image(data, str(path)), str(path))
            except BrokenImageError as error:
                raise InputError(f"{path}: {error.reason}") from None
        return self._table.of_values(decode_labels(data, str(path)), str(path))

    def ground_truth_doubts(self, pool: str, image_id: str) -> tuple[str, ...]:
        """As of all files of values; colours have no values to look odd."""
        data = self._read_labels(self.label_path(pool, image_id), image_id)
        if image_mode(data) in _COLOURED:
            return label_doubts(data, np.zeros((1, 1), np.uint16))
        return super().ground_truth_doubts(pool, image_id)

    def identity(self) -> dict[str, Json]:
        """The name, and what stands for which class; where files lie is no part of it."""
        table = self._table
        values: list[Json] = [[int(value), int(table.values[value])] for value in np.flatnonzero(table.values >= 0)]
        colours: list[Json] = [[colour, index] for colour, index in sorted(table.colours.items())]
        return {"name": self.name, "classes": list(self.classes), "values": values, "colours": colours}

    @cached_property
    def _by_id(self) -> dict[str, dict[str, _Found]]:
        return {}

    def _listed(self, pool: str) -> Iterator[tuple[str, _Found]]:
        images = self.config.pools[pool].images
        if (self.root / images).is_file():
            return iter(self._of_list(self.root / images, pool))
        base = PurePosixPath(_fixed(images))
        if str(base) == images.rstrip("/"):
            paths = scan_tree(self.root / base, IMAGE_SUFFIXES)
        else:
            paths = self._of_glob(images, base)
        return ((_stem(path), _Found(base / path, path.parent, facts)) for path, facts in paths)

    def _share(self, pool: str) -> Iterator[tuple[str, _Found]]:
        """The listed images, or the part of them that the pool keeps; a mask that lies among them is no image."""
        share, template = self.config.pools[pool].share, self.config.pools[pool].masks or ""
        listed = sorted(self._listed(pool), key=lambda one: one[0])
        if "{" in template:
            masks = {self._mask(pool, image) for _, image in listed}
            listed = [one for one in listed if one[1].path not in masks]
        if share is None:
            return iter(listed)
        return iter(listed[round(share[0] * len(listed)) : round(share[1] * len(listed))])

    def _of_glob(self, pattern: str, base: PurePosixPath) -> Iterator[tuple[PurePosixPath, FileFacts]]:
        for path in self.root.glob(pattern):
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file():
                yield PurePosixPath(path.relative_to(self.root / base).as_posix()), FileFacts.of(path.stat())

    def _of_list(self, file: Path, pool: str) -> list[tuple[str, _Found]]:
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
        tried = []
        for _, image in sorted(self._listed(pool))[:_TRIED]:
            mask = self._mask(pool, image)
            if (self.root / mask).exists():
                return
            tried.append((image.path, mask))
        if tried:
            image_path, mask = tried[0]
            raise InputError(
                f"{self.config.pools[pool].masks!r} gives {mask} for {image_path}, which is not there",
                key=f"dataset.pools.{pool}.masks",
                value=self.config.pools[pool].masks,
                allowed=_present(self.root / mask.parent),
            )


def _check_template(template: str | None, key: str) -> None:
    left = _FIELD.sub("", template or "")
    if "{" in left or "}" in left:
        allowed = ", ".join(f"{{{name}}}" for name in _FIELDS)
        what = re.findall(r"\{[^{}]*\}?|\}", left)[0]
        raise InputError(f"{what} is not known", key=key, value=template, allowed=f"allowed: {allowed}")


def _present(folder: Path) -> str:
    """What is in a folder where something else was looked for."""
    while not folder.is_dir():
        folder = folder.parent
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{folder} holds {', '.join(names[:_LISTED]) or 'nothing'}{more}"


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


def _with_suffix(root: Path, path: PurePosixPath) -> PurePosixPath:
    """The file with one of the suffixes of pictures; .png where there is none."""
    for suffix in (".png", *IMAGE_SUFFIXES):
        for written in (suffix, suffix.upper()):
            if (root / f"{path}{written}").exists():
                return PurePosixPath(f"{path}{written}")
    return PurePosixPath(f"{path}.png")
