"""The cells of an experiment: rows x columns x grid.

The model: `grid` maps dotted keys to lists of values and means their product; a list of such mappings means their
union, so that values which share no keys need no empty cells. A table's rows and columns are named sets of keys, and a
row may have a grid of its own. A cell is the base with its row's, its column's and its grid's values merged into it; no
key comes from two of them. The failure this guards against: a cell that is computed, and shown, twice.
"""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.ledger.keys import digest
from orchestrator.spec.experiment import TABLE_KEYS, ExperimentEntry, parse_entry
from orchestrator.spec.merging import set_key
from orchestrator.spec.rows import Part, printed, rows_and_columns
from workloads.errors import GroupedInputError, InputError


@dataclass(frozen=True)
class Cell:
    """One cell: the values that tell it from the others, and its whole configuration.

    `row` and `column` are None where a table has none; `paper` is what the paper prints for this data set, row and
    column; `notes` say where the cell departs from its name. None of the four takes part in a key.
    """

    values: dict[str, Any]
    entry: ExperimentEntry
    row: str | None = None
    column: str | None = None
    paper: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def expand(document: dict[str, Any]) -> list[Cell]:
    """All cells of an experiment document, in the order in which they are written.

    Cells of one configuration are one; a named row or column never gives way to another.

    Raises:
        InputError: the grid is not a mapping of lists, or a cell is not valid (all wrong cells are reported together).
    """
    base = {key: value for key, value in document.items() if key not in TABLE_KEYS}
    notes = _shown(document)
    cells: dict[str, Cell] = {}
    problems: list[InputError] = []
    rows, columns = rows_and_columns(document)
    for row, column in itertools.product(rows, columns):
        for values in _values(row, column, document.get("grid")):
            filled = copy.deepcopy(base)
            for key, value in values.items():
                set_key(filled, key, copy.deepcopy(value))
            try:
                # Validated first: what is no value of a key (a date, a NaN) has no digest either.
                entry = parse_entry(filled)
            except InputError as error:
                problems.append(error)
                continue
            identity = digest([row.name, column.name, entry.model_dump(mode="json")])
            paper = printed(row, column, entry.dataset.config.name)
            said = (*notes, *row.notes, *column.notes)
            cells.setdefault(identity, Cell(values, entry, row.name, column.name, paper, tuple(dict.fromkeys(said))))
    if problems:
        raise GroupedInputError(problems)
    return list(cells.values())


def _shown(document: Mapping[str, Any]) -> list[str]:
    """The notes on all cells; title and layout are checked with them."""
    for key in ("title", "layout"):
        if not isinstance(document.get(key), str | None):
            raise InputError(key=key, value=document[key], allowed="give a text")
    notes = document.get("notes") or []
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise InputError(key="notes", value=notes, allowed="give a list of sentences")
    return notes


def _values(row: Part, column: Part, grid: Any) -> list[dict[str, Any]]:
    """The values of all cells of a row and a column."""
    for place, part in ((f"row {row.name!r}", row), (f"column {column.name!r}", column)):
        for key in part.values:
            _require_cell_key(place, key)
    made = []
    for own, common in itertools.product(_products(row.grid), _products(grid)):
        parts = [(f"row {row.name!r}", row.values), (f"column {column.name!r}", column.values)]
        parts += [(f"the grid of row {row.name!r}", own), ("the grid", common)]
        made.append(_joined(parts))
    return made


def _joined(parts: list[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for place, part in parts:
        for key, value in part.items():
            if key in origin:
                both = f"{{key}} is set by {origin[key]} and by {place}"
                raise InputError(both, key=key, allowed="a key varies in one place")
            origin[key] = place
            values[key] = value
    return values


def _products(grid: Any) -> list[dict[str, Any]]:
    grids = grid if isinstance(grid, list) and grid else [grid or {}]
    return [values for product in grids for values in _product(product)]


def _product(product: Any) -> list[dict[str, Any]]:
    if not isinstance(product, dict):
        message = f"{{key}} must be a mapping of keys to lists (or a list of such mappings), got {product!r}"
        raise InputError(message, key="grid", value=product)
    for key, values in product.items():
        _require_cell_key("grid", key)
        if not isinstance(values, list) or not values:
            raise InputError(key=f"grid.{key}", value=values, allowed="give a list of at least one value")
    return [dict(zip(product, chosen, strict=True)) for chosen in itertools.product(*product.values())]


def _require_cell_key(place: str, key: Any) -> None:
    common = ("name", "compute", "weights")
    if not isinstance(key, str) or key.split(".")[0] in (*common, *TABLE_KEYS):
        names = ", ".join(name for name in ExperimentEntry.model_fields if name not in common)
        allowed = f"allowed are {names} and keys below them"
        raise InputError("{key} cannot vary between cells", key=f"{place}.{key}", allowed=allowed)
