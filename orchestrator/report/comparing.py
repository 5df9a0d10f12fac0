"""Repeats become one result, and the paper's figure stands beside it.

The model: cells that differ in nothing but seeds are repeats of one result; a result has a mean and a standard
deviation over those of its repeats that ended well. The paper's figure belongs to a data set, a row and a column; it is
compared only with a result on the same data set. The failure this guards against: a number without its spread, its
protocol or its source.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator.report.reading import Experiment
from orchestrator.results.cells import CellResult, Protocol, Status
from orchestrator.results.statistics import Spread
from orchestrator.spec.naming import repeats, without_seeds

Published = float | str
_SPELT = {"cityscapes": "Cityscapes", "nyuv2": "NYUv2", "ade20k": "ADE20K", "camvid": "CamVid"}


@dataclass(frozen=True)
class Result:
    """The repeats of one setting. `cells` pairs each cell with its number in the results file."""

    number: int
    row: str | None
    column: str | None
    dataset: str
    values: dict[str, Any]
    cells: list[tuple[int, CellResult]]

    @property
    def anchor(self) -> str:
        """The name of the result's entry among the provenance."""
        return f"result-{self.number}"

    @property
    def failed(self) -> list[tuple[int, CellResult]]:
        """The repeats that have no numbers."""
        return [(number, cell) for number, cell in self.cells if cell.status is Status.FAILED]

    @property
    def notes(self) -> list[str]:
        """What stands in for something that is not here."""
        return list(dict.fromkeys(note for _, cell in self.cells for note in cell.substitutes))

    @cached_property
    def protocol(self) -> Protocol | None:
        """Data set, classes, split and number of scored images, as far as the results say."""
        return next((cell.metrics.protocol for _, cell in self.cells if cell.metrics.protocol), None)

    def spread(self, metric: str) -> Spread | None:
        """Mean and deviation of a metric over the repeats that have it."""
        return Spread.of(value for _, cell in self.cells if (value := cell.metrics.number(metric)) is not None)

    def paper(self, metric: str) -> Published | None:
        """What the paper prints for this result, on this data set."""
        for _, cell in self.cells:
            if cell.paper and cell.paper.get(metric) is not None:
                return cell.paper[metric]
        return None


def results_of(experiment: Experiment) -> list[Result]:
    """The results in the order in which the cells are written."""
    numbers = {id(cell): number for number, cell in enumerate(experiment.cells)}
    results: list[Result] = []
    for group in repeats(experiment.cells):
        cells = [(numbers[id(cell)], cell) for cell in group]
        # A repeat that ended well names its data set; one that failed can only say what was asked for.
        first = next((cell for cell in group if cell.status is not Status.FAILED), group[0])
        dataset = dataset_of(experiment, first)
        results.append(Result(len(results), first.row, first.column, dataset, without_seeds(first.values), cells))
    return results


def dataset_of(experiment: Experiment, cell: CellResult) -> str:
    """The data set that a cell is about; a failed cell is asked what it was going to use."""
    if cell.metrics.protocol is not None:
        return cell.metrics.protocol.dataset
    for place in (cell.values, experiment.document):
        inner = place.get("dataset")
        name = place.get("dataset.name") or (inner.get("name") if isinstance(inner, dict) else None)
        if name:
            return str(name)
    return "data set not named"


def published(experiment: Experiment, row: str | None, column: str | None, metric: str) -> dict[str, Published]:
    """What the paper prints for a row and column, by data set; from the experiment file that the results hold."""
    found: dict[str, Published] = {}
    rows = experiment.document.get("rows")
    for entry in rows if isinstance(rows, list) else []:
        if not isinstance(entry, dict) or str(entry.get("row")) != row or not isinstance(entry.get("paper"), dict):
            continue
        for dataset, figures in entry["paper"].items():
            if isinstance(figures, dict) and column is not None and isinstance(figures.get(column), dict):
                figures = figures[column]  # noqa: PLW2901 - the figures of the column, where there are columns
            value = figures.get(metric) if isinstance(figures, dict) else None
            if isinstance(value, int | float | str) and not isinstance(value, bool):
                found.setdefault(str(dataset), value)
    return found


def comparable(experiment: Experiment) -> bool:
    """Whether the experiment was run at the size of the paper, as far as the experiment file says."""
    return experiment.size in (None, "paper")


def warning_of(experiment: Experiment, results: Iterable[Result]) -> str:
    """What keeps ours from being compared with the paper's, in a sentence; empty where nothing does."""
    results = list(results)
    rows = experiment.document.get("rows")
    figures = any(isinstance(row, dict) and row.get("paper") for row in (rows if isinstance(rows, list) else []))
    if not (experiment.layout or figures):
        return ""
    if not comparable(experiment):
        return (
            f"Not comparable with the paper: this was run at size {experiment.size!r}, which has other images, "
            "networks and training lengths. Compare which row is better than which, not the figures."
        )
    if figures and not any(cell.paper for result in results for _, cell in result.cells):
        return "Not comparable with the paper: it prints no figures for this data set."
    return ""


def dataset_title(dataset: str) -> str:
    """A data set as its authors spell it."""
    return _SPELT.get(dataset, dataset)
