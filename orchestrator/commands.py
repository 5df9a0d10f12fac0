"""What each command does, in terms of plan, run, ledger and results."""

import json
import shutil
import sys
import time
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.checking import check_experiment
from orchestrator.estimating import estimate
from orchestrator.explaining import explain as explain_plan
from orchestrator.exporting import export_label_maps
from orchestrator.grid import expand
from orchestrator.pictures import write_sheets
from orchestrator.plan import Plan, make_plan
from orchestrator.progress import Progress
from orchestrator.results import collect, write_results
from orchestrator.spec import load_document
from orchestrator.storage import Storage
from orchestrator.submitting import Sending, submit_experiment
from orchestrator.verifying import verify as verify_storage
from workloads.errors import InputError

_FIGURES = {
    "clusters": "clusters",
    "PmIoU": "pmiou",
    "coverage": "coverage",
    "mIoU": "miou",
    "mIoU multi-scale": "miou_multi_scale",
}
_DEMO = Path(__file__).with_name("demo.yaml")


def demo(options: Namespace) -> int:
    """Run the packaged demonstration experiment."""
    return _run(load_document(_DEMO, options.overrides), options)


def run(options: Namespace) -> int:
    """Run an experiment."""
    return _run(_document(options), options)


def submit(options: Namespace) -> int:
    """Run an experiment as a job on a cluster."""
    return submit_experiment(
        options.experiment,
        expand(_document(options)),
        options.overrides,
        storage=options.storage,
        until=options.until,
        address=options.address,
        sending=Sending(limit=options.limit * 1_000_000, wait=not options.no_wait, retries=options.retries),
    )


def _document(options: Namespace) -> dict[str, Any]:
    """The experiment that the command names; ``demo`` is the packaged one, unless there is a file of that name."""
    path = Path(options.experiment)
    return load_document(_DEMO if str(path) == "demo" and not path.exists() else path, options.overrides)


def plan(options: Namespace) -> int:
    """Print the plan of an experiment."""
    storage = Storage(options.storage)
    made = make_plan(_document(options), storage, write_listings=False)
    costs = estimate(made, storage)
    if options.json:
        document = {
            "experiment": made.name,
            "cells": [
                {"cell": cell.cell.values, "error": cell.error, "steps": _keys(cell.roles)} for cell in made.cells
            ],
            "steps": made.counts(),
            "estimate": asdict(costs),
        }
        print(json.dumps(document, indent=1))
        return 0
    console = Console(highlight=False)
    table = Table(title=f"{made.name}: {_count(made)}", title_justify="left")
    for heading in ("step", "named by cells", "distinct", "cached", "to run", "estimate"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for kind, counts in made.counts().items():
        table.add_row(
            kind,
            *(str(counts[name]) for name in ("named", "distinct", "cached", "to_run")),
            _duration(costs.seconds_by_kind.get(kind, 0.0)),
        )
    console.print(table)
    basis = (
        "rates measured on this storage" if costs.measured else "assumed rates: nothing comparable was done here yet"
    )
    console.print(
        f"to run: {_duration(costs.core_seconds)} of one core, {_size(costs.bytes)} to write, "
        f"{_size(costs.sample_matrix_bytes)} of memory for the largest sample matrix ({basis})"
    )
    for line in _short_pools(made):
        console.print(line, style="yellow", markup=False)
    _print_errors(made, console)
    return 0


def check(options: Namespace) -> int:
    """Check an experiment before it is run."""
    storage = Storage(options.storage)
    report = check_experiment(_document(options), storage, options.images)
    if options.json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        report.print(Console(highlight=False))
    return 2 if report.problems else 0


def explain(options: Namespace) -> int:
    """Print why each step would run again."""
    storage = Storage(options.storage)
    made = make_plan(_document(options), storage, write_listings=False)
    for step, reason in explain_plan(made, storage):
        print(f"{step.kind:<12} {step.key[:12]}  {reason}")
    return 0


def export_labels(options: Namespace) -> int:
    """Write the label maps of one cell as indexed PNGs."""
    storage = Storage(options.storage)
    made = make_plan(_document(options), storage, write_listings=False)
    if not 0 <= options.cell < len(made.cells):
        raise InputError(f"--cell {options.cell} does not exist; allowed: 0 to {len(made.cells) - 1}")
    with Progress() as progress:
        count = export_label_maps(made, made.cells[options.cell], options.pool, storage, Path(options.output), progress)
    print(f"{count} label maps, legend.json and legend.png in {options.output}")
    return 0


def verify(options: Namespace) -> int:
    """Check every shard of a storage."""
    storage = Storage(options.storage)
    storage.require_folder()
    found = verify_storage(storage, repair=options.repair)
    if options.json:
        print(json.dumps(asdict(found), indent=1))
    else:
        print(f"{found.steps} steps, {found.shards} shards, {_size(found.bytes)} read")
        for path, problem in found.damaged.items():
            print(f"damaged: {path} {problem}")
        if found.leftovers:
            print(f"{len(found.leftovers)} leftovers of killed attempts")
        if found.repaired:
            print(f"removed {len(found.repaired)} files; `lookbeyond run` computes again what is missing")
        elif found.damaged:
            print("`lookbeyond verify STORAGE --repair` forgets the damaged shards, so that `run` computes them again")
    return 1 if found.damaged and not options.repair else 0


def _run(document: dict[str, Any], options: Namespace) -> int:
    started = time.time()
    storage = Storage(options.storage)
    storage.check_writable()
    made = make_plan(document, storage, write_listings=True, until=options.until)
    cached = set(made.done)
    with Progress() as progress:
        progress.say(f"{made.name}: {_count(made)}, {len(made.pending)} to run")
        for line in _short_pools(made):
            progress.note(line)
        for name, pool in _unjudged(made):
            progress.note(f"{name} has no labelled pool {pool!r}: labels are made, PmIoU is not")
        if made.pending:
            # Ray is imported only where something is run: an all-cached run answers at once.
            from orchestrator.cluster.rounds import run_plan

            report = run_plan(made, storage, progress, address=options.address, dashboard=options.dashboard)
            failed, input_errors, machines = report.failed, report.input_errors, report.machines
        else:
            failed, input_errors, machines = {}, set(), []
    cells = collect(made, cached, failed)
    results = write_results(made, cells, storage, started=started, machines=machines)
    sheets = write_sheets(made, storage)
    if options.json:
        print(storage.read(f"results/{made.name}.json").decode())
    else:
        _print_cells(made, cells, Console(highlight=False))
        print(f"results  {results}")
        for sheet in sheets:
            print(f"picture  {sheet}")
        print(f"took     {_duration(time.time() - started)}")
    bad = [cell for cell in cells if cell["status"] == "failed"]
    for cell in bad:
        print(f"lookbeyond: failed {_describe(cell['cell'])}: {cell['error']}", file=sys.stderr)
    if not bad:
        return 0
    wrong_input = all(_is_input_error(planned, failed, input_errors) for planned in made.cells)
    return 2 if wrong_input else 1


def _is_input_error(planned: Any, failed: dict[str, str], input_errors: set[str]) -> bool:
    """Whether the cell failed for reasons that are the user's to mend, and nothing else."""
    broken = {step.key for step in planned.roles.values()} & failed.keys()
    return bool(planned.error) or (bool(broken) and broken <= input_errors)


def _short_pools(made: Plan) -> list[str]:
    """A line for every pool that has fewer images than were asked for."""
    short = {
        (step.images.requested, step.images.available, step.images.pool)
        for step in made.steps.values()
        if step.images.requested is not None and step.images.requested > step.images.available
    }
    return [
        f"labels.images: {requested} requested, {available} available in pool {pool}; using {available}"
        for requested, available, pool in sorted(short)
    ]


def _unjudged(made: Plan) -> set[tuple[str, str]]:
    """Data set and pool of the cells whose labels cannot be judged."""
    configs = [cell.cell.entry.dataset.config for cell in made.cells if not cell.error and "score" not in cell.roles]
    return {(config.name, config.val) for config in configs}


def _print_cells(made: Plan, cells: list[dict[str, Any]], console: Console) -> None:
    if not console.is_terminal:
        console = Console(highlight=False, width=max(shutil.get_terminal_size().columns, 160))
    keys = list(dict.fromkeys(key for cell in cells for key in cell["cell"]))
    table = Table(title=f"{made.name}", title_justify="left")
    table.add_column("#", justify="right")
    for key in keys:
        table.add_column(key.removeprefix("labels."), overflow="fold")
    figures = {
        heading: name
        for heading, name in _FIGURES.items()
        if any(cell["metrics"].get(name) is not None for cell in cells)
    }
    for heading in (*figures, "status"):
        table.add_column(heading, justify="right")
    for index, cell in enumerate(cells):
        table.add_row(
            str(index),
            *(_short(cell["cell"].get(key, "")) for key in keys),
            *(_figure(name, cell["metrics"].get(name)) for name in figures.values()),
            cell["status"],
        )
    console.print(table)


def _figure(name: str, value: Any) -> str:
    """A metric for a table: percentages with two digits, the coverage, a share, with three, counts as they are."""
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if name == "coverage" else f"{value:.2f}"


def _print_errors(made: Plan, console: Console) -> None:
    for planned in made.cells:
        if planned.error:
            console.print(f"cannot run {_describe(planned.cell.values)}: {planned.error}", style="red", markup=False)


def _describe(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={_short(value)}" for key, value in values.items()) or "the only cell"


def _short(value: Any) -> str:
    """A grid value for a table: of a mapping its values, of a path its name."""
    if isinstance(value, dict):
        return " ".join(_short(inner) for inner in value.values())
    if isinstance(value, str) and "/" in value:
        return value.rsplit("/", 1)[1]
    return "none" if value is None else str(value)


def _keys(roles: dict[str, Any]) -> dict[str, str]:
    return {role: step.key for role, step in roles.items()}


def _count(made: Plan) -> str:
    cells = "1 cell" if len(made.cells) == 1 else f"{len(made.cells)} cells"
    return f"{cells}, {len(made.steps)} distinct steps"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
