"""Pre-training of a segmentation network on auxiliary labels, superpixels or views alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

from orchestrator.ledger.image_sets import read_listing
from orchestrator.ledger.layout import model_path
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import MAP_SCHEMA, Shard
from orchestrator.ledger.training_states import read_history
from orchestrator.steps.cluster import ClusterStep
from orchestrator.steps.jobs import ImageSlice, Source, WorkerCache
from orchestrator.steps.rates import Extent, Rate, config_of
from orchestrator.steps.step import CellSteps, Step
from orchestrator.steps.training import (
    DistributedContext,
    TrainingJob,
    TrainingStep,
    first_weights_identity,
    require_batch,
)
from orchestrator.storage.store import Storage
from workloads.configs.clustering import KMeansConfig
from workloads.configs.extraction import ExtractorConfig
from workloads.configs.objectives import ContrastConfig
from workloads.configs.training import OptimiserConfig, PretrainConfig
from workloads.costs.work import Work, steps_of

if TYPE_CHECKING:
    from workloads.training.batches import Sample
    from workloads.training.loop import Loop

# Shares of the images in which no cell had a positive, and of the anchor slots that were filled; the means over the
# history are in the results.
_SHARES = ("images_without_positive", "anchors_filled")
# What the positives of the contrast come from; pixel ids need no labels, nor do the baselines' objectives.
_LABELS = {"auxiliary": "label", "superpixel": "superpixels"}


@dataclass(frozen=True, eq=False, kw_only=True)
class PretrainStep(TrainingStep):
    """Pre-training on an image set; `num_clusters` is None where the number of clusters is not known beforehand."""

    kind: ClassVar[str] = "pretrain"
    code_version: ClassVar[int] = 2
    title: ClassVar[str] = "pre-train"
    roles: ClassVar[tuple[str, ...]] = ("pretrain",)
    assumed_rate: ClassVar[Rate] = Rate(seconds=0.13)

    config: PretrainConfig
    labels: Step | None
    num_clusters: int | None

    @classmethod
    def plan(cls, role: str, cell: CellSteps) -> Self | None:
        """A pre-training where the cell asks for one; its positives follow `labels.source`, its seed the cell's."""
        entry = cell.entry
        if entry.pretrain is None or cell.until == "labels":
            return None
        config = entry.pretrain.config.model_copy(update={"seed": entry.pretrain.config.seed + entry.seed})
        require_batch(cell, "pretrain", config.batch_size)
        labels, num_clusters = None, None
        if config.objective == "contrast":
            contrast, labels, num_clusters = contrast_of(cell, config.contrast)
            config = config.model_copy(update={"contrast": contrast})
        weights = entry.pretrain.weights
        identity = first_weights_identity(cell, "pretrain", config.segmentor.backbone, config.init, weights)
        return cls(
            images=cell.labelled_images,
            dataset=cell.image_identity,
            source=cell.train,
            config=config,
            weights_identity=identity,
            first_weights=weights,
            labels=labels,
            num_clusters=num_clusters,
        )

    @property
    def inputs(self) -> dict[str, Step]:
        """The labels, where there are any."""
        return {"labels": self.labels} if self.labels else {}

    def own_meaning(self) -> Mapping[str, Any]:
        """The objective, the network, its first weights, the recipe."""
        return {
            "dataset": self.dataset,
            "pool": self.source.pool,
            "config": self.config,
            "weights": self.weights_identity,
        }

    @property
    def total_steps(self) -> int:
        """Steps of the optimiser."""
        return self.config.total_steps(self.images.count)

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
        """Two views of every image, and a pass with gradients of both; the baselines' momentum network passes, too."""
        config = config_of(PretrainConfig, meaning["config"])
        network = config.segmentor
        whole = config.objective == "contrast" and config.scope == "segmentor"
        backbone = ExtractorConfig(arch=network.backbone, output_stride=network.output_stride)
        work = steps_of(
            config,
            config.views,
            extent.size,
            extent.passes,
            views_per_image=2,
            extractor=None if whole else backbone,
        )
        if config.objective == "contrast":
            return work
        ((one, steps),) = work.passes
        return replace(work, passes=(*work.passes, (one.model_copy(update={"training": False}), steps)))

    @property
    def weights(self) -> str | None:
        """Where the first weights come from."""
        return self.first_weights

    def training_job(self, storage: Storage) -> "PretrainJob":
        """The training as it travels."""
        labels = (self.labels.kind, self.labels.key) if self.labels else None
        weights = self.travelling_weights(self.config.segmentor.backbone, self.config.init)
        images = ImageSlice.of(self.images)
        origin = Ledger(storage).finished(*labels).content if labels else ""
        return PretrainJob(
            storage, self.key, self.source, images, labels, self.config, weights, self.num_clusters, origin=origin
        )


def contrast_of(cell: CellSteps, contrast: ContrastConfig) -> tuple[ContrastConfig, Step | None, int | None]:
    """A cell's contrast with the positives of its labels, the step that makes these, and their number of clusters."""
    source = cell.entry.labels.source
    labels = cell.step(_LABELS[source]) if source in _LABELS else None
    cluster = cell.step("cluster")
    num_clusters = None
    if isinstance(cluster, ClusterStep) and isinstance(cluster.config, KMeansConfig):
        num_clusters = cluster.num_clusters
    return contrast.model_copy(update={"positives": source}), labels, num_clusters


@dataclass(frozen=True)
class PretrainJob(TrainingJob):
    """Pre-train a network; `labels` is the step (kind, key) whose maps say what is positive."""

    images: ImageSlice
    labels: tuple[str, str] | None
    config: PretrainConfig
    weights: str | None
    num_clusters: int | None

    @property
    def name(self) -> str:
        """The job's kind and its objective."""
        return f"PretrainJob {self.config.objective}"

    def run(self, cache: WorkerCache) -> Outcome:
        """Train in this process, as the only worker."""
        # Here and below: what computes is imported by workers alone; the driver is spared torch.
        from orchestrator.steps.training_runs import train_alone

        del cache
        return train_alone(self)

    def build(self, context: DistributedContext) -> "Loop":
        """The training loop of one worker, at step 0."""
        from workloads.networks.segmentors import initialise
        from workloads.training.pretraining import pretraining_loop, pretraining_network

        network = pretraining_network(self.config)
        initialise(network, self.config.init, self.weights)
        return pretraining_loop(
            network,
            context.cached(TrainingImages.of(self.storage, self.source, self.images, self.labels)),
            self.config,
            num_clusters=self.num_clusters,
            machine=context.machine,
            workers=context.workers,
            wrap=context.wrap,
        )

    def finish(self, loop: "Loop", last_loss: float | None) -> Outcome:
        """Write what was pre-trained."""
        from orchestrator.steps.tensors import write_tensors
        from workloads.networks.segmentors import pretrained_state
        from workloads.training.pretraining import pretrained_scope

        state = pretrained_state(loop.objective.segmentor, pretrained_scope(self.config))
        record = write_tensors(self.storage, model_path(self.key, "pt"), state)
        results = {"pretrain_loss": last_loss}
        history = read_history(self.storage, self.key)
        # MoCo's positives are whole views: no image is without one.
        for name in _SHARES:
            values = [row[name] for row in history if name in row]
            if values:
                results[name] = sum(values) / len(values)
        return Outcome(files={"network": record}, results={self.key: results})


@dataclass(frozen=True)
class TrainingImages:
    """Images with their label or superpixel maps, read from the shards by whoever needs them."""

    storage: Storage
    source: Source
    ids: Sequence[str]
    places: dict[str, tuple[str, int]] = field(repr=False)

    @staticmethod
    def of(storage: Storage, source: Source, images: ImageSlice, labels: tuple[str, str] | None) -> "TrainingImages":
        """The images of a contrast: those that have a map by the step `labels`, or all where none is needed."""
        if labels is None:
            return TrainingImages(storage, source, read_listing(storage, images.listing, images.start, images.stop), {})
        places: dict[str, tuple[str, int]] = {}
        for record in Ledger(storage).finished(*labels).shards:
            shard = _shard(storage, record.path)
            places |= {shard.map(index).image: (record.path, index) for index in range(len(shard))}
        return TrainingImages(storage, source, list(places), places)

    def load(self, image_id: str) -> "Sample":
        """Decode one image and its map."""
        from workloads.training.batches import Sample

        image = self.source.open().read_image(self.source.pool, image_id)
        if image_id not in self.places:
            return Sample(image, None)
        path, index = self.places[image_id]
        return Sample(image, _shard(self.storage, path).map(index).values)


@lru_cache(maxsize=64)
def _shard(storage: Storage, path: str) -> Shard:
    return Shard.open(storage, path, MAP_SCHEMA)
