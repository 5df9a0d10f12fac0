"""`lookbeyond run`: run what is not done, write and draw what came out, and say it."""

import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.cli.foretelling import foretell
from orchestrator.execution.progress import Progress, plain_console
from orchestrator.ledger.layout import results_path, trials_path
from orchestrator.ledger.leases import Leases
from orchestrator.planning.budget import require_prices
from orchestrator.planning.first_weights import refuse_unfit_weights
from orchestrator.planning.plan import Plan, joined, make_plan
from orchestrator.planning.selection import select_best
from orchestrator.results.best import best_lines
from orchestrator.results.cells import CellResult, Results, Run, Status
from orchestrator.results.cluster_sheets import write_cluster_sheets
from orchestrator.results.console_tables import print_cells
from orchestrator.results.figures import write_predictions, write_sheets
from orchestrator.results.gallery import write_gallery
from orchestrator.results.keeping import former_results, keep_other
from orchestrator.results.results import collect, make_results, record_run, write_results
from orchestrator.results.stability import with_stability
from orchestrator.results.tensorboard import show_sheets
from orchestrator.spec.merging import set_key
from orchestrator.spec.naming import describe
from orchestrator.storage.disk_space import full_disks
from orchestrator.storage.store import Storage, StorageFullError
from workloads.datasets import open_dataset
from workloads.errors import InputError
from workloads.formats import counted, duration, from_here, said_once


@dataclass(frozen=True)
class RunOutcome:
    """What a run came to: its plan, its results and where it wrote them, and the errors by step."""

    plan: Plan
    results: Results
    sheets: list[str]
    kept: str | None
    trials: str | None
    failed: dict[str, str]
    input_errors: set[str]


def run_experiments(documents: Sequence[dict[str, Any]], options: Namespace) -> int:
    """Run experiments as one plan, with a command's options, say what came out and return the exit code."""
    started = time.time()
    codes = [_say(outcome, started, options) for outcome in carry_out(documents, options)]
    # What the user can mend is said to be so only where nothing else went wrong.
    return 1 if 1 in codes else max(codes)


def _say(outcome: RunOutcome, started: float, options: Namespace) -> int:
    """Say what came out of an experiment; its exit code."""
    made, results, cells = outcome.plan, outcome.results, outcome.results.cells
    storage = Storage(options.storage)
    if options.json:
        print(results.to_bytes().decode())
    else:
        with _only_for_show("the table"):
            print_cells(made.name, cells, plain_console())
        places = [("results", storage.locate(results_path(made.name))), *(("picture", one) for one in outcome.sheets)]
        lines = [(title, from_here(place)) for title, place in places]
        if outcome.kept is not None:
            other = storage.locate(results_path(outcome.kept))
            lines.append(("kept", f"{from_here(other)}, the results of another experiment named {made.name}"))
        trials = outcome.trials or _trials_of_before(storage, made.name)
        lines += [("watch", f"tensorboard --logdir {from_here(trials)}")] if trials is not None else []
        lines += [("best", line) for line in best_lines(cells)]
        lines += [("mind", line) for line in results.doubts]
        lines += [("ranking", str(results.agreement))] if results.agreement is not None else []
        for title, text in (*lines, ("took", duration(time.time() - started))):
            print(f"{title:<8} {text}")
    bad = [cell for cell in cells if cell.status is Status.FAILED]
    for line in said_once((describe(cell, cells), cell.error or "") for cell in bad):
        print(f"lookbeyond: failed {line}", file=sys.stderr)
    return _exit_code(made, bool(bad), outcome.failed, outcome.input_errors)


def _trials_of_before(storage: Storage, name: str) -> str | None:
    """The folder of the trainings of earlier runs, where this machine has it."""
    place = storage.locate(trials_path(name))
    return place if storage.is_local and Path(place).is_dir() else None


def carry_out(documents: Sequence[dict[str, Any]], options: Namespace) -> list[RunOutcome]:
    """Run experiments as one plan, with a command's options; write and draw what came out of each."""
    for document in documents:
        if options.cluster_config:
            set_key(document, "compute.cluster_config", options.cluster_config)
    started = time.time()
    storage = Storage(options.storage)
    storage.check_writable()
    plans = [make_plan(document, storage, write_listings=True, until=options.until) for document in documents]
    for plan in plans:
        refuse_unfit_weights(plan)
    made = joined(plans)
    if made.compute.max_cost is not None:
        require_prices(made.compute.cluster_config)
    cached = set(made.done)
    if options.select_best:
        _select(made, options.select_best)
    with Progress() as progress:
        progress.say(f"{made.name}: {size_of_plan(made)}, {len(made.pending)} to run")
        for line in (*changed(made), *short_pools(made), *_unscored(made), *_passed_over(made), *made.warnings):
            progress.note(line)
        ended = _run_pending(made, storage, progress, options)
    # A driver may be killed between the end of a step and that of its lease, or leave all pieces of a step that is then
    # done without being held.
    Leases(storage, made.compute.lease_seconds).sweep(made.done)
    words = getattr(options, "words", ())
    return [_outcome(plan.alone(), cached, ended, started, storage, words) for plan in made.experiments]


def _select(made: Plan, number: int) -> None:
    for plan in made.experiments:
        select_best(plan, number)


@dataclass(frozen=True)
class _Ended:
    """How a run ended: errors by step, those that are the user's to mend, machines, folders of the trials."""

    failed: dict[str, str] = field(default_factory=dict)
    input_errors: set[str] = field(default_factory=set)
    machines: list[dict[str, Any]] = field(default_factory=list)
    trials: dict[str, str] = field(default_factory=dict)


def _outcome(
    made: Plan, cached: set[str], ended: _Ended, started: float, storage: Storage, words: Sequence[str]
) -> RunOutcome:
    """Write and draw what came out of one experiment."""
    cells = with_stability(made, collect(made, cached, ended.failed), storage)
    former = former_results(storage, made.name)
    kept = keep_other(former, made, cells, storage)
    run = record_run(made, started, ended.machines, words)
    results = _written(made, cells, storage, run, None if kept else former)
    trials = ended.trials.get(made.name)
    sheets = _draw(made, storage, trials)
    return RunOutcome(made, results, sheets, kept, trials, ended.failed, ended.input_errors)


def _run_pending(made: Plan, storage: Storage, progress: Progress, options: Namespace) -> _Ended:
    """Run what is not done."""
    if not made.pending:
        return _Ended()
    foretell(made, storage, progress, options.address)
    # Ray is imported only where something is run: an all-cached run answers at once.
    from orchestrator.cluster.budget import within_budget
    from orchestrator.cluster.run import run_plan

    between = partial(_select, made, options.select_best) if options.select_best else None
    try:
        with within_budget(made.compute.max_cost):
            report = run_plan(
                made, storage, progress, address=options.address, dashboard=options.dashboard, between=between
            )
    except Exception as error:
        # What is done is kept, and shown, whatever it was that found no room.
        reason = _no_room(error, storage)
        if reason is None:
            raise
        unfinished = {step.key: reason for step in made.pending}
        return _Ended(unfinished, set(unfinished))
    return _Ended(report.failed, report.input_errors, report.machines, report.trials)


def _no_room(error: Exception, storage: Storage) -> str | None:
    """What to say of an error that came of a full disk; None for others."""
    if isinstance(error, StorageFullError):
        return str(error)
    if isinstance(error, InputError):
        return None
    own = [storage.uri] if storage.is_local else []
    full = full_disks([*own, tempfile.gettempdir()])
    if not full:
        return None
    named = ", ".join(
        f"{'the storage is full: ' if place in own else ''}{place} has {left / 1e6:.1f} MB left"
        for place, left in full.items()
    )
    return (
        f"{named} ({type(error).__name__} where something was to be written); make room and run the same command again"
    )


def _written(made: Plan, cells: list[CellResult], storage: Storage, run: Run, former: Results | None) -> Results:
    """The results, on the storage if they find room there."""
    try:
        return write_results(made, cells, storage, run=run, former=former)
    except StorageFullError as error:
        print(f"lookbeyond: the results could not be written: {error}", file=sys.stderr)
        return make_results(made, cells, storage, run=run, former=former)


def _draw(made: Plan, storage: Storage, trials: str | None) -> list[str]:
    """Draw the sheets, and show them on TensorBoard where there were trainings; the places of the files."""
    sheets: list[str] = []
    said: set[str] = set()
    for draw in (write_sheets, write_predictions, write_cluster_sheets):
        with _only_for_show("a picture", said):
            sheets += draw(made, storage)
    with _only_for_show("a picture", said):
        write_gallery(made, storage)
    if trials is not None:
        with _only_for_show("a picture on TensorBoard", said):
            show_sheets(sheets, trials)
    return sheets


@contextmanager
def _only_for_show(what: str, said: set[str] | None = None) -> Iterator[None]:
    """What is done is done: what cannot be drawn or shown of it is said, and changes neither that nor the exit code.

    What is among `said` already is not said again.
    """
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, InputError | OSError) else f"{type(error).__name__}: {error}"
        line = f"lookbeyond: {what} could not be made: {reason}"
        if said is None or line not in said:
            print(line, file=sys.stderr)
        if said is not None:
            said.add(line)


def _exit_code(made: Plan, any_failed: bool, failed: dict[str, str], input_errors: set[str]) -> int:
    if not any_failed:
        return 0
    return 2 if all(_is_input_error(planned, failed, input_errors) for planned in made.cells) else 1


def _is_input_error(planned: Any, failed: dict[str, str], input_errors: set[str]) -> bool:
    """Whether the cell failed for reasons that are the user's to mend, and nothing else."""
    broken = {step.key for step in planned.roles.values()} & failed.keys()
    return bool(planned.error) or (bool(broken) and broken <= input_errors)


def changed(made: Plan) -> list[str]:
    """A line for the images or label files of each pool that were edited since they were read."""
    lines = []
    for files, names in made.changed.items():
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        lines.append(f"changed since they were read: {', '.join(names[:5])}{more} ({files})")
    return lines


def short_pools(made: Plan) -> list[str]:
    """A line for every pool that has fewer images than were asked for."""
    short = {
        (step.images.requested, step.images.available, step.images.pool)
        for step in made.steps.values()
        if step.images.requested is not None and step.images.requested > step.images.available
    }
    return [
        f"images: {requested} requested, {available} available in pool {pool}; using {available}"
        for requested, available, pool in sorted(short)
    ]


def _passed_over(made: Plan) -> list[str]:
    """A line for every pool in whose folder there are files that are not read."""
    pools = {(cell.cell.entry.dataset.root, cell.cell.entry.dataset.config) for cell in made.cells if cell.roles}
    return sorted({line for root, config in pools for line in open_dataset(config, root).passed_over(config.pool)})


def _unscored(made: Plan) -> list[str]:
    """A line for every data set whose labels cannot be scored; baselines make none."""
    making = [cell for cell in made.cells if {"label", "superpixels"} & cell.roles.keys()]
    configs = [cell.cell.entry.dataset.config for cell in making if "score" not in cell.roles]
    named = sorted({(config.name, config.val) for config in configs})
    return [f"{name} has no labelled pool {pool!r}: labels are made, PmIoU is not" for name, pool in named]


def size_of_plan(made: Plan) -> str:
    """How many cells and distinct steps a plan has."""
    return f"{counted(len(made.cells), 'cell')}, {counted(len(made.steps), 'distinct step')}"
