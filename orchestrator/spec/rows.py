"""Rows and columns: the cells of a table that share no keys, and what the paper prints for them.

The model: a row (or a column) is a name and a set of dotted keys, merged into the base; each size may change more.
What the paper prints is looked up by data set, row and column, and decides nothing: it is not part of any key. The
failure this guards against: a number set beside the wrong entry of the paper's table.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workloads.datasets import DATASETS
from workloads.errors import InputError

# What the paper's tables print, as the results file names it.
PAPER_METRICS = ("pmiou", "miou")
_BOUND = re.compile(r"<\d+(\.\d+)?")


@dataclass(frozen=True)
class Part:
    """A row or a column: its name (None where a table has none), what it sets, and what is said about it."""

    name: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    grid: Any = None
    paper: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def sized_parts(document: dict[str, Any], size: str | None, sizes: tuple[str, ...]) -> dict[str, Any]:
    """`rows` and `columns` of a document as they are at a size; empty where it has neither.

    Raises:
        InputError: rows or columns that are not a list of mappings, or an unknown key in one.
    """
    kinds = [(kind, plural) for kind, plural in (("row", "rows"), ("column", "columns")) if document.get(plural)]
    return {
        plural: [
            _sized(part, f"{plural}.{index}", kind, size, sizes)
            for index, part in enumerate(_listed(document[plural], kind, plural))
        ]
        for kind, plural in kinds
    }


def rows_and_columns(document: Mapping[str, Any]) -> tuple[list[Part], list[Part]]:
    """The rows and the columns of a document of one size; one part without a name where there are none.

    Raises:
        InputError: a name that is missing or given twice, or figures of the paper that are none.
    """
    columns = _parts(document.get("columns") or [], "column", "columns")
    rows = _parts(document.get("rows") or [], "row", "rows")
    names = [column.name for column in columns if column.name is not None]
    for row in rows:
        _check_paper(row, names)
    return rows or [Part()], columns or [Part()]


def printed(row: Part, column: Part, dataset: str) -> dict[str, Any] | None:
    """What the paper prints for a cell of that data set; None where it prints nothing."""
    figures = row.paper.get(dataset)
    if figures is not None and column.name is not None:
        figures = figures.get(column.name)
    return dict(figures) if figures else None


def _listed(parts: Any, kind: str, plural: str) -> list[dict[str, Any]]:
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise InputError(key=plural, value=parts, allowed=f"give a list of mappings with the keys {kind} and set")
    return parts


def _sized(part: dict[str, Any], place: str, kind: str, size: str | None, sizes: tuple[str, ...]) -> dict[str, Any]:
    own = ("column", "set", "notes") if kind == "column" else ("row", "set", "grid", "paper", "notes")
    # `paper` is what the paper prints, whatever sizes there are.
    own_sizes = [name for name in sizes if name not in ("row", "column", "set", "grid", "paper", "notes")]
    for key, value in part.items():
        if key not in (*own, *own_sizes):
            near = difflib.get_close_matches(str(key), (*own, *own_sizes), n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join((*own, *own_sizes))}"
            raise InputError("unknown key {key}", key=f"{place}.{key}", value=value, allowed=hint)
    values = _mapping(part.get("set"), f"{place}.set")
    notes = _notes(part.get("notes"), f"{place}.notes")
    if size in own_sizes:
        changes = dict(_mapping(part.get(size), f"{place}.{size}"))
        notes = [*notes, *_notes(changes.pop("notes", None), f"{place}.{size}.notes")]
        values = {**values, **changes}
    kept = {key: value for key, value in part.items() if key in own}
    return kept | {"set": values} | ({"notes": notes} if notes else {})


def _parts(parts: Any, kind: str, plural: str) -> list[Part]:
    made: dict[str, Part] = {}
    for index, part in enumerate(_listed(parts, kind, plural)):
        place = f"{plural}.{index}"
        name = part.get(kind)
        if isinstance(name, bool) or not isinstance(name, str | int | float) or name == "":
            raise InputError(key=f"{place}.{kind}", value=name, allowed=f"give the name of the {kind}")
        if str(name) in made:
            raise InputError(f"{name!r} is the name of another {kind}, too", key=f"{place}.{kind}", value=name)
        values = _mapping(part.get("set"), f"{place}.set")
        paper = _mapping(part.get("paper"), f"{place}.paper")
        notes = tuple(_notes(part.get("notes"), f"{place}.notes"))
        made[str(name)] = Part(str(name), values, part.get("grid"), paper, notes)
    return list(made.values())


def _check_paper(row: Part, columns: list[str]) -> None:
    place = f"row {row.name!r}: paper"
    for dataset, figures in row.paper.items():
        if dataset not in DATASETS:
            raise _unknown(place, f"data set {dataset!r} is not known", DATASETS)
        inner = _mapping(figures, f"{place}.{dataset}")
        for column in inner if columns else ():
            if column not in columns:
                raise _unknown(f"{place}.{dataset}", f"{column!r} is no column", columns)
        for each in inner.values() if columns else [inner]:
            for metric, value in _mapping(each, f"{place}.{dataset}").items():
                if metric not in PAPER_METRICS:
                    raise _unknown(f"{place}.{dataset}", f"{metric!r} is not known", PAPER_METRICS)
                if isinstance(value, bool) or not (isinstance(value, int | float) or _BOUND.fullmatch(str(value))):
                    raise InputError(key=f"{place}.{dataset}.{metric}", value=value, allowed="give a number, or '<1'")


def _unknown(place: str, message: str, allowed: Iterable[str]) -> InputError:
    return InputError(message, key=place, allowed=f"allowed: {', '.join(allowed)}")


def _mapping(value: Any, place: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(key=place, value=value, allowed="give a mapping of keys")
    return value


def _notes(value: Any, place: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(note, str) for note in value):
        raise InputError(key=place, value=value, allowed="give a list of sentences")
    return value
