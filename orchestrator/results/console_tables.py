"""The table of cells that a run prints.

The model: a line per cell, named by its row and column where it has them, and by the values that tell it from the
others of its row and column; below, a line per set of repeats with mean and standard deviation. Cells are repeats when
they differ in nothing but seeds. The failure this guards against: a difference between two rows that is smaller than
the difference between two seeds of one row.
"""

import shutil
import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

_FIGURES = {
    "clusters": "clusters",
    "PmIoU": "pmiou",
    "coverage": "coverage",
    "mIoU": "miou",
    "mIoU multi-scale": "miou_multi_scale",
}
_NAMES = ("row", "column")


def print_cells(name: str, cells: list[dict[str, Any]], console: Console) -> None:
    """Print the cells of a results document, and what repeats over seeds give."""
    if not console.is_terminal:
        # A log is as wide as its longest line; 80 columns would fold every row.
        console.width = max(shutil.get_terminal_size().columns, 160)
    figures = {
        heading: metric
        for heading, metric in _FIGURES.items()
        if any(cell["metrics"].get(metric) is not None for cell in cells)
    }
    console.print(_table(name, cells, figures))
    repeated = [group for group in repeats(cells) if len(group) > 1]
    if repeated:
        console.print(_repeats_table(repeated, figures))


def repeats(cells: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The cells in groups that differ only in keys named `seed` or ending in `.seed`."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(repr((cell["row"], cell["column"], sorted(_seedless(cell).items()))), []).append(cell)
    return list(groups.values())


def describe(cell: dict[str, Any], cells: list[dict[str, Any]]) -> str:
    """A cell among others in a few words: row and column, and the values that tell it from the others of both."""
    kinds, keys = _headings(cells)
    names = [cell[kind] for kind in kinds if cell[kind] is not None]
    values = [f"{key}={_short(cell['cell'][key])}" for key in keys if key in cell["cell"]]
    return ", ".join([*names, *values]) or "the only cell"


def _table(name: str, cells: list[dict[str, Any]], figures: dict[str, str]) -> Table:
    table = Table(title=name, title_justify="left")
    table.add_column("#", justify="right")
    kinds, keys = _add_headings(table, cells)
    for heading in (*figures, "status"):
        table.add_column(heading, justify="right")
    for index, cell in enumerate(cells):
        table.add_row(
            str(index),
            *(cell[kind] or "" for kind in kinds),
            *(_short(cell["cell"].get(key, "")) for key in keys),
            *(_figure(metric, cell["metrics"].get(metric)) for metric in figures.values()),
            cell["status"],
        )
    return table


def _repeats_table(groups: list[list[dict[str, Any]]], figures: dict[str, str]) -> Table:
    table = Table(title="mean ± standard deviation over seeds", title_justify="left")
    kinds, keys = _add_headings(table, [{**group[0], "cell": _seedless(group[0])} for group in groups])
    for heading in ("seeds", *figures):
        table.add_column(heading, justify="right")
    for group in groups:
        table.add_row(
            *(group[0][kind] or "" for kind in kinds),
            *(_short(group[0]["cell"].get(key, "")) for key in keys),
            _scored(group),
            *(_spread(metric, [cell["metrics"].get(metric) for cell in group]) for metric in figures.values()),
        )
    return table


def _add_headings(table: Table, cells: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    kinds, keys = _headings(cells)
    for heading in (*kinds, *(key.removeprefix("labels.") for key in keys)):
        table.add_column(heading, overflow="fold")
    return kinds, keys


def _headings(cells: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """What tells cells apart: row and column, and the keys that vary within them; all keys where there is neither."""
    kinds = [kind for kind in _NAMES if any(cell[kind] is not None for cell in cells)]
    keys = list(dict.fromkeys(key for cell in cells for key in cell["cell"]))
    return kinds, [key for key in keys if not kinds or _varies(key, cells)]


def _varies(key: str, cells: list[dict[str, Any]]) -> bool:
    """Whether a key has several values within one row and column."""
    found: dict[Any, set[str]] = {}
    for cell in cells:
        found.setdefault((cell["row"], cell["column"]), set()).add(repr(cell["cell"].get(key)))
    return any(len(values) > 1 for values in found.values())


def _seedless(cell: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in cell["cell"].items() if key.rsplit(".", 1)[-1] != "seed"}


def _scored(group: list[dict[str, Any]]) -> str:
    """How many repeats have figures."""
    count = sum(bool(cell["metrics"]) for cell in group)
    return str(count) if count == len(group) else f"{count} of {len(group)}"


def _spread(metric: str, values: list[Any]) -> str:
    """Mean and (sample) standard deviation of the values that are there."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return _figure(metric, known[0]) if known else ""
    if len(set(known)) == 1 and isinstance(known[0], int):
        return str(known[0])
    return f"{_figure(metric, float(statistics.mean(known)))} ± {_figure(metric, statistics.stdev(known))}"


def _figure(metric: str, value: Any) -> str:
    """A metric for a table: percentages with two digits, the coverage, a share, with three, counts as they are."""
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if metric == "coverage" else f"{value:.2f}"


def _short(value: Any) -> str:
    """A grid value for a table: of a mapping its values, of a path its name."""
    if isinstance(value, dict):
        return " ".join(_short(inner) for inner in value.values())
    if isinstance(value, str) and "/" in value:
        return value.rsplit("/", 1)[1]
    return "none" if value is None else str(value)
