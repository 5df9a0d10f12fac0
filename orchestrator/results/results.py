"""The results of a run, read off the ledger.

A run that finds everything cached writes the same numbers as the run that computed them. A failed cell carries its
error and never hides the others.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from orchestrator.execution.provenance import Provenance
from orchestrator.ledger.layout import results_path
from orchestrator.planning.cells import PlannedCell
from orchestrator.planning.plan import Plan
from orchestrator.results.cells import CellResult, ImageCount, Machine, Metrics, Results, Run, Status
from orchestrator.results.collecting import collect_metrics, seconds_of, substitutes
from orchestrator.results.doubts import doubts
from orchestrator.results.statistics import RankCorrelation
from orchestrator.storage.store import Storage


def collect(plan: Plan, cached: Collection[str], failed: Mapping[str, str]) -> list[CellResult]:
    """One entry per cell. `cached` are the steps that were done before the run, `failed` maps step keys to errors."""
    return [_cell(cell, plan, cached, failed) for cell in plan.cells]


def agreement(cells: Sequence[CellResult]) -> RankCorrelation | None:
    """How well PmIoU orders the trained cells; None where there is no order."""
    pairs = [
        (cell.metrics.pmiou, cell.metrics.miou)
        for cell in cells
        if cell.metrics.pmiou is not None and cell.metrics.miou is not None
    ]
    found = RankCorrelation.of(pairs)
    return None if found.spearman is None else found


def record_run(plan: Plan, started: float, machines: Sequence[Mapping[str, Any]], command: Sequence[str] = ()) -> Run:
    """This run, and the words of its command, if it was one.

    One that finds everything cached ran on no machine; those that computed it are in the manifests.
    """
    hosts = sorted({manifest.provenance["host"] for manifest in plan.done.values() if manifest.provenance.get("host")})
    process = Provenance.capture()
    return Run(
        git=process.code,
        versions=process.versions,
        seed=plan.document.get("seed", 0),
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        seconds=round(time.time() - started, 2),
        command=["lookbeyond", *command] if command else [],
        machines=[Machine(**machine) for machine in machines] or [Machine(host=host) for host in hosts],
    )


def write_results(
    plan: Plan, cells: list[CellResult], storage: Storage, *, run: Run, former: Results | None = None
) -> Results:
    """Write ``results/NAME.json`` and return what it holds."""
    results = make_results(plan, cells, storage, run=run, former=former)
    storage.replace(results_path(plan.name), results.to_bytes())
    return results


def make_results(plan: Plan, cells: list[CellResult], storage: Storage, *, run: Run, former: Results | None) -> Results:
    """What the results file of a run holds.

    `former` is what stands there: where this run has computed nothing of it, the run that did stays on record.
    """
    found, minded = agreement(cells), doubts(plan, cells, storage)
    return Results(
        experiment=plan.document,
        cells=cells,
        provenance=former.provenance if former is not None and _nothing_new(cells, former) else run,
        **({"agreement": found} if found is not None else {}),
        **({"doubts": minded} if minded else {}),
    )


def _nothing_new(cells: Sequence[CellResult], former: Results) -> bool:
    known = {key for cell in former.cells if cell.status.whole for key in cell.steps.values()}
    return all(cell.status is Status.CACHED and known.issuperset(cell.steps.values()) for cell in cells)


def _cell(planned: PlannedCell, plan: Plan, cached: Collection[str], failed: Mapping[str, str]) -> CellResult:
    keys = {role: step.key for role, step in planned.roles.items()}
    manifests = {role: plan.done[key] for role, key in keys.items() if key in plan.done}
    error = str(planned.error) if planned.error else next((failed[key] for key in keys.values() if key in failed), None)
    skipped = next((plan.skipped[key] for key in keys.values() if key in plan.skipped), None)
    reason = None
    if not planned.error and len(manifests) == len(keys):
        status, error = (Status.CACHED if all(key in cached for key in keys.values()) else Status.DONE), None
    elif skipped is not None and error is None:
        status, reason = Status(skipped.status), skipped.reason
    else:
        status, error = Status.FAILED, error or "not finished"
    return CellResult(
        values=planned.cell.values,
        row=planned.cell.row,
        column=planned.cell.column,
        paper=planned.cell.paper,
        status=status,
        error=error,
        **({"reason": reason} if reason else {}),
        metrics=Metrics() if status is Status.FAILED else collect_metrics(planned.roles, manifests),
        steps=keys,
        seconds={role: seconds_of(manifest) for role, manifest in manifests.items()},
        images={
            role: ImageCount(**manifest.provenance["images"])
            for role, manifest in manifests.items()
            if planned.roles[role].shows_images
        },
        quarantined=sorted(
            {f"{item.image}: {item.reason}" for manifest in manifests.values() for item in manifest.quarantined}
        ),
        substitutes=substitutes(planned),
    )
