"""What each cell cost, and what it would have cost alone.

The model: a step's cost is made of units: its shards, which other image counts may share, or the step itself where it
has none that were timed. A unit that several cells use is paid once and split evenly among them, so the shares of all
cells add up to what was paid. GPU-hours are the seconds of those units that ran on CUDA devices, over all of these.
"""

from dataclasses import dataclass, field

from orchestrator.ledger.layout import is_model
from orchestrator.ledger.manifests import Manifest
from orchestrator.report.comparing import results_of
from orchestrator.report.reading import Experiment
from orchestrator.report.tables import Entry, Heading, Table
from orchestrator.results.cells import CellResult
from orchestrator.spec.naming import describe
from workloads.formats import duration, figure, size


@dataclass(frozen=True)
class _Unit:
    seconds: float
    on_gpu: bool
    files: tuple[tuple[str, int], ...]


@dataclass
class Cost:
    """Seconds of work, of these on a GPU, and bytes of shards and of models."""

    seconds: float = 0.0
    gpu_seconds: float = 0.0
    shard_bytes: float = 0.0
    model_bytes: float = 0.0

    @property
    def gpu_hours(self) -> float:
        """Hours of one GPU."""
        return self.gpu_seconds / 3600

    def add(self, unit: _Unit, share: float = 1.0) -> None:
        """Count a share of a unit."""
        self.seconds += unit.seconds * share
        self.gpu_seconds += unit.seconds * share * unit.on_gpu
        for path, count in unit.files:
            if is_model(path):
                self.model_bytes += count * share
            else:
                self.shard_bytes += count * share


@dataclass
class CellCost:
    """A cell's seconds by role as the steps took them, its cost had it been alone, and its share of what was paid."""

    by_role: dict[str, float]
    alone: Cost = field(default_factory=Cost)
    share: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class Costs:
    """The cost of every cell, of everything once, and of every cell on its own."""

    cells: list[CellCost]
    paid: Cost
    separately: Cost
    roles: list[str]
    devices: list[str]


def costs_of(experiment: Experiment) -> Costs:
    """Split the cost of the steps among the cells that use them."""
    units = [_units(experiment, cell) for cell in experiment.cells]
    users: dict[str, int] = {}
    every: dict[str, _Unit] = {}
    for mine in units:
        for name, unit in mine.items():
            users[name] = users.get(name, 0) + 1
            every[name] = unit
    paid, separately = Cost(), Cost()
    for unit in every.values():
        paid.add(unit)
    cells = []
    for cell, mine in zip(experiment.cells, units, strict=True):
        cost = CellCost(dict(cell.seconds))
        for name, unit in mine.items():
            cost.alone.add(unit)
            cost.share.add(unit, 1 / users[name])
            separately.add(unit)
        cells.append(cost)
    roles = list(dict.fromkeys(role for cell in cells for role in cell.by_role))
    devices = sorted({str(m.provenance.get("device")) for m in experiment.manifests.values()} - {"", "None"})
    return Costs(cells, paid, separately, roles, devices)


def _units(experiment: Experiment, cell: CellResult) -> dict[str, _Unit]:
    """What the steps of a cell are made of, by the name of the unit."""
    found: dict[str, _Unit] = {}
    for key in dict.fromkeys(cell.steps.values()):
        manifest = experiment.manifests.get(key)
        if manifest is not None:
            found |= _units_of(manifest)
    return found


def _units_of(manifest: Manifest) -> dict[str, _Unit]:
    on_gpu = str(manifest.provenance.get("device", "")).startswith("cuda")
    if any(record.seconds for record in manifest.records):
        return {file.path: _Unit(file.seconds, on_gpu, ((file.path, file.size),)) for file in manifest.records}
    seconds = float(manifest.provenance.get("work_seconds") or manifest.provenance.get("wall_seconds") or 0.0)
    return {manifest.key: _Unit(seconds, on_gpu, tuple((file.path, file.size) for file in manifest.records))}


def cost_table(experiment: Experiment, costs: Costs) -> Table:
    """The cost of every cell: seconds by role, alone and shared, GPU-hours, bytes of shards and of models."""
    results = results_of(experiment)
    of_cell = {number: result for result in results for number, _ in result.cells}
    fixed = ["cell", "setting"]
    shares = ["alone", "share of time", "share of GPU-hours", "share of shards", "share of models"]
    roles = [role.replace("_", " ") for role in costs.roles]
    levels = [
        [
            Heading("cell", depth=2),
            Heading("setting", depth=2, numeric=False),
            *([Heading("seconds of each step", span=len(roles))] if roles else []),
            Heading("alone", "all its steps", depth=2),
            Heading("its share, shared steps split evenly", span=4),
        ],
        [*(Heading(role) for role in roles), *(Heading(name) for name in ("time", "GPU-hours", "shards", "models"))],
    ]
    rows = []
    for number, (cell, cost) in enumerate(zip(experiment.cells, costs.cells, strict=True)):
        result = of_cell[number]
        setting = describe(cell, experiment.cells)
        rows.append(
            [
                Entry(str(number), "count", float(number), result.anchor),
                Entry(setting),
                *(_seconds(cost.by_role.get(role)) for role in costs.roles),
                Entry(duration(cost.alone.seconds), "count", cost.alone.seconds),
                Entry(duration(cost.share.seconds), "count", cost.share.seconds),
                Entry(figure(cost.share.gpu_hours), "count", cost.share.gpu_hours),
                Entry(size(cost.share.shard_bytes), "count", cost.share.shard_bytes),
                Entry(size(cost.share.model_bytes), "count", cost.share.model_bytes),
            ]
        )
    paid, alone = costs.paid, costs.separately
    remarks = [
        f"All steps together, each once: {duration(paid.seconds)} of work, {figure(paid.gpu_hours)} GPU-hours, "
        f"{size(paid.shard_bytes)} of shards and {size(paid.model_bytes)} of models. Each cell on its own would have "
        f"taken {duration(alone.seconds)} in all."
        + (f" Devices: {', '.join(costs.devices)}." if costs.devices else ""),
        "Seconds are those of the steps when they were computed, added up over workers; of a training, those of its "
        "optimiser steps and its last evaluation, on each of its GPUs or else of its cores. Steps and shards that "
        "several cells use are split evenly among these cells, so shares add up to what "
        "was paid once. A GPU-hour is an hour of a step's work on a CUDA device.",
    ]
    return Table("Cost of each cell", levels, [*fixed, *roles, *shares], rows, remarks=remarks, dense=True)


def _seconds(seconds: float | None) -> Entry:
    return Entry("") if seconds is None else Entry(figure(seconds), "count", seconds)
