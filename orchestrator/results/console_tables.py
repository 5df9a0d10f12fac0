"""The table of cells that a run prints, and below it mean and standard deviation of what was repeated with other seeds.

The failure this guards against: a difference between two rows that is smaller than the difference between two seeds of
one row.
"""

import shutil
from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from orchestrator.results.cells import CellResult
from orchestrator.results.metrics import (
    ANCHORS_FILLED,
    CLUSTERS,
    COVERAGE,
    MIOU,
    MIOU_MULTI_SCALE,
    PMIOU,
    SILHOUETTE,
    STABILITY,
    Metric,
    on_the_way,
)
from orchestrator.results.statistics import Spread
from orchestrator.spec.naming import is_seed, repeats, short_keys, shown, varying
from workloads.formats import figure

_METRICS = (CLUSTERS, PMIOU, COVERAGE, ANCHORS_FILLED)
_SCORES = (MIOU, MIOU_MULTI_SCALE)
# What can be said of labels where nothing is labelled.
_UNLABELLED = (CLUSTERS, SILHOUETTE, STABILITY)

# A wider terminal folds what does not fit; on a narrower one nothing of a column would be left.
_NARROW = 60


def print_cells(name: str, cells: Sequence[CellResult], console: Console) -> None:
    """Print the cells of an experiment, and what repeats over seeds give."""
    if not console.is_terminal:
        # A log is as wide as its longest line; 80 columns would fold every row.
        console.width = max(shutil.get_terminal_size().columns, 160)
    scored = any(cell.metrics.pmiou is not None or cell.metrics.miou is not None for cell in cells)
    early = on_the_way(name for cell in cells for name in cell.metrics.numbers)
    shown = (*_METRICS, *early, *_SCORES) if scored else _UNLABELLED
    metrics = [metric for metric in shown if any(cell.metrics.number(metric.name) is not None for cell in cells)]
    print_table(_cells_table(name, cells, metrics), console)
    groups = [group for group in repeats(cells) if len(group) > 1]
    if groups:
        print_table(_repeats_table(groups, cells, metrics), console)


def print_table(table: Table, console: Console) -> None:
    """Print a table.

    Where the terminal is too narrow for it, what is the same in all rows is said once below it, and where that is not
    enough, every value has a line.
    """
    said = ""
    if _widths(table, console).maximum > console.width:
        table, said = _without_constants(table)
    if _widths(table, console).minimum <= console.width or console.width > _NARROW:
        console.print(table)
        if said:
            console.print(said, soft_wrap=True)
        return
    console.print(table.title or "", soft_wrap=True)
    if said:
        console.print(said, soft_wrap=True)
    for number in range(table.row_count):
        values = [(column.header, list(column.cells)[number]) for column in table.columns]
        console.print("\n".join(f"{name}: {value}" for name, value in values if value != ""), soft_wrap=True)
        console.print()


def _widths(table: Table, console: Console) -> Measurement:
    return Measurement.get(console, console.options.update(width=1000), table)


def _without_constants(table: Table) -> tuple[Table, str]:
    """The table without the columns that hold one value, and those in words."""
    columns = [(column, list(column.cells)) for column in table.columns]
    kept = []
    stated: dict[str, list[str]] = {"in all rows": [], "in the rows that have it": []}
    for column, values in columns:
        # Of figures, some may be missing; a name that is missing tells a row from others.
        known = {str(value) for value in values if value != "" or column.justify != "right"}
        if len(values) > 1 and len(known) == 1:
            where = "in the rows that have it" if "" in values else "in all rows"
            stated[where].append(f"{column.header} {known.pop()}")
        else:
            kept.append((column, values))
    said = "\n".join(f"{where}: {', '.join(figures)}" for where, figures in stated.items() if figures)
    if not said or not kept:
        return table, ""
    smaller = Table(title=table.title, title_justify=table.title_justify)
    for column, _ in kept:
        smaller.add_column(column.header, justify=column.justify, overflow=column.overflow)
    for row in zip(*(values for _, values in kept), strict=True):
        smaller.add_row(*row)
    return smaller, said


def _cells_table(name: str, cells: Sequence[CellResult], metrics: Sequence[Metric]) -> Table:
    table = Table(title=name, title_justify="left")
    table.add_column("#", justify="right")
    names = _Names(cells, varying(cells))
    names.add_to(table)
    for heading in (*(metric.heading for metric in metrics), "status"):
        table.add_column(heading, justify="right")
    for index, cell in enumerate(cells):
        table.add_row(str(index), *names.of(cell), *(_figure(cell, metric) for metric in metrics), cell.status.value)
    return table


def _repeats_table(
    groups: Sequence[Sequence[CellResult]], cells: Sequence[CellResult], metrics: Sequence[Metric]
) -> Table:
    table = Table(title="mean ± standard deviation over seeds", title_justify="left")
    names = _Names([group[0] for group in groups], [key for key in varying(cells) if not is_seed(key)])
    names.add_to(table)
    for heading in ("seeds", *(metric.heading for metric in metrics)):
        table.add_column(heading, justify="right")
    for group in groups:
        table.add_row(*names.of(group[0]), _scored(group), *(_spread(group, metric) for metric in metrics))
    return table


class _Names:
    """The columns that tell cells apart: row and column where there are any, and keys."""

    def __init__(self, cells: Sequence[CellResult], keys: Sequence[str]) -> None:
        self._row = any(cell.row is not None for cell in cells)
        self._column = any(cell.column is not None for cell in cells)
        self._keys = short_keys(keys)

    def add_to(self, table: Table) -> None:
        """Head the columns."""
        headings = ["row"] * self._row + ["column"] * self._column + list(self._keys.values())
        for heading in headings:
            table.add_column(heading, overflow="fold")

    def of(self, cell: CellResult) -> list[str]:
        """What stands in them."""
        names = [cell.row or ""] * self._row + [cell.column or ""] * self._column
        return names + [shown(cell.values[key]) if key in cell.values else "" for key in self._keys]


def _figure(cell: CellResult, metric: Metric) -> str:
    value = cell.metrics.number(metric.name)
    return "" if value is None else figure(value, metric.digits)


def _scored(group: Sequence[CellResult]) -> str:
    """How many repeats have figures."""
    count = sum(bool(cell.metrics.numbers) for cell in group)
    return str(count) if count == len(group) else f"{count} of {len(group)}"


def _spread(group: Sequence[CellResult], metric: Metric) -> str:
    values = [value for cell in group if (value := cell.metrics.number(metric.name)) is not None]
    spread = Spread.of(values)
    return "" if spread is None else spread.text(metric.digits)
