"""Fine-tuning of a segmentation network on labelled images, and its mIoU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from orchestrator.ledger.image_sets import read_listing
from orchestrator.ledger.layout import labelled_list_path, model_path
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import MAP_COMPRESSION, MAP_SCHEMA, ShardRecord, ShardWriter, map_batch, origin_of
from orchestrator.ledger.training_states import VAL_MIOU_SUBSET, miou_at, read_history
from orchestrator.spec.training import FinetuneEntry
from orchestrator.steps.jobs import ImageSlice, Source, WorkerCache
from orchestrator.steps.joint import Joint, JointJob
from orchestrator.steps.pretrain import PretrainStep
from orchestrator.steps.rates import Extent, Rate, config_of
from orchestrator.steps.step import CellSteps, Step
from orchestrator.steps.training import (
    SUBSET_EVALUATIONS,
    DistributedContext,
    TrainingJob,
    TrainingStep,
    first_weights_identity,
    require_batch,
)
from orchestrator.steps.true_labels import TrueLabels
from orchestrator.storage.store import Storage
from workloads.configs.networks import Initialisation
from workloads.configs.training import EvaluationConfig, FinetuneConfig, JointConfig, OptimiserConfig
from workloads.costs.work import Work, evaluation, steps_of, total
from workloads.datasets.fractions import LabelledList, labelled_list, parse_labelled_list
from workloads.datasets.order import seeded_order
from workloads.errors import InputError
from workloads.ignored import IGNORE_CLASS

if TYPE_CHECKING:
    from workloads.training.loop import Loop

_SUBSET_IMAGES = 16
_PREDICTED_IMAGES = 4
_EXTRACTOR = "extractor_finetune"


@dataclass(frozen=True, eq=False, kw_only=True)
class FinetuneStep(TrainingStep):
    """Fine-tuning on a list of labelled images (a file of the storage), judged on the step's image set.

    `trained_on` identifies the labelled images, `truth` the ground truth that is trained on and that is judged against;
    the first weights count only where nothing was pre-trained.
    """

    kind: ClassVar[str] = "finetune"
    code_version: ClassVar[int] = 5
    title: ClassVar[str] = "fine-tune"
    roles: ClassVar[tuple[str, ...]] = (_EXTRACTOR, "finetune")
    assumed_rate: ClassVar[Rate] = Rate(seconds=0.07)
    may_be_given_up: ClassVar[bool] = True

    judged: Source
    labelled: LabelledList
    truth: tuple[str, str]
    trained_on: str
    num_classes: int
    config: FinetuneConfig
    init: Initialisation
    pretrained: PretrainStep | None
    joint: Joint | None

    @classmethod
    def plan(cls, role: str, cell: CellSteps) -> Self | None:
        """The cell's own fine-tuning, or that of its extractor where the labels need one trained here."""
        entry = cell.entry
        if role == _EXTRACTOR:
            finetune = entry.labels.extractor.finetune
            if finetune is None or not cell.makes_labels or entry.labels.source != "auxiliary":
                return None
            try:
                return cls._plan(finetune, cell, None, None)
            except InputError as error:
                raise error.below("labels.extractor") from None
        if entry.finetune is None or cell.until != "finetune":
            return None
        pretrained = cell.step("pretrain")
        assert isinstance(pretrained, PretrainStep | None)
        return cls._plan(entry.finetune, cell, pretrained, Joint.plan(cell))

    @classmethod
    def _plan(
        cls, finetune: FinetuneEntry, cell: CellSteps, pretrained: PretrainStep | None, joint: Joint | None
    ) -> Self:
        dataset = cell.dataset
        train = replace(cell.train, pool=finetune.pool or cell.train.pool)
        for source in (train, cell.val):
            if not dataset.labelled(source.pool):
                raise InputError(f"pool {source.pool!r} of {dataset.name} has no ground truth", key="finetune")
        ids = _candidates(finetune, cell, train)
        counted = {"number": finetune.number} if finetune.number is not None else {"fraction": finetune.fraction or 1.0}
        listed = labelled_list(ids, **counted, seed=cell.entry.dataset.order_seed)
        if cell.storage is not None:
            cell.storage.create(labelled_list_path(listed.sha256), listed.to_text().encode())
        config = finetune.config_over(len(ids)).model_copy(update={"seed": finetune.config.seed + cell.entry.seed})
        require_batch(cell, "finetune", config.batch_size, least=2)
        identity = ""
        if pretrained is None:
            backbone = config.segmentor.backbone
            identity = first_weights_identity(cell, "finetune", backbone, finetune.init, finetune.weights)
        elif pretrained.config.segmentor != config.segmentor:
            raise InputError(
                f"{config.segmentor} is not the network that was pre-trained, {pretrained.config.segmentor}",
                key="finetune.segmentor",
            )
        return cls(
            images=cell.image_set(cell.val, None),
            dataset=cell.identity,
            source=train,
            judged=cell.val,
            labelled=listed,
            truth=(cell.truth_digest(train, listed.ids), cell.truth_digest(cell.val)),
            trained_on=cell.images_digest(train, listed.ids),
            num_classes=len(dataset.classes),
            config=config,
            init=finetune.init,
            weights_identity=identity,
            first_weights=finetune.weights,
            pretrained=pretrained,
            joint=joint,
        )

    @property
    def inputs(self) -> dict[str, Step]:
        """The pre-training and the labels of the contrast beside it, where there are any."""
        labels = self.joint.labels if self.joint else None
        inputs: dict[str, Step | None] = {"pretrain": self.pretrained, "labels": labels}
        return {role: step for role, step in inputs.items() if step is not None}

    def own_meaning(self) -> Mapping[str, Any]:
        """The labelled images, the ground truth, the network, its first weights, the recipe."""
        return {
            "dataset": self.dataset,
            "pools": [self.source.pool, self.judged.pool],
            "labelled": self.labelled.sha256,
            "images": self.trained_on,
            "truth": self.truth,
            "num_classes": self.num_classes,
            "config": self.config,
            "init": None if self.pretrained else [self.init, self.weights_identity],
        } | ({"joint": self.joint.meaning()} if self.joint else {})

    @property
    def total_steps(self) -> int:
        """Steps of the optimiser."""
        return self.config.total_steps(len(self.labelled.ids))

    @property
    def optimiser(self) -> OptimiserConfig:
        """The optimiser."""
        return self.config.optimiser

    @property
    def image_passes(self) -> int:
        """Images of all batches."""
        return self.total_steps * self.config.batch_size

    @classmethod
    def work_of(cls, meaning: Mapping[str, Any], extent: Extent) -> Work | None:
        """A view of every image and a pass with gradients, and the evaluation of all images at the end."""
        config = config_of(FinetuneConfig, meaning["config"])
        classes = int(meaning["num_classes"])
        trained = steps_of(config, config.augmentation, extent.size, extent.passes, num_classes=classes)
        if "joint" in meaning:
            # Two views of as many unlabelled images as labelled ones.
            views = config_of(JointConfig, meaning["joint"]["config"]).views or config.augmentation
            trained = total(trained, steps_of(config, views, extent.size, extent.passes, views_per_image=2))
        every = extent.images
        # On the way a subset is looked at, and all images where that is asked for; a few predictions are kept.
        looks = SUBSET_EVALUATIONS * min(_SUBSET_IMAGES, every) + min(_PREDICTED_IMAGES, every)
        scored = [(config.evaluation, every * (1 + len(config.scores_at)) + looks)]
        if config.evaluation_multi_scale is not None:
            scored.append((config.evaluation_multi_scale, every))
        return total(
            trained, *(evaluation(config.segmentor, classes, how, extent.size, images) for how, images in scored)
        )

    @property
    def weights(self) -> str | None:
        """Where the first weights come from, if they count."""
        return None if self.pretrained else self.first_weights

    def evaluated(self, role: str) -> tuple[Source, int] | None:
        """The validation pool and its classes; the extractor is no part of the cell's figures."""
        return None if role == _EXTRACTOR else (self.judged, self.num_classes)

    def shown(self, role: str, manifest: Manifest) -> dict[str, Any]:
        """All results of the cell's own network."""
        return {} if role == _EXTRACTOR else super().shown(role, manifest)

    def training_job(self, storage: Storage) -> "FinetuneJob":
        """The training as it travels."""
        pretrained, origin = None, ""
        if self.pretrained is not None:
            network = Ledger(storage).finished(self.pretrained.kind, self.pretrained.key).file("network")
            pretrained, origin = network.path, network.sha256
        joint = self.joint.job() if self.joint else None
        if self.joint is not None:
            origin = origin_of(origin, self.joint.origin(storage))
        return FinetuneJob(
            storage,
            self.key,
            self.source,
            labelled_list_path(self.labelled.sha256),
            self.judged,
            ImageSlice.of(self.images),
            self.num_classes,
            self.config,
            pretrained,
            self.init,
            self.travelling_weights(self.config.segmentor.backbone, self.init),
            joint,
            origin=origin,
        )


def _candidates(finetune: FinetuneEntry, cell: CellSteps, train: Source) -> list[str]:
    """The images that labelled ones are taken from."""
    if finetune.among is None:
        return [image.id for image in cell.dataset.entries(train.pool)]
    if train.pool != cell.train.pool:
        message = f"{finetune.among} is given, but labelled images are of pool {train.pool!r}, not {cell.train.pool!r}"
        allowed = "leave out finetune.among or finetune.pool"
        raise InputError(message, key="finetune.among", value=finetune.among, allowed=allowed)
    order = seeded_order(cell.dataset.entries(train.pool), cell.entry.dataset.order_seed)
    return [image.id for image in order[: finetune.among]]


@dataclass(frozen=True)
class FinetuneJob(TrainingJob):
    """Fine-tune a network on labelled images, and score it on the validation images."""

    labelled: str
    judged: Source
    judged_images: ImageSlice
    num_classes: int
    config: FinetuneConfig
    pretrained: str | None
    init: Initialisation
    weights: str | None
    joint: JointJob | None = None

    @property
    def scores_at(self) -> Sequence[float]:
        """Shares of the steps after which all validation images are scored."""
        return self.config.scores_at

    def score_at(self, loop: "Loop", share: float) -> dict[str, float]:
        """The mIoU, single scale, after a share of the steps."""
        from workloads.scoring.evaluation import class_counts
        from workloads.scoring.metrics import mean_iou

        images = self._judged(self.judged_images.stop)
        counts = class_counts(loop.objective.segmentor, images, self.config.evaluation, loop.machine.device)
        return {miou_at(share): mean_iou(counts).miou}

    @property
    def name(self) -> str:
        """The job's kind."""
        return "FinetuneJob"

    def run(self, cache: WorkerCache) -> Outcome:
        """Train in this process, as the only worker."""
        # Here and below: what computes is imported by workers alone; the driver is spared torch.
        from orchestrator.steps.training_runs import train_alone

        del cache
        return train_alone(self)

    def build(self, context: DistributedContext) -> "Loop":
        """The training loop of one worker, at step 0."""
        from orchestrator.steps.tensors import read_tensors
        from workloads.networks.segmentors import build_segmentor, initialise, load_pretrained
        from workloads.seeding import stable_hash
        from workloads.training.finetuning import Finetuning, class_pixels, log_inverse_weights
        from workloads.training.joint import JointTraining
        from workloads.training.loop import Loop

        seed = stable_hash(self.config.seed, "network") % 2**63
        network = build_segmentor(self.config.segmentor, self.num_classes, seed=seed)
        loaded: Mapping[str, Any] = {}
        if self.pretrained is not None:
            loaded = read_tensors(self.storage, self.pretrained)
            load_pretrained(network, loaded)
        else:
            initialise(network, self.init, self.weights)
        images = TrueLabels(self.source, parse_labelled_list(self.storage.read(self.labelled).decode()).ids)
        self._require_labels(images)
        class_weights = None
        if self.config.class_balance == "log_inverse":
            # Every worker reads its share.
            ours = class_pixels(images.ground_truth(context.workers.rank, context.workers.size), self.num_classes)
            class_weights = log_inverse_weights(context.workers.sum(ours.to(context.machine.device)).cpu())
        workers, loaded_names = context.workers, frozenset(loaded)
        if self.joint is None:
            objective = Finetuning(network, self.config, workers, class_weights, loaded_names)
        else:
            unlabelled = self.joint.unlabelled(self.storage)
            unlabelled = unlabelled._replace(source=context.cached(unlabelled.source))
            objective = JointTraining(
                network, self.config, unlabelled, workers, class_weights=class_weights, loaded=loaded_names
            )
        return Loop(
            objective,
            context.cached(images),
            self.config,
            machine=context.machine,
            workers=workers,
            wrap=context.wrap,
        )

    def _require_labels(self, images: "TrueLabels") -> None:
        """Refuse to train on images without a single labelled pixel; the first with one is enough."""
        for labels in images.ground_truth(0, 1):
            if (labels != IGNORE_CLASS).any():
                return
        raise InputError(
            f"pool {self.source.pool!r} has no pixel with a class in the {len(images.ids)} images of this training, so "
            "there is nothing to learn",
            key="finetune.pool",
        )

    def evaluate_subset(self, loop: "Loop") -> dict[str, float]:
        """The mIoU, single scale, on the validation subset (the first few images), if there is one."""
        from workloads.scoring.evaluation import class_counts
        from workloads.scoring.metrics import mean_iou

        images = self._judged(_SUBSET_IMAGES)
        counts = class_counts(loop.objective.segmentor, images, self.config.evaluation, loop.machine.device)
        score = mean_iou(counts)
        # The first few images may have no pixel with a class: there is no score then, and none is told.
        return {VAL_MIOU_SUBSET: score.miou} if score.present else {}

    def finish(self, loop: "Loop", last_loss: float | None) -> Outcome:
        """Write the network, score it (at single scale and, where the recipe says so, at several), and keep a few
        predictions to look at.
        """
        from orchestrator.steps.tensors import write_tensors

        record = write_tensors(self.storage, model_path(self.key, "pt"), loop.objective.segmentor.state_dict())
        images = self._judged(self.judged_images.stop)
        results: dict[str, Any] = {"finetune_loss": last_loss}
        names = [miou_at(share) for share in self.config.scores_at]
        for row in read_history(self.storage, self.key):
            results |= {name: row[name] for name in names if name in row}
        results |= _score(loop, images, self.config.evaluation, "miou")
        if self.config.evaluation_multi_scale is not None:
            results |= _score(loop, images, self.config.evaluation_multi_scale, "miou_multi_scale")
        return Outcome(files={"network": record, "predictions": self._predictions(loop)}, results={self.key: results})

    def _judged(self, limit: int) -> "TrueLabels":
        stop = min(limit, self.judged_images.stop)
        return TrueLabels(self.judged, read_listing(self.storage, self.judged_images.listing, 0, stop))

    def _predictions(self, loop: "Loop") -> ShardRecord:
        """Predicted classes of the first few judged images, as a shard of maps."""
        from workloads.scoring.evaluation import predict

        images = self._judged(_PREDICTED_IMAGES)
        writer = ShardWriter(MAP_SCHEMA, compression=MAP_COMPRESSION)
        for name in images.ids:
            picture = images.load(name).image
            classes = predict(loop.objective.segmentor, [picture], self.config.evaluation, loop.machine.device)[0]
            writer.add(map_batch(name, classes.astype(np.uint16)))
        # The network's record has the seconds of the whole training.
        return writer.write(self.storage, model_path(self.key, "predictions.arrow"), seconds=0.0)


def _score(loop: "Loop", images: TrueLabels, config: EvaluationConfig, name: str) -> dict[str, Any]:
    from workloads.scoring.evaluation import class_counts
    from workloads.scoring.metrics import mean_iou

    score = mean_iou(class_counts(loop.objective.segmentor, images, config, loop.machine.device))
    if not score.present:
        raise InputError(
            f"pool {images.source.pool!r} has no pixel with a class, and mIoU needs one", key="dataset.val"
        )
    per_class = [None if np.isnan(value) else float(value) for value in score.per_class_iou]
    return {name: score.miou, f"{name}_per_class": per_class, f"{name}_classes_present": score.present}
