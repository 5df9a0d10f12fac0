"""Plans for images that an experiment never saw: their classes, or their labels by its clusters."""

import re
from dataclasses import replace

from orchestrator.ledger.image_sets import build_image_set
from orchestrator.ledger.inputs import Files, InputFiles
from orchestrator.ledger.manifests import Ledger
from orchestrator.planning.cells import PlannedCell, StepNotDoneError, of_pool
from orchestrator.planning.plan import Plan
from orchestrator.steps.finetune import FinetuneStep
from orchestrator.steps.jobs import Source
from orchestrator.steps.label import LabelStep
from orchestrator.steps.predict import PredictStep
from orchestrator.steps.step import ShardedStep, Step
from orchestrator.storage.store import Storage
from workloads.bucket_paths import absolute, any_path
from workloads.datasets import AnyDatasetConfig, open_dataset
from workloads.datasets.depth import SixteenBit
from workloads.datasets.folder import FolderConfig
from workloads.datasets.masks import MasksConfig, PoolConfig
from workloads.datasets.table import TABLE_SUFFIXES, TableConfig
from workloads.errors import InputError

# What can be had for new images, and the role of the step that it is computed from.
ROLES = {"classes": "finetune", "labels": "label"}


def images_of(place: str, sixteen_bit: SixteenBit) -> tuple[AnyDatasetConfig, str]:
    """The data set, and its root, of images that a command names: a folder, a table, or a glob; also in a bucket."""
    if place.lower().endswith(TABLE_SUFFIXES):
        return TableConfig(file=absolute(place, "IMAGES"), sixteen_bit=sixteen_bit), absolute(".", "IMAGES")
    folder, *pattern = re.split(r"/(?=[^/]*[*?\[])", place if "/" in place else f"./{place}", maxsplit=1)
    if pattern and not any_path(place, "IMAGES").exists():
        pool = PoolConfig(images=pattern[0])
        return MasksConfig(pools={"train": pool}, sixteen_bit=sixteen_bit), absolute(folder or "/", "IMAGES")
    return FolderConfig(sixteen_bit=sixteen_bit), absolute(place, "IMAGES")


def prediction_plan(plan: Plan, planned: PlannedCell, what: str, images: str, storage: Storage) -> Plan:
    """The steps that are left for images, behind those of a cell that are done.

    Parameters
    ----------
    plan, planned
        The experiment and the cell.
    what
        ``classes`` or ``labels``, see `ROLES`.
    images
        Where the images are, see `images_of`.
    storage
        Where the experiment's steps lie, and where the new ones go.

    Raises
    ------
    InputError
        The cell is not done, or there are no images.
    """
    behind = planned.roles[ROLES[what]]
    config, root = images_of(images, getattr(planned.cell.entry.dataset.config, "sixteen_bit", None))
    try:
        dataset = open_dataset(config, root)
        listed = dataset.entries(config.pool)
    except InputError as error:
        raise of_pool(error, "pool").at("IMAGES") from None
    if behind.key not in plan.done:
        raise StepNotDoneError.of(f"the {behind.kind} step", storage.uri)
    source = Source(config, root, config.pool)
    # Frames of two videos may have equal names and sizes.
    entries = InputFiles(storage, write=True).told(Files(config, root, config.pool, "images"), dataset, listed)
    image_set = build_image_set(
        config.pool, entries, None, order_seed=0, shard_images=plan.compute.shard_images, storage=storage
    )
    identity = {"identity": dataset.image_identity(), "order_seed": 0}
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
