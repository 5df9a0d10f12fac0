"""What cells are called, and which of them are repeats of one setting.

A cell is told from others by its row, its column and the keys that vary beside them. Seeds only tell repeats apart:
cells that differ in nothing else are one setting.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from workloads.redaction import redacted


class Named(Protocol):
    """A cell, planned or with its results."""

    @property
    def values(self) -> Mapping[str, Any]:
        """The keys that tell the cell from others."""

    @property
    def row(self) -> str | None:
        """The name of its row."""

    @property
    def column(self) -> str | None:
        """The name of its column."""


Some = TypeVar("Some", bound=Named)


def is_seed(key: str) -> bool:
    """Whether a key only tells repeats apart."""
    return key.rsplit(".", 1)[-1] == "seed"


def without_seeds(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are no seeds."""
    return {key: value for key, value in values.items() if not is_seed(key)}


def repeats(cells: Iterable[Some]) -> list[list[Some]]:
    """The cells in groups that differ only in seeds, in the order in which they come."""
    groups: dict[str, list[Some]] = {}
    for cell in cells:
        setting = [cell.row, cell.column, without_seeds(cell.values)]
        groups.setdefault(json.dumps(setting, sort_keys=True, default=str), []).append(cell)
    return list(groups.values())


def shown(value: Any) -> str:
    """A value of the grid for a reader: of a mapping its values, of a path its name, of a URL no credentials."""
    if isinstance(value, Mapping):
        return " ".join(shown(inner) for inner in value.values())
    if isinstance(value, list):
        return ", ".join(shown(inner) for inner in value)
    return "none" if value is None else redacted(str(value)).rsplit("/", 1)[-1]


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Every key's last part, and as many more as tell it from the others: ``seed`` and ``pretrain.seed``."""
    names = dict.fromkeys(keys)
    parts = {key: key.split(".") for key in names}
    short = {}
    for key, own in parts.items():
        lengths = range(1, len(own) + 1)
        alike = [other for name, other in parts.items() if name != key]
        length = next((n for n in lengths if all(other[-n:] != own[-n:] for other in alike)), len(own))
        short[key] = ".".join(own[-length:])
    return short


def described(values: Mapping[str, Any], keys: Iterable[str]) -> str:
    """The values of some keys in words: ``k_per_class 1.5, outliers 0.05``."""
    names = short_keys(keys)
    return ", ".join(f"{name} {shown(values[key])}" for key, name in names.items() if key in values)


def differing(cells: Iterable[Named]) -> list[str]:
    """The keys that some of the cells differ in, in the order in which they first appear."""
    every = [cell.values for cell in cells]
    keys = dict.fromkeys(key for values in every for key in values)
    # A key that a cell leaves alone is no key that it sets to null.
    return [key for key in keys if len({repr(values[key]) if key in values else "" for values in every}) > 1]


def varying(cells: Sequence[Named]) -> list[str]:
    """The keys that cells of one row and column differ in; all keys where nothing else names the only cell."""
    if len(cells) == 1 and cells[0].row is None and cells[0].column is None:
        return list(cells[0].values)
    groups: dict[tuple[str | None, str | None], list[Named]] = {}
    for cell in cells:
        groups.setdefault((cell.row, cell.column), []).append(cell)
    return list(dict.fromkeys(key for group in groups.values() for key in differing(group)))


def describe(cell: Named, cells: Sequence[Named]) -> str:
    """A cell among others in a few words: row and column, and the values that tell it from the others of both."""
    names = [name for name in (cell.row, cell.column) if name is not None]
    return ", ".join(filter(None, [*names, described(cell.values, varying(cells))])) or "the only cell"


def shared_names(users: Sequence[Named], cells: Sequence[Named]) -> dict[str, Any]:
    """What those cells have in common that use a step, of all that tells cells apart: row, column, and keys."""
    rows, columns = {cell.row for cell in users}, {cell.column for cell in users}
    alike = [cell for cell in cells if len(rows) > 1 or cell.row in rows]
    alike = [cell for cell in alike if len(columns) > 1 or cell.column in columns]
    names = {kind: found.pop() for kind, found in (("row", rows), ("column", columns)) if len(found) == 1}
    own = differing(users)
    found = {key: users[0].values[key] for key in differing(alike) if key not in own and key in users[0].values}
    keys = {key: redacted(value) if isinstance(value, str) else value for key, value in found.items()}
    return {kind: name for kind, name in names.items() if name is not None} | keys


def describe_shared(users: Sequence[Named], cells: Sequence[Named], *, seeds: bool) -> str:
    """The same in a few words; `seeds` says whether they are named too."""
    names = shared_names(users, cells)
    titles = [str(names.pop(kind)) for kind in ("row", "column") if kind in names]
    values = described(names, names if seeds else without_seeds(names))
    return ", ".join(filter(None, [*titles, values])) or ("the only cell" if len(cells) == 1 else "every cell")
