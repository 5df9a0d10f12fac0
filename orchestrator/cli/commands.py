"""What each command does, in terms of plan, run, ledger and results."""

import json
import math
import re
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.cli.running import changed, run_experiments, short_pools, size_of_plan
from orchestrator.cli.submission import Sending, submit_experiment
from orchestrator.execution.progress import Progress, plain_console
from orchestrator.ledger.inputs import changed_files
from orchestrator.ledger.verification import verify as verify_storage
from orchestrator.planning.check import check_experiment
from orchestrator.planning.choice import chosen_cell
from orchestrator.planning.cluster_config import cluster_capacity
from orchestrator.planning.estimate import Estimate, cores_here, estimate, read_assumptions
from orchestrator.planning.explain import explain as explain_plan
from orchestrator.planning.imagined import Imagined, parsed_size
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.proposal import propose
from orchestrator.planning.proposal_text import as_experiment
from orchestrator.planning.speeds import keep_speeds
from orchestrator.report.command import announce, named_storage
from orchestrator.report.writing import write_all, write_one
from orchestrator.results.console_tables import print_table
from orchestrator.results.keeping import what_is_there_named
from orchestrator.results.label_export import LabelMaps, export_label_maps
from orchestrator.spec.grid import expand
from orchestrator.spec.key_reference import experiment_keys
from orchestrator.spec.loading import load_experiment, name_after
from orchestrator.spec.naming import describe
from orchestrator.storage.store import Storage
from workloads.errors import InputError
from workloads.formats import counted, duration, figure, said_once, size

_DEMO = Path(__file__).with_name("demo.yaml")


def demo(options: Namespace) -> int:
    """Run the packaged demonstration experiment."""
    return run_experiments([load_experiment(_DEMO, options.overrides)], options)


def run(options: Namespace) -> int:
    """Run an experiment, or several as one plan: what ends as experiment files do is one more of them."""
    more = [one for one in options.overrides if "=" not in one and one.endswith((".yaml", ".yml"))]
    overrides = [one for one in options.overrides if one not in more]
    files = [options.experiment, *more]
    if options.json and more:
        raise InputError("prints one document; allowed: one experiment", key="--json")
    return run_experiments([_document_of(file, overrides) for file in files], options)


def submit(options: Namespace) -> int:
    """Run an experiment as a job on a cluster."""
    return submit_experiment(
        options.experiment,
        expand(_document(options)),
        options.overrides,
        storage=options.storage,
        until=options.until,
        address=options.address,
        sending=Sending(options.limit * 1_000_000, not options.no_wait, options.retries, tuple(options.send)),
    )


def _document(options: Namespace) -> dict[str, Any]:
    """The experiment that the command names."""
    return _document_of(options.experiment, options.overrides)


def _document_of(experiment: str, overrides: list[str]) -> dict[str, Any]:
    """An experiment; ``demo`` is the packaged one, unless there is a file of that name."""
    path = Path(experiment)
    if (name := name_after(path)) != path.stem:
        print(f"lookbeyond: where it gives no other name, {path.name} is called {name}", file=sys.stderr)
    return load_experiment(_DEMO if str(path) == "demo" and not path.exists() else path, overrides)


def init(options: Namespace) -> int:
    """Write an experiment file for a folder."""
    output = Path(options.output)
    if output.exists():
        raise InputError(f"{output} is there already; give another name with --output", key="--output")
    folder = Path(options.folder)
    found = propose(folder)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip("-.") or "experiment"
    # Whole or not at all: half of it would be there already when the same command is given again.
    Storage(str(output.absolute().parent)).replace(output.name, as_experiment(found, name, options.folder).encode())
    pools = ", ".join(f"{name} {pool.count}" for name, pool in found.pools.items())
    what = "images and masks" if found.has_masks else "images, no masks"
    for note in found.notes:
        print(f"lookbeyond: {note}", file=sys.stderr)
    decide = "name the classes in it (null: ignored), then " if found.has_masks else ""
    print(f"{what}: {pools}\nwritten  {output}\nnext     {decide}lookbeyond check {output}")
    return 0


def keys(options: Namespace) -> int:
    """List the keys of an experiment file."""
    found = experiment_keys(options.prefix)
    if not found:
        tops = ", ".join(dict.fromkeys(one.key.split(".")[0] for one in experiment_keys()))
        raise InputError(key="PREFIX", value=options.prefix, allowed=f"no key begins so; the first parts are {tops}")
    if options.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
        return 0
    for one in found:
        default = f", default {one.default}" if one.default else ""
        print(
            f"{one.key}{f'   ({one.owner})' if one.owner else ''}\n    {one.kind}{default}\n    {one.meaning}".rstrip()
        )
    return 0


def plan(options: Namespace) -> int:
    """Print the plan of an experiment."""
    storage = Storage(options.storage)
    assumptions = read_assumptions(options.rates) if options.rates else None
    made = make_plan(_document(options), storage, write_listings=False, imagined=_imagined(options))
    cluster = made.compute.cluster_config
    capacity = cluster_capacity(cluster) if cluster else None
    costs = estimate(made, storage, assumptions, capacity, device=options.device)
    if options.json:
        document = {
            "experiment": made.name,
            "cells": [
                {
                    "cell": cell.cell.values,
                    "row": cell.cell.row,
                    "column": cell.cell.column,
                    "error": str(cell.error) if cell.error else None,
                    "steps": _keys(cell.roles),
                }
                for cell in made.cells
            ],
            "steps": made.counts(),
            "changed": made.changed,
            "estimate": asdict(costs),
        }
        print(json.dumps(document, indent=1))
        return 0
    console = plain_console()
    table = Table(title=f"{made.name}: {size_of_plan(made)}", title_justify="left")
    for heading in ("step", "named by cells", "distinct", "cached", "to run", "estimate"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for kind, counts in made.counts().items():
        table.add_row(
            kind,
            *(str(counts[name]) for name in ("named", "distinct", "cached", "to_run")),
            duration(costs.seconds_by_kind.get(kind, 0.0)),
        )
    print_table(table, console)
    if costs.uncertainty or costs.sources:
        _print_costs(costs, console, fixed=bool(cluster))
    if costs.wall_seconds is not None:
        console.print(f"on all machines of {cluster}: {duration(costs.wall_seconds)} at least")
    if costs.money is not None:
        console.print(f"cost of the work by the prices given: {costs.money:.2f} {costs.currency}")
    if len(made.cells) > 1:
        console.print(f"each cell from scratch would take {costs.times_alone:.2f} times the work of all together")
    for line in (*changed(made), *short_pools(made), *made.warnings):
        console.print(line, style="yellow", markup=False)
    _print_errors(made, console)
    return 0


def _imagined(options: Namespace) -> Imagined | None:
    """The data set that is asked about, where it need not be there."""
    if options.images is None and options.size is None:
        return None
    if options.images is None or options.size is None:
        missing, given = ("--images", "--size") if options.images is None else ("--size", "--images")
        raise InputError("is missing", key=missing, allowed=f"it goes with {given}: --images 5000 --size 1024x2048")
    return Imagined(options.images, parsed_size(options.size))


def _print_costs(costs: Estimate, console: Console, *, fixed: bool) -> None:
    gpus = f" and {duration(costs.gpu_seconds)} of one GPU" if costs.gpu_seconds else ""
    sure = f" ({costs.uncertainty})" if costs.uncertainty else ""
    console.print(f"to run: {duration(costs.core_seconds)} of one core{gpus}{sure}", soft_wrap=True)
    if not costs.gpu_seconds and not fixed and cores_here() > 1:
        least = duration(costs.core_seconds / cores_here())
        console.print(f"on this machine's {cores_here()} cores: {least} at least", soft_wrap=True)
    console.print(
        f"to write: {size(costs.bytes)}; memory of the largest sample matrix: {size(costs.sample_matrix_bytes)}",
        soft_wrap=True,
    )
    console.print(f"estimated from: {costs.basis}", soft_wrap=True)


def calibrate(options: Namespace) -> int:
    """Measure this machine, and keep what was found for its user."""
    import torch

    from workloads.costs.calibration import calibrate as measured

    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError(key="--device", value="cuda", allowed="torch finds no GPU on this machine")
    speeds = measured(options.device)
    path = keep_speeds(options.device, speeds)
    if options.json:
        print(speeds.model_dump_json(indent=1))
    else:
        rate = speeds.networks["forward float32"].dense
        print(f"{speeds.device}: {1e-9 / rate if rate else math.inf:.0f} GFLOP/s of convolutions, forward in float32")
        print(f"written  {path}" if path else "lookbeyond: the user's cache folder cannot be written: nothing was kept")
    return 0 if path else 1


def check(options: Namespace) -> int:
    """Check an experiment before it is run."""
    storage = Storage(options.storage)
    report = check_experiment(_document(options), storage, options.images)
    if options.json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        report.print(plain_console())
    return 2 if report.problems else 0


def explain(options: Namespace) -> int:
    """Print why each step would run again."""
    storage = Storage(options.storage)
    made = make_plan(_document(options), storage, write_listings=False)
    for step, reason in explain_plan(made, storage):
        print(f"{step.kind:<12} {step.key[:12]}  {reason}")
    return 0


def export_labels(options: Namespace) -> int:
    """Write the label maps of one cell in a format of other tools."""
    storage = Storage(options.storage)
    made = make_plan(_document(options), storage, write_listings=False)
    cell = chosen_cell(made, "label" if options.pool == "train" else "label_val", row=options.row, cell=options.cell)
    with what_is_there_named(made.name, storage, options.overrides), Progress() as progress:
        maps = LabelMaps(made, cell, options.pool, storage)
        count = export_label_maps(maps, Path(options.output), progress, options.format)
    print(f"{counted(count, 'label map')}, legend.json and legend.png in {options.output}")
    return 0


def export_backbone(options: Namespace) -> int:
    """Write the trained backbone of one cell as a state dict in torchvision's names."""
    from orchestrator.results.backbone_export import export_backbone as write_backbone

    storage = Storage(options.storage)
    made = make_plan(_document(options), storage, write_listings=False)
    cell = chosen_cell(made, options.stage, row=options.row, cell=options.cell)
    with what_is_there_named(made.name, storage, options.overrides):
        card = write_backbone(made, cell, options.stage, storage, Path(options.output))
    print(f"backbone  {options.output}\ncard      {card}")
    return 0


def export_model(options: Namespace) -> int:
    """Write the fine-tuned network of one cell into a folder."""
    from orchestrator.results.model_export import export_model as write_model

    storage = Storage(options.storage)
    made = make_plan(_document(options), storage, write_listings=False)
    cell = chosen_cell(made, "finetune", row=options.row, cell=options.cell)
    with what_is_there_named(made.name, storage, options.overrides):
        written = write_model(made, cell, options.format, storage, Path(options.output))
    score = "" if written.miou is None else f", mIoU {figure(written.miou)}"
    print(f"network  {written.cell}{score}\nwritten  {', '.join(written.files)} in {options.output}")
    return 0


def predict(options: Namespace) -> int:
    """Predict images that the experiment never saw."""
    from orchestrator.cli.predicting import predict_images

    storage = Storage(options.storage)
    made = make_plan(_document(options), storage, write_listings=False)
    with what_is_there_named(made.name, storage, options.overrides):
        return predict_images(made, storage, options)


def verify(options: Namespace) -> int:
    """Check every shard of a storage."""
    storage = Storage(options.storage)
    storage.require_folder()
    found = verify_storage(storage, repair=options.repair)
    if options.inputs:
        found.inputs = dict(changed_files(storage))
    if options.json:
        print(json.dumps(asdict(found), indent=1))
    else:
        print(f"{counted(found.steps, 'step')}, {counted(found.shards, 'shard')}, {size(found.bytes)} read")
        for path, problem in found.damaged.items():
            print(f"damaged: {path} {problem}")
        for file, problem in found.inputs.items():
            print(f"changed: {file} {problem}")
        if found.leftovers:
            print(f"{counted(len(found.leftovers), 'leftover')} of killed attempts")
        if found.repaired:
            print(f"removed {counted(len(found.repaired), 'file')}; `lookbeyond run` computes again what is missing")
        elif found.damaged:
            print("`lookbeyond verify STORAGE --repair` forgets the damaged shards, so that `run` computes them again")
    return 1 if (found.damaged and not options.repair) or found.inputs else 0


def report(options: Namespace) -> int:
    """Write the reports of a storage, or of one experiment on it."""
    storage = named_storage(options.experiment, options.overrides)
    if storage is not None:
        return announce(write_all(storage, options.output), options)
    name = str(_document(options)["name"])
    return announce(write_one(Storage(options.storage), name, options.output), options)


def _print_errors(made: Plan, console: Console) -> None:
    cells = [planned.cell for planned in made.cells]
    broken = [(describe(planned.cell, cells), str(planned.error)) for planned in made.cells if planned.error]
    for line in said_once(broken):
        console.print(f"cannot run {line}", style="red", markup=False, soft_wrap=True)


def _keys(roles: dict[str, Any]) -> dict[str, str]:
    return {role: step.key for role, step in roles.items()}
