"""Plans for images that an experiment never saw: their classes, or their labels by its clusters."""

from dataclasses import replace
from pathlib import Path

from orchestrator.ledger.image_sets import build_image_set
from orchestrator.ledger.inputs import Files, InputFiles
from orchestrator.ledger.manifests import Ledger
from orchestrator.planning.cells import PlannedCell, of_pool
from orchestrator.planning.plan import Plan
from orchestrator.steps.finetune import FinetuneStep
from orchestrator.steps.jobs import Source
from orchestrator.steps.label import LabelStep
from orchestrator.steps.predict import PredictStep
from orchestrator.steps.step import ShardedStep, Step
from orchestrator.storage.store import Storage
from workloads.datasets import open_dataset
from workloads.datasets.folder import FolderConfig
from workloads.errors import InputError
from workloads.places import expanded

# What can be had for new images, and the role of the step that it is computed from.
ROLES = {"classes": "finetune", "labels": "label"}


def prediction_plan(plan: Plan, planned: PlannedCell, what: str, images: Path, storage: Storage) -> Plan:
    """The steps that are left for the images of a folder, behind those of a cell that are done.

    Parameters
    ----------
    plan, planned
        The experiment and the cell.
    what
        ``classes`` or ``labels``, see `ROLES`.
    images
        Folder of the images.
    storage
        Where the experiment's steps lie, and where the new ones go.

    Raises
    ------
    InputError
        The cell is not done, or the folder has no images.
    """
    behind = planned.roles[ROLES[what]]
    if behind.key not in plan.done:
        raise InputError(f"the {behind.kind} step of this cell is not done on {storage.uri}; `lookbeyond run` does it")
    config = FolderConfig()
    root = expanded(images, "images").absolute()
    dataset = open_dataset(config, root)
    source = Source(config, str(root), config.pool)
    try:
        listed = dataset.entries(config.pool)
    except InputError as error:
        raise of_pool(error, "pool").at("IMAGES") from None
    # Frames of two videos may have equal names and sizes.
    entries = InputFiles(storage, write=True).told(Files(config, str(root), config.pool, "images"), dataset, listed)
    image_set = build_image_set(
        config.pool, entries, None, order_seed=0, shard_images=plan.compute.shard_images, storage=storage
    )
    identity = {"identity": dataset.identity(), "order_seed": 0}
    step: ShardedStep
    segments: list[Step] = []
    match behind:
        case FinetuneStep():
            step = PredictStep(images=image_set, dataset=identity, source=source, network=behind)
        case LabelStep(superpixels=superpixels):
            if superpixels is not None:
                superpixels = replace(superpixels, images=image_set, dataset=identity, source=source)
                segments = [superpixels]
            step = replace(behind, images=image_set, dataset=identity, source=source, superpixels=superpixels)
        case _:
            raise AssertionError(f"nothing is predicted by a {behind.kind} step")
    ledger = Ledger(storage)
    steps = {one.key: one for one in [*segments, step]}
    done = plan.done | ledger.manifests_of((one.kind, key) for key, one in steps.items())
    cell = PlannedCell(planned.cell, planned.roles | {one.kind: one for one in steps.values()})
    return Plan(plan.name, plan.document, plan.compute, [cell], steps, done)
