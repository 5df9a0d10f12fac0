"""The plan: the cells of an experiment, the distinct steps behind them, and which of them are done.

The model: every cell expands into steps; equal steps are one. A cell that cannot be planned (weights missing for one
row) carries its error and leaves the others alone. The plan reads listings and the ledger, and starts nothing.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.ledger.image_sets import ImageSet, build_image_set, ground_truth_digest
from orchestrator.ledger.layout import short
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.ledger.stop_marks import Stop, is_among, marked, read_mark
from orchestrator.planning.training import needs_labels, plan_finetuning, plan_pretraining
from orchestrator.spec.experiment import FINETUNED, Compute, EarlyStopping, LabelsEntry
from orchestrator.spec.grid import Cell, expand
from orchestrator.spec.references import weights_identity
from orchestrator.steps.jobs import Source, below
from orchestrator.steps.steps import ClusterStep, LabelStep, SampleStep, ScoreStep, Step, StepFactory, StepKind
from orchestrator.storage.store import Storage
from workloads.configs.clustering import KMeansConfig
from workloads.datasets import Dataset, open_dataset
from workloads.errors import InputError


@dataclass
class PlannedCell:
    """A cell, the steps it needs by role, and what keeps it from being run (or None)."""

    cell: Cell
    roles: dict[str, Step] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A step that is neither run nor failed: the status that its cells get, and why."""

    status: Literal["not trained", "stopped"]
    reason: str


@dataclass
class Plan:
    """All cells and all distinct steps in an order in which they can be run, with the manifests of those done.

    `skipped` holds the steps that this run leaves alone.
    """

    name: str
    document: dict[str, Any]
    compute: Compute
    cells: list[PlannedCell]
    steps: dict[str, Step]
    done: dict[str, Manifest]
    skipped: dict[str, Skipped] = field(default_factory=dict)

    @property
    def pending(self) -> list[Step]:
        """Steps that have no manifest yet and are not skipped."""
        return [step for step in self.steps.values() if step.key not in self.done and step.key not in self.skipped]

    def users(self, key: str) -> list[PlannedCell]:
        """The cells that need a step."""
        return [cell for cell in self.cells if any(step.key == key for step in cell.roles.values())]

    def counts(self) -> dict[str, dict[str, int]]:
        """Per kind of step: how many the cells name, how many are distinct, cached and to run."""
        named = Counter(step.kind for cell in self.cells for step in cell.roles.values())
        distinct = Counter(step.kind for step in self.steps.values())
        pending = Counter(step.kind for step in self.pending)
        return {
            kind.value: {
                "named": named[kind],
                "distinct": distinct[kind],
                "cached": distinct[kind] - pending[kind],
                "to_run": pending[kind],
            }
            for kind in StepKind
            if named[kind]
        }


Stage = Literal["labels", "pretrain", "finetune"]


def make_plan(document: dict[str, Any], storage: Storage, *, write_listings: bool, until: Stage = "finetune") -> Plan:
    """Expand an experiment document, up to a stage of the method, and look up what is done.

    Raises:
        InputError: the document is wrong, or no cell at all can be planned.
    """
    cells = expand(document)
    planner = _Planner(storage if write_listings else None, until)
    planned = [planner.plan(cell) for cell in cells]
    errors = {cell.error for cell in planned if cell.error}
    if planned and all(cell.error for cell in planned):
        raise InputError("\n".join(sorted(error for error in errors if error)))
    ledger = Ledger(storage)
    steps = {step.key: step for cell in planned for step in cell.roles.values()}
    manifests = {key: ledger.manifest(step.kind, key) for key, step in steps.items()}
    done = {key: manifest for key, manifest in manifests.items() if manifest is not None}
    entry = cells[0].entry
    plan = Plan(entry.name, document, entry.compute, planned, steps, done)
    skip_stopped(plan, storage)
    return plan


def skip_stopped(plan: Plan, storage: Storage) -> None:
    """Skip the fine-tunings that were given up, where the plan asks for early stopping."""
    rule = plan.compute.early_stopping
    if rule is None:
        return
    pending = (step for step in may_be_stopped(plan.steps.values()) if step.key not in plan.done)
    stopped = stopped_before(pending, rule, storage)
    plan.skipped |= {key: Skipped("stopped", stop.reason) for key, stop in stopped.items()}


def may_be_stopped(steps: Collection[Step]) -> list[Step]:
    """The fine-tunings among all steps of a plan that nothing else is computed from."""
    needed = {key for step in steps for key in step.inputs.values()}
    return [step for step in steps if step.kind is StepKind.FINETUNE and step.key not in needed]


def stopped_before(steps: Iterable[Step], rule: EarlyStopping, storage: Storage) -> dict[str, Stop]:
    """The given steps that were given up under this rule, by key."""
    marks = marked(storage)
    found = {step.key: read_mark(storage, step.key) for step in steps if is_among(marks, step.key)}
    same = (rule.reduction_factor, rule.grace)
    return {
        key: stop for key, stop in found.items() if stop is not None and (stop.reduction_factor, stop.grace) == same
    }


def finished_images(step: Step, ledger: Ledger) -> int:
    """How many images of a step that is not done lie in finished shards (of this or of a shorter prefix)."""
    if not step.stream:
        return 0
    names = ledger.finished_shards(step.stream)
    return sum(shard.stop - shard.start for shard in step.images.shards if short(shard.digest) in names)


def of_pool(error: InputError, key: str) -> InputError:
    """The error, with the key of the experiment file that named the pool where it is about a pool."""
    text = str(error)
    return InputError(f"dataset.{key}: {text.removeprefix('pool: ')}") if text.startswith("pool: ") else error


class _Planner:
    """Plans cells one after the other, listing every data set and hashing every weights file once."""

    def __init__(self, storage: Storage | None, until: Stage) -> None:
        self._storage = storage
        self._until = until
        self._datasets: dict[Any, Dataset] = {}
        self._images: dict[Any, ImageSet] = {}
        self._weights: dict[Any, str] = {}

    def plan(self, cell: Cell) -> PlannedCell:
        planned = PlannedCell(cell)
        try:
            self._plan_steps(planned)
        except InputError as error:
            planned.roles.clear()
            planned.error = str(error)
        return planned

    def _plan_steps(self, planned: PlannedCell) -> None:
        entry = planned.cell.entry
        dataset = self._dataset(planned)
        factory = StepFactory(dataset, entry.dataset.order_seed)
        config, root = entry.dataset.config, entry.dataset.root
        if config.val not in dataset.pools and "val" in config.model_fields_set:
            # Left at its default, a missing pool means that nothing is scored; named, it is a mistake.
            raise InputError(
                f"dataset.val: {config.val!r} is not a pool of {dataset.name} here; pools: {', '.join(dataset.pools)}"
            )
        root = str(Path(root).expanduser().absolute()) if root is not None else None
        train = Source(config, root, config.pool)
        val = Source(config, root, config.val)
        if needs_labels(entry) or self._until == "labels":
            self._plan_labels(planned, factory, train, val)
        if self._until == "labels":
            return
        pretrained = None
        if entry.pretrain is not None:
            images = self._image_set(planned, train.pool, entry.labels.images)
            pretrained = plan_pretraining(entry, entry.pretrain, factory, train, images, planned.roles)
            planned.roles["pretrain"] = pretrained
        if entry.finetune is not None and self._until != "pretrain":
            judged_images = self._image_set(planned, val.pool, None)
            planned.roles["finetune"] = plan_finetuning(
                entry, entry.finetune, factory, dataset, (train, val), judged_images, pretrained, self._storage
            )

    def _plan_labels(self, planned: PlannedCell, factory: StepFactory, train: Source, val: Source) -> None:
        entry = planned.cell.entry
        labels = entry.labels
        dataset = self._dataset(planned)
        config = entry.dataset.config
        scored = config.val in dataset.pools and dataset.labelled(config.val)
        roles = planned.roles
        weights = ""
        if labels.source == "auxiliary":
            images = self._image_set(planned, train.pool, labels.images)
            weights = self._extractor_weights(planned, factory, train, val)
            self._fit(planned, factory, train, images, weights)
            roles["label"] = self._label(planned, factory, train, images, weights, "superpixels")
        elif labels.source == "superpixel":
            if labels.superpixels is None:
                raise InputError("labels.superpixels: null is not allowed where labels.source is superpixel")
            images = self._image_set(planned, train.pool, labels.images)
            roles["superpixels"] = factory.superpixels(train, labels.superpixels, images)
        if not scored:
            if not roles and entry.pretrain is None:
                raise InputError(
                    f"labels.source: 'pixel' is a score and nothing else, and data set {config.name} has no ground "
                    f"truth in pool {config.val!r}"
                )
            return
        val_images = self._image_set(planned, val.pool, None)
        truth = ground_truth_digest(dataset, val.pool, (entry.id for entry in dataset.entries(val.pool)))
        work = ScoreStep(val, len(dataset.classes), labels.source)
        match labels.source:
            case "auxiliary":
                judged = self._label(planned, factory, val, val_images, weights, "superpixels_val")
                roles["label_val"] = judged
                roles["score"] = factory.score(work, val_images, truth, judged)
            case "superpixel":
                assert labels.superpixels is not None
                segments = factory.superpixels(val, labels.superpixels, val_images)
                roles["superpixels_val"] = segments
                roles["score"] = factory.score(work, val_images, truth, segments)
            case "pixel":
                roles["score"] = factory.score(work, val_images, truth, None)

    def _fit(self, planned: PlannedCell, factory: StepFactory, train: Source, images: ImageSet, weights: str) -> None:
        entry = planned.cell.entry
        labels = entry.labels
        sample = SampleStep(train, labels.extractor, labels.sampling, entry.seed)
        planned.roles["sample"] = factory.sample(sample, images, weights, planned.roles.get("extractor_finetune"))
        clusters = _clusters(labels, self._dataset(planned).num_classes, entry.dataset.config.name)
        _require_samples(labels, clusters, images.count)
        work = ClusterStep(labels.clustering, clusters, entry.seed)
        planned.roles["cluster"] = factory.cluster(work, planned.roles["sample"])

    def _label(
        self,
        planned: PlannedCell,
        factory: StepFactory,
        source: Source,
        images: ImageSet,
        weights: str,
        role: str,
    ) -> Step:
        labels = planned.cell.entry.labels
        if labels.superpixels is not None:
            planned.roles[role] = factory.superpixels(source, labels.superpixels, images)
        work = LabelStep(source, labels.extractor, labels.outliers, judged=role == "superpixels_val")
        network = planned.roles.get("extractor_finetune")
        return factory.label(work, images, weights, network, planned.roles["cluster"], planned.roles.get(role))

    def _extractor_weights(self, planned: PlannedCell, factory: StepFactory, train: Source, val: Source) -> str:
        """The identity of the extractor's weights; where they are trained here, that training becomes a step."""
        entry = planned.cell.entry
        finetune = entry.labels.extractor.finetune
        if finetune is None:
            return self._weights_identity(entry.labels)
        dataset = self._dataset(planned)
        judged = self._image_set(planned, val.pool, None)
        try:
            planned.roles["extractor_finetune"] = plan_finetuning(
                entry, finetune, factory, dataset, (train, val), judged, None, self._storage
            )
        except InputError as error:
            raise below("labels.extractor", error) from None
        return FINETUNED

    def _dataset(self, planned: PlannedCell) -> Dataset:
        entry = planned.cell.entry.dataset
        name = (entry.config, entry.root)
        if name not in self._datasets:
            self._datasets[name] = open_dataset(entry.config, Path(entry.root) if entry.root else None)
        return self._datasets[name]

    def _image_set(self, planned: PlannedCell, pool: str, requested: int | None) -> ImageSet:
        entry = planned.cell.entry
        shard_images = entry.compute.shard_images
        name = (entry.dataset, pool, requested, shard_images)
        if name not in self._images:
            try:
                self._images[name] = build_image_set(
                    self._dataset(planned),
                    pool,
                    requested,
                    order_seed=entry.dataset.order_seed,
                    shard_images=shard_images,
                    storage=self._storage,
                )
            except InputError as error:
                raise of_pool(error, "pool" if pool == entry.dataset.config.pool else "val") from None
        return self._images[name]

    def _weights_identity(self, labels: LabelsEntry) -> str:
        name = (labels.extractor.config.arch, labels.extractor.weights)
        if name not in self._weights:
            try:
                self._weights[name] = weights_identity(*name)
            except InputError as error:
                raise below("labels.extractor", error) from None
        return self._weights[name]


def _clusters(labels: LabelsEntry, num_classes: int | None, dataset: str) -> int:
    config = labels.clustering
    if num_classes is None:
        if isinstance(config, KMeansConfig) and config.k is not None:
            return config.k
        raise InputError(
            f"labels.clustering.k_per_class: data set {dataset} has no classes, so K = k_per_class x M is not defined; "
            "give labels.clustering.k instead, or dataset.num_classes"
        )
    return config.clusters(num_classes)


def _require_samples(labels: LabelsEntry, clusters: int, images: int) -> None:
    """Refuse more clusters than there can be samples, before anything is computed."""
    config = labels.clustering
    if not isinstance(config, KMeansConfig):
        return
    pixels = labels.sampling.pixels_per_image
    samples = min(images * pixels, config.max_pixels)
    if clusters > samples:
        key, value = ("k_per_class", config.k_per_class) if config.k is None else ("k", config.k)
        raise InputError(
            f"labels.clustering.{key}: {value} gives K = {clusters}, larger than the sample of {samples} pixels "
            f"({images} images, labels.sampling.pixels_per_image={pixels}, "
            f"labels.clustering.max_pixels={config.max_pixels}); allowed: K of 1 to {samples}"
        )
