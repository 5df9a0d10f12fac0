"""Repeats become one result, and the paper's figure stands beside it.

The model: cells that differ in nothing but seeds are repeats of one result; a result has a mean and a standard
deviation over those of its repeats that ended well. The paper's figure belongs to a data set, a row and a column; it is
compared only with a result on the same data set. The failure this guards against: a number without its spread, its
protocol or its source.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from orchestrator.report.reading import Experiment, ResultCell

Published = float | str
_SPELT = {"cityscapes": "Cityscapes", "nyuv2": "NYUv2", "ade20k": "ADE20K", "camvid": "CamVid"}


@dataclass(frozen=True)
class Spread:
    """Mean over repeats; `deviation` is the sample standard deviation (n - 1), None for a single value."""

    mean: float
    deviation: float | None
    count: int

    @staticmethod
    def of(values: Iterable[float]) -> "Spread | None":
        """The spread of some values; None of none."""
        array = np.array(list(values), dtype=np.float64)
        if not array.size:
            return None
        deviation = float(array.std(ddof=1)) if array.size > 1 else None
        return Spread(float(array.mean()), deviation, int(array.size))


@dataclass(frozen=True)
class Result:
    """The repeats of one setting. `cells` pairs each cell with its number in the results file."""

    number: int
    row: str | None
    column: str | None
    dataset: str
    values: dict[str, Any]
    cells: list[tuple[int, ResultCell]]

    @property
    def anchor(self) -> str:
        """The name of the result's entry among the provenance."""
        return f"result-{self.number}"

    @property
    def failed(self) -> list[tuple[int, ResultCell]]:
        """The repeats that have no numbers."""
        return [(number, cell) for number, cell in self.cells if cell.status == "failed"]

    @property
    def notes(self) -> list[str]:
        """What stands in for something that is not here."""
        return list(dict.fromkeys(note for _, cell in self.cells for note in cell.substitutes))

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """Data set, classes, split and number of scored images, as far as the results say."""
        for _, cell in self.cells:
            if isinstance(protocol := cell.metrics.get("protocol"), dict):
                return protocol
        return {}

    def spread(self, metric: str) -> Spread | None:
        """Mean and deviation of a metric over the repeats that have it."""
        return Spread.of(value for _, cell in self.cells if (value := number_of(cell.metrics.get(metric))) is not None)

    def paper(self, metric: str) -> Published | None:
        """What the paper prints for this result, on this data set."""
        for _, cell in self.cells:
            if cell.paper and cell.paper.get(metric) is not None:
                return cell.paper[metric]
        return None


def number_of(value: Any) -> float | None:
    """The value as a finite number, None where it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def is_seed(key: str) -> bool:
    """Whether a key of a cell only tells repeats apart."""
    return key == "seed" or key.endswith(".seed")


def results_of(experiment: Experiment) -> list[Result]:
    """The results in the order in which the cells are written."""
    grouped: dict[str, list[tuple[int, ResultCell]]] = {}
    for number, cell in enumerate(experiment.cells):
        identity = json.dumps([cell.row, cell.column, _without_seeds(cell)], sort_keys=True)
        grouped.setdefault(identity, []).append((number, cell))
    results: list[Result] = []
    for cells in grouped.values():
        # A repeat that ended well names its data set; one that failed can only say what was asked for.
        _, first = next((pair for pair in cells if pair[1].status != "failed"), cells[0])
        dataset = dataset_of(experiment, first)
        results.append(Result(len(results), first.row, first.column, dataset, _without_seeds(first), cells))
    return results


def _without_seeds(cell: ResultCell) -> dict[str, Any]:
    return {key: value for key, value in cell.cell.items() if not is_seed(key)}


def dataset_of(experiment: Experiment, cell: ResultCell) -> str:
    """The data set that a cell is about; a failed cell is asked what it was going to use."""
    protocol = cell.metrics.get("protocol")
    if isinstance(protocol, dict) and protocol.get("dataset"):
        return str(protocol["dataset"])
    for place in (cell.cell, experiment.document):
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
    if not comparable(experiment):
        return (
            f"Not comparable with the paper: this was run at size {experiment.size!r}, which has other images, "
            "networks and training lengths. Compare which row is better than which, not the figures."
        )
    if experiment.document.get("rows") and not any(cell.paper for result in results for _, cell in result.cells):
        return "Not comparable with the paper: it prints no figures for this data set."
    return ""


def dataset_title(dataset: str) -> str:
    """A data set as its authors spell it."""
    return _SPELT.get(dataset, dataset)


def varying(results: Iterable[Result]) -> list[str]:
    """The keys by which results differ, in the order in which they first appear."""
    results = list(results)
    keys = dict.fromkeys(key for result in results for key in result.values)
    return [key for key in keys if len({json.dumps(r.values.get(key), sort_keys=True) for r in results}) > 1]


def shown(value: Any) -> str:
    """A value of the grid for a reader: of a mapping its values, of a path its name."""
    if isinstance(value, dict):
        return " ".join(shown(inner) for inner in value.values())
    if isinstance(value, list):
        return ", ".join(shown(inner) for inner in value)
    if isinstance(value, str) and "/" in value:
        return value.rsplit("/", 1)[1]
    return "none" if value is None else str(value)


def described(values: dict[str, Any], keys: Iterable[str]) -> str:
    """The values of some keys in words: ``k_per_class 1.5, outliers 0.05``."""
    return ", ".join(f"{key.rsplit('.', 1)[-1]} {shown(values[key])}" for key in keys if key in values)
