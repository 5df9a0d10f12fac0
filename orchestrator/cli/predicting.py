"""`lookbeyond predict`: what an experiment has learned, on images that it never saw."""

import sys
from argparse import Namespace
from pathlib import Path

from orchestrator.cli.foretelling import foretell
from orchestrator.execution.progress import Progress
from orchestrator.planning.choice import chosen_cell
from orchestrator.planning.plan import Plan
from orchestrator.planning.prediction import ROLES, prediction_plan
from orchestrator.results.label_export import LabelMaps, export_label_maps
from orchestrator.results.prediction_export import Wanted, export_predictions
from orchestrator.spec.naming import describe
from orchestrator.steps.step import ShardedStep
from orchestrator.storage.store import Storage
from workloads.datasets import open_dataset
from workloads.errors import InputError
from workloads.formats import counted


def predict_images(made: Plan, storage: Storage, options: Namespace) -> int:
    """Run the steps of the new images on Ray, as all work is, and write their files."""
    planned = chosen_cell(made, ROLES[options.what], row=options.row, cell=options.cell)
    plan = prediction_plan(made, planned, options.what, options.images, storage)
    (cell,) = plan.cells
    step = cell.roles["predict" if options.what == "classes" else "label"]
    assert isinstance(step, ShardedStep)
    entry = planned.cell.entry.dataset
    name = describe(planned.cell, [one.cell for one in made.cells])
    output = Path(options.output)
    with Progress() as progress:
        progress.say(
            f"{plan.name}, {name}: {counted(step.images.count, 'image')}, {counted(len(plan.pending), 'step')} to run"
        )
        if plan.pending:
            # Ray is imported only where something is run.
            foretell(plan, storage, progress, options.address)
            from orchestrator.cluster.budget import within_budget
            from orchestrator.cluster.run import run_plan

            with within_budget(plan.compute.max_cost):
                report = run_plan(plan, storage, progress, address=options.address, dashboard=options.dashboard)
            for key, error in report.failed.items():
                print(f"lookbeyond: failed: {error}", file=sys.stderr)
                if key in report.input_errors:
                    return 2
            if report.failed:
                return 1
        manifest = plan.done[step.key]
        if options.what == "labels":
            count = export_label_maps(LabelMaps(plan, cell, "train", storage), output, progress)
        else:
            dataset = open_dataset(entry.config, entry.root)
            results = made.done[planned.roles["finetune"].key].results
            count = export_predictions(
                step,
                manifest,
                storage,
                output,
                Wanted(
                    dataset.classes,
                    dataset.palette,
                    {"experiment": made.name, "cell": name, "miou": results.get("miou")},
                    overlays=not options.no_overlays,
                    confidence=options.confidence,
                ),
                progress,
            )
    broken = manifest.quarantined
    for item in broken:
        print(f"lookbeyond: {item.image} could not be used: {item.reason}", file=sys.stderr)
    print(f"{count} of {counted(step.images.count, 'image')} in {output}, by {name}")
    if not count:
        raise InputError("no image could be used", key="IMAGES", value=options.images)
    return 0
