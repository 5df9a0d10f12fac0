"""One report as plain data: everything that the page and the exports write down.

The model: nothing below this module knows HTML or Markdown, nothing above it reads a storage.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from orchestrator.report.classes import class_tables
from orchestrator.report.comparing import Result, results_of, warning_of
from orchestrator.report.costs import Costs, cost_table, costs_of
from orchestrator.report.curves import training_curves
from orchestrator.report.layouts import laid_out
from orchestrator.report.plots import Chart, predictions, sweeps
from orchestrator.report.provenance import Provenance, machines_of, provenance_of
from orchestrator.report.reading import Experiment
from orchestrator.report.sheets import Sheet, sheets_of
from orchestrator.report.tables import Table, metrics_of, plain_table
from orchestrator.results.best import best_lines, best_of
from orchestrator.results.gallery import Gallery, read_gallery
from orchestrator.spec.naming import describe
from orchestrator.storage.store import Storage


@dataclass(frozen=True)
class Shortfall:
    """A cell that is not whole: what it is, where its provenance stands, and why."""

    name: str
    anchor: str
    why: str


@dataclass(frozen=True)
class Report:
    """Everything about one experiment; `table` is the paper's layout, None where the experiment names none."""

    experiment: Experiment
    results: list[Result]
    table: Table | None
    plain: Table
    classes: list[Table]
    sweeps: list[Chart]
    predictions: list[Chart]
    curves: dict[str, list[Chart]]
    sheets: list[Sheet]
    gallery: Gallery | None
    chosen: int
    cell_costs: Costs
    costs: Table
    provenance: Provenance

    @cached_property
    def shortfalls(self) -> dict[str, list[Shortfall]]:
        """The cells that are neither done nor cached, by status and in their order."""
        found: dict[str, list[tuple[int, Shortfall]]] = {}
        for result in self.results:
            for number, cell in result.cells:
                if (why := cell.why) is not None:
                    name = f"cell {number}: {describe(cell, self.experiment.cells)}"
                    found.setdefault(cell.status.value, []).append((number, Shortfall(name, result.anchor, why)))
        return {
            status: [shortfall for _, shortfall in sorted(cells, key=lambda pair: pair[0])]
            for status, cells in sorted(found.items())
        }

    @cached_property
    def best(self) -> list[str]:
        """The best setting of every data set and column, and how much it stands out."""
        return best_lines(self.experiment.cells)

    @property
    def machines(self) -> Sequence[str]:
        """The machines of the run."""
        return machines_of(self.experiment)

    @property
    def document(self) -> str:
        """The experiment as it was run."""
        return json.dumps(self.experiment.document, indent=1)

    @cached_property
    def step_keys(self) -> frozenset[str]:
        """The steps that have an entry."""
        return frozenset(step.key for step in self.provenance.steps)

    @property
    def contents(self) -> list[tuple[str, str]]:
        """The sections that the page has, as (anchor, name)."""
        sections = [
            ("table", "The paper's table", self.table is not None),
            ("results", "Results", True),
            ("classes", "Classes", bool(self.classes)),
            ("plots", "Plots", bool(self.sweeps)),
            ("prediction", "PmIoU and mIoU", bool(self.predictions)),
            ("curves", "Training", bool(self.curves)),
            ("pictures", "Pictures", bool(self.sheets or self.gallery)),
            ("cost", "Cost", True),
            ("provenance", "Provenance", True),
        ]
        return [(anchor, name) for anchor, name, there in sections if there]


def assemble(experiment: Experiment, storage: Storage) -> Report:
    """Work out everything that a report says."""
    results = results_of(experiment)
    costs = costs_of(experiment)
    gallery = read_gallery(storage, experiment.name)
    table = laid_out(experiment, results)
    metrics = metrics_of(results)
    if table is None:
        plain = replace(plain_table(results, metrics, "All results"), warning=warning_of(experiment, results))
    else:
        # The paper's figures stand in its own layout already.
        plain = plain_table(results, [replace(metric, paper=None) for metric in metrics], "All results")
    return Report(
        experiment=experiment,
        results=results,
        table=table,
        plain=plain,
        classes=class_tables(results),
        sweeps=sweeps(experiment, results),
        predictions=predictions(results),
        curves=training_curves(experiment),
        sheets=sheets_of(experiment, results, storage, in_gallery=gallery is not None),
        gallery=gallery,
        chosen=_chosen(gallery, results),
        cell_costs=costs,
        costs=cost_table(experiment, costs),
        provenance=provenance_of(experiment, results),
    )


def _chosen(gallery: Gallery | None, results: Sequence[Result]) -> int:
    """The setting whose pictures are shown first: the best, by the last figure of merit that was measured."""
    best = best_of((result, result.spread(metrics_of(results)[-1].name)) for result in results)
    best = best or best_of((result, result.spread("pmiou")) for result in results)
    names = [setting.name for setting in gallery.settings] if gallery else []
    name = describe(best.setting, results) if best else ""
    return names.index(name) if name in names else 0
