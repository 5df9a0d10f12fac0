"""The grid: which cells an experiment has.

The model: `grid` maps dotted keys to lists of values and means their product; a list of such mappings means their
union, so that rows which share no columns need no empty cells. A cell is the base with the grid's values laid over
it.
"""

import copy
import itertools
from dataclasses import dataclass
from typing import Any

from orchestrator.keys import digest
from orchestrator.spec import ExperimentEntry, parse_entry, set_key
from workloads.errors import InputError


@dataclass(frozen=True)
class Cell:
    """One cell: the values that tell it from the others, and its whole configuration."""

    values: dict[str, Any]
    entry: ExperimentEntry


def expand(document: dict[str, Any]) -> list[Cell]:
    """All cells of an experiment document, in the order in which they are written; equal cells are one.

    Raises:
        InputError: the grid is not a mapping of lists, or a cell is not valid (all wrong cells are reported together).
    """
    base = {key: value for key, value in document.items() if key != "grid"}
    grid = document.get("grid") or {}
    products = grid if isinstance(grid, list) else [grid]
    cells: dict[str, Cell] = {}
    problems: dict[str, None] = {}
    for product in products:
        for values in _product(product):
            filled = copy.deepcopy(base)
            for key, value in values.items():
                set_key(filled, key, copy.deepcopy(value))
            try:
                # Validated first: what is no value of a key (a date, a NaN) has no digest either.
                entry = parse_entry(filled)
                cells.setdefault(digest(values), Cell(values, entry))
            except InputError as error:
                problems |= dict.fromkeys(str(error).splitlines())
    if problems:
        raise InputError("\n".join(problems))
    return list(cells.values())


def _product(product: Any) -> list[dict[str, Any]]:
    if not isinstance(product, dict):
        raise InputError(f"grid must be a mapping of keys to lists (or a list of such mappings), got {product!r}")
    for key, values in product.items():
        if not isinstance(key, str) or key.split(".")[0] in ("name", "compute", "grid"):
            allowed = ", ".join(name for name in ExperimentEntry.model_fields if name not in ("name", "compute"))
            raise InputError(f"grid.{key} cannot vary between cells; allowed are {allowed} and keys below them")
        if not isinstance(values, list) or not values:
            raise InputError(f"grid.{key}: {values!r} is not allowed; give a list of at least one value")
    return [dict(zip(product, chosen, strict=True)) for chosen in itertools.product(*product.values())]
