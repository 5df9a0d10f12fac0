"""Classes of masks as a user describes them: names, the values or colours that stand for them, and what is ignored.

A description is a list of names (whose values count from 0), a mapping of values to names or to a class, a list of
classes (a name of null is ignored), or a file of one of these: YAML, JSON, or text with a class a line (``NAME``,
``VALUE NAME``, ``R G B NAME``, ``NAME R G B``, or CVAT's ``NAME:R,G,B::``).
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from workloads.bucket_paths import AnyPath, any_path
from workloads.configs.base import HashedConfig
from workloads.datasets.base import UInt8Array, distinct_palette, map_values, palette_of, value_table
from workloads.errors import InputError
from workloads.ignored import IGNORE_CLASS

MAX_CLASSES = 255
_HEX = re.compile(r"#?([0-9a-fA-F]{6})")


def _colour(value: Any) -> Any:
    """A colour written as ``#rrggbb`` as three numbers; anything else is left to the type."""
    found = _HEX.fullmatch(value) if isinstance(value, str) else None
    return tuple(bytes.fromhex(found[1])) if found else value


Sample = Annotated[int, Field(ge=0, le=255)]
Colour = Annotated[tuple[Sample, Sample, Sample], BeforeValidator(_colour)]
Value = Annotated[int, Field(ge=0, le=65535)]


class ClassConfig(HashedConfig, tag="ClassConfig"):
    """A class: its name, and the values or the colour that stand for it in masks."""

    name: str | None = Field(min_length=1, description="what it is called; null: its pixels count for nothing")
    values: tuple[Value, ...] = Field((), description="values of indexed masks; null: its place, or its key")
    colour: Colour | None = Field(None, description="colour of RGB masks, and of pictures: [r, g, b] or '#rrggbb'")


Named = str | ClassConfig | None
Classes = tuple[Named, ...] | dict[Value, Named] | str
Ignored = tuple[Value | Colour, ...]


@dataclass(frozen=True)
class ClassTable:
    """What stands for which class in masks.

    Attributes
    ----------
    names : of the M classes.
    palette : uint8 (M, 3), their colours.
    values : int16 (65536,), from the value of an indexed mask to the class, 255 ignored, -1 not allowed.
    colours : from r << 16 | g << 8 | b of an RGB mask to the class, or 255.
    """

    names: tuple[str, ...]
    palette: UInt8Array
    values: npt.NDArray[np.int16]
    colours: Mapping[int, int]

    @staticmethod
    def of(classes: Sequence[ClassConfig], ignored: Ignored) -> "ClassTable":
        """The table of complete classes (each with values or a colour).

        Raises
        ------
        InputError
            A value, a colour or a name stands for two things, or there are too many classes.
        """
        nameless = [one for one in classes if one.name is None]
        more: Ignored = tuple(value for one in nameless for value in one.values)
        more += tuple(one.colour for one in nameless if one.colour is not None)
        ignored = tuple(dict.fromkeys((*ignored, *more)))
        classes = [one for one in classes if one.name is not None]
        if len(classes) > MAX_CLASSES:
            raise InputError(
                f"{len(classes)} classes", key="dataset.classes", allowed=f"allowed: at most {MAX_CLASSES}"
            )
        values: dict[int, int] = {}
        colours: dict[int, int] = {}
        owners: dict[Any, str] = {}
        for index, one in enumerate(classes):
            for sign, table, key in [(f"value {value}", values, value) for value in one.values] + (
                [(f"colour {list(one.colour)}", colours, _packed(one.colour))] if one.colour else []
            ):
                _own(owners, sign, str(one.name))
                table[key] = index
            _own(owners, f"name {one.name!r}", f"class {index}")
        for item in ignored:
            if isinstance(item, int):
                _own(owners, f"value {item}", "ignore")
                values[item] = IGNORE_CLASS
            else:
                _own(owners, f"colour {list(item)}", "ignore")
                colours[_packed(item)] = IGNORE_CLASS
        given = palette_of(one.colour or (0, 0, 0) for one in classes)
        has = np.array([one.colour is not None for one in classes], dtype=bool).reshape(-1, 1)
        palette = np.where(has, given, distinct_palette(len(classes)))
        return ClassTable(tuple(str(one.name) for one in classes), palette, value_table(values), colours)

    @property
    def by_colour_alone(self) -> bool:
        """Whether no value stands for anything, so that an indexed mask means the colours of its palette."""
        return bool(self.colours) and bool((self.values < 0).all())

    def of_values(self, values: npt.NDArray[np.uint16], where: str) -> UInt8Array:
        """Classes of an indexed mask.

        Raises
        ------
        InputError
            A value that stands for nothing.
        """
        return map_values(values, self.values, where)

    def of_colours(self, pixels: UInt8Array, where: str) -> UInt8Array:
        """Classes of an RGB mask uint8 (H, W, 3).

        Raises
        ------
        InputError
            A colour that stands for nothing.
        """
        wide = pixels.astype(np.int32)
        packed = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
        found, places = np.unique(packed, return_inverse=True)
        labels = np.array([self.colours.get(int(colour), -1) for colour in found])
        if (labels < 0).any():
            unknown = [_shown(int(colour)) for colour in found[labels < 0]]
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            allowed = ", ".join(f"{_shown(colour)} {self._said(index)}" for colour, index in self.colours.items())
            raise InputError(
                f"{where}: colours {', '.join(unknown[:5])}{more} stand for no class", allowed=f"allowed: {allowed}"
            )
        return labels.astype(np.uint8)[places].reshape(packed.shape)

    def _said(self, index: int) -> str:
        return "(ignored)" if index == IGNORE_CLASS else f"({self.names[index]})"


def read_classes(described: Classes, root: AnyPath) -> list[ClassConfig]:
    """The classes of a description, each with what stands for it; a file is looked for below `root` first.

    Raises
    ------
    InputError
        The file cannot be read, or is no description.
    """
    if isinstance(described, str):
        described = _from_file(described, root)
    if isinstance(described, Mapping):
        return _grouped((value, _named(one)) for value, one in described.items())
    return [
        one if one.values or one.colour else one.model_copy(update={"values": (index,)})
        for index, one in enumerate(map(_named, described))
    ]


def _grouped(described: Iterable[tuple[int, ClassConfig]]) -> list[ClassConfig]:
    """One class a name, with all values that it was given for."""
    found: dict[str | None, ClassConfig] = {}
    for value, one in described:
        before = found.get(one.name, one)
        values = dict.fromkeys((*before.values, *(one.values or (value,))))
        found[one.name] = before.model_copy(update={"values": tuple(values), "colour": before.colour or one.colour})
    return list(found.values())


def _named(one: Named) -> ClassConfig:
    return one if isinstance(one, ClassConfig) else ClassConfig(name=one)


def _from_file(name: str, root: AnyPath) -> tuple[Named, ...] | dict[int, Named]:
    places = [root / name, any_path(name, "dataset.classes")]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        looked = " and ".join(dict.fromkeys(str(place) for place in places))
        raise InputError(f"file {name!r} is not there; looked for {looked}", key="dataset.classes")
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix.lower() == ".json" else None
        if path.suffix.lower() in (".yaml", ".yml"):
            document = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {error}", key="dataset.classes") from None
    if document is None:
        return _from_lines(text, path)
    if isinstance(document, dict) and set(document) == {"classes"}:
        document = document["classes"]
    adapter: TypeAdapter[Any] = TypeAdapter(tuple[Named, ...] | dict[Value, Named])
    try:
        classes: tuple[Named, ...] | dict[int, Named] = adapter.validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(
            f"{path}: {first['input']!r} is not allowed",
            key="dataset.classes",
            allowed="give a list of names, or a mapping of values to names or to {name, values, colour}",
        ) from None
    return classes


def _from_lines(text: str, path: AnyPath) -> tuple[Named, ...] | dict[int, Named]:
    listed: list[Named] = []
    by_value: dict[int, Named] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].replace(":", " ").replace(",", " ").split()
        if not words:
            continue
        numbers = [word.isdecimal() for word in words]
        match numbers:
            case [True, True, True, False, *_]:
                listed.append(_coloured(" ".join(words[3:]), words[:3], path, number))
            case [True, False, *_]:
                by_value[int(words[0])] = " ".join(words[1:])
            case [False, *_, True, True, True]:
                listed.append(_coloured(" ".join(words[:-3]), words[-3:], path, number))
            case _:
                listed.append(" ".join(words))
    if by_value and listed:
        raise InputError(f"{path}: some lines begin with a value and some do not", key="dataset.classes")
    return by_value or tuple(listed)


def _coloured(name: str, colour: Sequence[str], path: AnyPath, number: int) -> ClassConfig:
    try:
        return ClassConfig.model_validate({"name": name, "colour": [int(word) for word in colour]})
    except ValidationError:
        raise InputError(
            f"{path}, line {number}: {' '.join(colour)} is no colour",
            key="dataset.classes",
            allowed="allowed: 0 to 255",
        ) from None


def _own(owners: dict[Any, str], sign: str, owner: str) -> None:
    if owners.setdefault(sign, owner) != owner:
        raise InputError(f"{sign} stands for {owners[sign]!r} and for {owner!r}", key="dataset.classes")


def _packed(colour: tuple[int, int, int]) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def _shown(packed: int) -> str:
    return f"[{packed >> 16}, {packed >> 8 & 255}, {packed & 255}]"
