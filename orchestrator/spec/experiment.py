"""The experiment file: what may be written in it, and one readable message for everything that is wrong with it.

The model: a YAML file is a base configuration, a `grid`, and what makes a table of it (`loading`, `rows`); every cell
is validated by the same strict types, which say of every field whether it decides a result (`entries`). All errors of a
file are reported together, each with its key, its value and what is allowed.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from orchestrator.spec.entries import Entry, Hashed, Inline, Place, Runtime, RuntimeConfig
from orchestrator.spec.merging import merged
from orchestrator.spec.references import resolved
from orchestrator.spec.training import FinetuneEntry, PretrainEntry
from orchestrator.spec.validation import validated
from workloads.configs.base import HashedConfig
from workloads.configs.clustering import DbscanConfig, KMeansConfig
from workloads.configs.extraction import ExtractorConfig
from workloads.configs.networks import SegmentorConfig
from workloads.configs.superpixels import SuperpixelConfig
from workloads.configs.training import JointConfig
from workloads.datasets import DATASETS, DatasetConfig
from workloads.errors import InputError

FINETUNED = "finetuned"


class SamplingConfig(HashedConfig, tag="SamplingConfig"):
    """Which feature pixels of an image are kept for clustering."""

    pixels_per_image: int = Field(200, ge=1, description="seeded sample of feature pixels per image")


class DatasetEntry(Entry):
    """A data set: what it is, the order of its images, and where it lies."""

    config: Inline[DatasetConfig]
    root: Place[str | None] = Field(None, description="folder of the data set; relative to the working directory")
    order_seed: Hashed[int] = Field(
        0, ge=0, description="seed of the one order of the pool of which n images are a prefix"
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if isinstance(data, dict) and "name" not in data:
            raise InputError("is missing", key="name", allowed=f"allowed: {', '.join(DATASETS)}")
        return data


class ExtractorEntry(Entry):
    """A feature extractor and its weights.

    With ``weights: finetuned`` it is a network that this experiment fine-tunes for the purpose, by `finetune`.
    """

    config: Inline[ExtractorConfig]
    weights: Place[str | None] = Field(
        None, description="'random', 'finetuned', a torchvision weights name, a file or a URL"
    )
    finetune: FinetuneEntry | None = Field(
        None, description="how the network of weights 'finetuned' is trained; merged into the cell's own finetune"
    )

    @model_validator(mode="before")
    @classmethod
    def _finetuned(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("weights") == FINETUNED:
            return {"arch": "segmentor", "network": _network_of(data.get("finetune")), **data}
        return data

    @model_validator(mode="after")
    def _finetuned_only(self) -> Self:
        if (self.weights == FINETUNED) != (self.finetune is not None):
            raise InputError(
                f"{{key}} {self.weights!r} and finetune do not go together",
                key="weights",
                value=self.weights,
                allowed="weights 'finetuned' needs a finetune, here or in the experiment, and nothing else takes one",
            )
        return self


ClusteringConfig = Annotated[KMeansConfig | DbscanConfig, Field(discriminator="method")]


class LabelsEntry(Entry):
    """Auxiliary labels: from which images, by which features, clusters, superpixels and outlier share."""

    source: Hashed[Literal["auxiliary", "superpixel", "pixel"]] = Field(
        "auxiliary",
        description="auxiliary labels, or the conditions of Table 1: #2 superpixel ids, #1 pixel ids",
    )
    images: Hashed[int | None] = Field(
        None,
        ge=1,
        description="clusters are fitted on the first n images of the pool's seeded order, null for all; without "
        "pre-training, only these are labelled, too",
    )
    extractor: ExtractorEntry = Field(default_factory=lambda: ExtractorEntry.model_validate({"arch": "filters"}))
    sampling: SamplingConfig = SamplingConfig()
    clustering: ClusteringConfig = KMeansConfig()
    superpixels: SuperpixelConfig | None = SuperpixelConfig()
    outliers: Hashed[float] = Field(
        0.05, ge=0, lt=1, description="share of each cluster's farthest pixels that cast no vote"
    )

    @model_validator(mode="before")
    @classmethod
    def _default_method(cls, data: Any) -> Any:
        """K-means unless another method is named, so that one option can be set without the others."""
        if isinstance(data, dict) and isinstance(data.get("clustering"), dict):
            return {**data, "clustering": {"method": "kmeans", **data["clustering"]}}
        return data


class EarlyStopping(RuntimeConfig):
    """When a fine-tuning is given up: asynchronous successive halving (Li et al. 2020).

    After `grace` of its steps, and again after each `reduction_factor` times as many, a fine-tuning goes on if its mIoU
    is among the best 1/`reduction_factor` of those of its column that came so far.
    """

    reduction_factor: float = Field(3.0, gt=1, description="one in so many goes on at each comparison")
    grace: float = Field(0.2, gt=0, lt=1, description="share of a fine-tuning's steps before the first comparison")


class Compute(RuntimeConfig):
    """How the work is run. Nothing here changes a byte of the results on one kind of machine, with one exception:
    which trainings `early_stopping` gives up depends on which come first.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="auto takes a GPU where the cluster has one; mps: Apple's GPU"
    )
    workers: int | None = Field(None, ge=1, description="extraction workers; null for one per core (or per GPU)")
    gpus_per_worker: float = Field(1.0, gt=0, le=1, description="share of a GPU that an extraction worker takes")
    shard_images: int = Field(16, ge=1, description="images per shard; a multiple of labels.extractor.batch_size")
    quarantine_limit: float = Field(0.01, ge=0, le=1, description="share of broken images beyond which a step fails")
    lost_worker_retries: int = Field(20, ge=0, description="times one shard is tried again after its worker was lost")
    error_retries: int = Field(1, ge=0, description="times one shard is tried again after an error in the work itself")
    train_workers: int = Field(1, ge=1, description="workers of one training run; they split its batch")
    train_cores: int | None = Field(None, ge=1, description="cores of one training worker; null for all of a machine")
    start_seconds: float | None = Field(
        None, gt=0, description="time in which the workers of a training must start; null: 60, or 900 where it scales"
    )
    checkpoint_seconds: float = Field(20.0, ge=0, description="time between two states of a training that are kept")
    decoded_cache_gb: float = Field(
        0.0, ge=0, description="disk for decoded images, for each worker of a training, in 10^9 bytes; 0: none are kept"
    )
    early_stopping: EarlyStopping | None = Field(
        None, description="give up fine-tunings that do worse than others of their column; null: never, {}: defaults"
    )
    cluster_config: str | None = Field(None, description="file of `ray up`: what the cluster can grow to")
    max_cost: float | None = Field(
        None, gt=0, description="stop when the cluster's machines have cost this since the run began; null: no limit"
    )
    lease_seconds: float = Field(
        60.0, gt=0, le=86400, description="silence after which another run's lease is taken over"
    )


# What an experiment file may hold beside the configuration of its cells.
TABLE_KEYS = ("extends", "title", "layout", "size", "sizes", "rows", "columns", "grid", "notes")


class ExperimentEntry(Entry):
    """One cell of an experiment: everything but what makes the cells (`TABLE_KEYS`)."""

    name: Runtime[str] = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="names the results file")
    seed: Hashed[int] = Field(0, ge=0, description="seed of sampling and clustering; added to the seeds of training")
    weights: Place[dict[str, str | None]] = Field(
        default_factory=dict, description="weights by name, for what is written as $name; null: not at hand"
    )
    dataset: DatasetEntry
    labels: LabelsEntry = Field(default_factory=LabelsEntry)
    pretrain: PretrainEntry | None = Field(None, description="contrastive pre-training; null for none")
    finetune: FinetuneEntry | None = Field(None, description="fine-tuning and mIoU; null for none")
    joint: JointConfig | None = Field(
        None, description="the contrast beside the cross-entropy in every step of fine-tuning; null for none"
    )
    compute: Compute = Compute()

    @model_validator(mode="before")
    @classmethod
    def _positives_follow_labels(cls, data: Any) -> Any:
        labels = data.get("labels") if isinstance(data, dict) else None
        source = labels.get("source", "auxiliary") if isinstance(labels, dict) else "auxiliary"
        for section in ("pretrain", "joint"):
            options = data.get(section) if isinstance(data, dict) else None
            contrast = options.get("contrast") if isinstance(options, dict) else None
            given = contrast.get("positives", source) if isinstance(contrast, dict) else source
            if given != source:
                message = f"{given!r} differs from labels.source {source!r}"
                allowed = "it follows labels.source, so leave it out"
                raise InputError(message, key=f"{section}.contrast.positives", value=given, allowed=allowed)
        return data

    @model_validator(mode="after")
    def _joint_with_finetune(self) -> Self:
        if self.joint is not None and self.finetune is None:
            raise InputError("{key} is given, but nothing is fine-tuned", key="joint", allowed="give finetune, too")
        return self

    @model_validator(mode="before")
    @classmethod
    def _finetuned_extractor(cls, data: Any) -> Any:
        """An extractor that is fine-tuned here sees exactly the labelled images that the cell's own network sees."""
        match data:
            case {"labels": {"extractor": {"weights": "finetuned", **extractor}, **labels}}:
                pass
            case _:
                return data
        own, base = extractor.get("finetune") or {}, data.get("finetune")
        if not isinstance(own, dict) or not isinstance(base, dict):
            return data
        for name in ("pool", "fraction", "number", "among"):
            if name in own and own[name] != base.get(name):
                raise InputError(
                    f"{{key}} {own[name]!r} differs from finetune.{name} {base.get(name)!r}",
                    key=f"labels.extractor.finetune.{name}",
                    value=own[name],
                    allowed="an extractor may see the labels of its own cell only, so leave it out",
                )
        extractor |= {"weights": FINETUNED, "finetune": merged(base, own)}
        return {**data, "labels": {**labels, "extractor": extractor}}


def parse_entry(document: dict[str, Any]) -> ExperimentEntry:
    """Validate one cell's document (without `TABLE_KEYS`), after filling in what stands for something else.

    Raises:
        InputError: one for every wrong key, each with the key, the value and what is allowed.
    """
    entry = validated(ExperimentEntry, resolved(document), TABLE_KEYS)
    batch, shard_images = entry.labels.extractor.config.batch_size, entry.compute.shard_images
    if shard_images % batch:
        raise InputError(
            f"{shard_images} must be a multiple of labels.extractor.batch_size ({batch})",
            key="compute.shard_images",
            value=shard_images,
        )
    return entry


def _network_of(finetune: Any) -> Any:
    """The architecture that a fine-tuning trains; what is wrong with the fine-tuning is reported where it stands."""
    try:
        return FinetuneEntry.model_validate(finetune).config.segmentor
    except ValidationError:
        return SegmentorConfig()
