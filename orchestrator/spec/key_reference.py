"""Every key of an experiment file, from the types that read it."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator.spec.entries import Role
from orchestrator.spec.experiment import TABLE_KEYS, ExperimentEntry
from workloads.configs.base import alternatives_of, models_of

# What makes cells of a file, and is not part of any cell.
_TABLE = {
    "extends": "experiment file that this one is laid over",
    "title": "title of the table",
    "layout": "how the report lays the table out",
    "size": "which of `sizes` the experiment is run at",
    "sizes": "keys to set by size",
    "rows": "list of {row: NAME, set: {key: value}}, one row of the table each",
    "columns": "list of {column: NAME, set: {key: value}}, one column of the table each",
    "grid": "{key: [values]}: their product; a list of such mappings: their union",
    "notes": "sentences said of all cells",
}


# Stands in a key for a name that is the user's to give.
_A_NAME = "NAME"


@dataclass(frozen=True)
class Key:
    """A key that may be written: its type and default in words, what it means, and whose it is where several differ."""

    key: str
    kind: str
    default: str
    meaning: str
    owner: str = ""


def experiment_keys(prefix: str = "") -> list[Key]:
    """Every key that begins so, or all, sections before what is in them."""
    table = [Key(name, "", "", _TABLE[name]) for name in TABLE_KEYS]
    found = [*_below(ExperimentEntry, ""), *table]
    return [one for one in found if _begins(one.key.split("."), prefix.split(".") if prefix else [])]


def _begins(key: list[str], prefix: list[str]) -> bool:
    return len(key) >= len(prefix) and all(part in (given, _A_NAME) for part, given in zip(key, prefix, strict=False))


def _below(model: type[BaseModel], prefix: str, owner: str = "") -> Iterator[Key]:
    for name, field in model.model_fields.items():
        inner = models_of(field.annotation)
        inline = Role.INLINE in field.metadata
        below = prefix if inline else f"{prefix}{name}."
        if not inline:
            yield Key(f"{prefix}{name}", _kind(field.annotation), _default(field), field.description or "", owner)
        for section in inner:
            yield from _below(section, below, _tag(section) if len(inner) > 1 else "" if not inline else owner)
        for one in alternatives_of(field.annotation):
            # Sections by names that are the user's.
            if get_origin(one) is dict:
                for section in models_of(get_args(one)[1]):
                    yield from _below(section, f"{below}{_A_NAME}.", owner)


def _tag(model: type[BaseModel]) -> str:
    """What chooses this one of several alternatives, as it is written: ``name: camvid``."""
    for name, field in model.model_fields.items():
        options = get_args(field.annotation)
        if get_origin(field.annotation) is Literal and len(options) == 1:
            return f"{name}: {options[0]}"
    return ""


def _kind(annotation: Any) -> str:
    words: dict[str, None] = {}
    for one in alternatives_of(annotation):
        origin, parts = get_origin(one), get_args(one)
        if origin is Literal:
            words |= dict.fromkeys(str(part) for part in parts)
        elif one is NoneType:
            words["null"] = None
        elif isinstance(one, type) and issubclass(one, BaseModel):
            words["section"] = None
        elif origin in (tuple, list):
            each = ", ".join(_kind(part) for part in parts if part is not Ellipsis)
            words[f"[{each}{', ...' if Ellipsis in parts else ''}]"] = None
        elif origin is dict:
            words[f"{{{_kind(parts[0])}: {_kind(parts[1])}}}"] = None
        else:
            words[
                {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}.get(
                    getattr(one, "__name__", ""), getattr(one, "__name__", str(one))
                )
            ] = None
    return " | ".join(words)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(must be given)"
    value = field.default if field.default_factory is None else None
    if isinstance(value, BaseModel):
        # What a section is where none of it is given may differ from what is left out of one that is.
        plain = type(value).model_fields
        own = {name: each for name, each in value if each != plain[name].get_default(call_default_factory=True)}
        given = ", ".join(f"{name}: {_written(value)}" for name, value in own.items())
        return f"{{{given}}} where nothing below is given" if own else ""
    if field.default_factory is not None:
        return ""
    return _written(value)


def _written(value: Any) -> str:
    """A value as it would be written in a file."""
    match value:
        case None:
            return "null"
        case BaseModel():
            return f"{{{', '.join(f'{name}: {_written(each)}' for name, each in value)}}}"
        case bool():
            return str(value).lower()
        case tuple() | list():
            return f"[{', '.join(map(str, value))}]"
        case _:
            return str(value)
