"""Features of an image set, sampled for clustering."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from orchestrator.ledger.image_sets import ShardRange
from orchestrator.ledger.layout import shard_path
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import origin_of
from orchestrator.spec.experiment import FINETUNED, ExtractorEntry, SamplingConfig
from orchestrator.steps.extraction import ExtractorSource, extraction_work, extractor_rate
from orchestrator.steps.jobs import ImageSlice, Job, Source, WorkerCache
from orchestrator.steps.rates import Extent, Rate
from orchestrator.steps.step import CellSteps, Pool, ShardedStep, Step
from orchestrator.storage.store import Storage
from workloads.costs.work import Size, Work, channels_of
from workloads.devices import torch_device
from workloads.errors import InputError


@dataclass(frozen=True, eq=False, kw_only=True)
class SampleStep(ShardedStep):
    """Sampled features of an image set, by weights of the given identity or by what `network` trains."""

    kind: ClassVar[str] = "sample"
    code_version: ClassVar[int] = 3
    title: ClassVar[str] = "sample features"
    pool: ClassVar[Pool] = Pool.EXTRACT
    roles: ClassVar[tuple[str, ...]] = ("sample",)
    # Of 480x360 with MobileNetV2 on a core, as the rates of the other kinds.
    assumed_rate: ClassVar[Rate] = Rate(seconds=0.06, bytes=256_000)
    shows_images: ClassVar[bool] = True

    extractor: ExtractorEntry
    weights_identity: str
    network: Step | None
    sampling: SamplingConfig
    seed: int

    @classmethod
    def plan(cls, role: str, cell: CellSteps) -> Self | None:
        """Samples where the cell clusters."""
        labels = cell.entry.labels
        if not cell.makes_labels or labels.source != "auxiliary":
            return None
        network = cell.step("extractor_finetune")
        arch, weights = labels.extractor.config.arch, labels.extractor.weights
        identity = FINETUNED if network else _identity(cell, arch, weights)
        return cls(
            images=cell.image_set(cell.train, labels.images),
            dataset=cell.image_identity,
            source=cell.train,
            extractor=labels.extractor,
            weights_identity=identity,
            network=network,
            sampling=labels.sampling,
            seed=cell.entry.seed,
        )

    @property
    def inputs(self) -> dict[str, Step]:
        """The network where it is trained here."""
        return {"network": self.network} if self.network else {}

    def made_by(self) -> tuple[tuple[Step, str], ...]:
        """The network where it is trained here."""
        return ((self.network, "network"),) if self.network else ()

    def own_meaning(self) -> Mapping[str, Any]:
        """The extractor, its weights, and which pixels."""
        return {
            "dataset": self.dataset,
            "pool": self.source.pool,
            "extractor": self.extractor.config,
            "weights": self.weights_identity,
            "sampling": self.sampling,
            "seed": self.seed,
        }

    @classmethod
    def rate_name(cls, meaning: Mapping[str, Any]) -> str:
        """Steps of one name cost about the same per image."""
        return extractor_rate(cls.kind, meaning)

    @classmethod
    def work_of(cls, meaning: Mapping[str, Any], extent: Extent) -> Work | None:
        """Extraction; what is sampled is copied."""
        return extraction_work(meaning, extent)

    def bytes_per_image(self, size: Size) -> float:
        """The sampled vectors."""
        del size
        return 4.0 * self.sampling.pixels_per_image * channels_of(self.extractor.config)

    @property
    def weights(self) -> str | None:
        """Where the extractor's weights come from."""
        return self.extractor.weights

    @classmethod
    def job(cls, storage: Storage, steps: tuple[Self, ...], shard: ShardRange | None, device: str) -> Job:
        """One shard, the same for all the steps."""
        assert shard is not None
        step = steps[0]
        images = ImageSlice.of(step.images, shard)
        extractor = ExtractorSource.of(storage, step.extractor, step.network, device)
        return SampleJob(storage, images, step.stream, step.source, step.sampling, step.seed, extractor)


def _identity(cell: CellSteps, arch: str, weights: str | None) -> str:
    try:
        return cell.weights_identity(arch, weights)
    except InputError as error:
        raise error.below("labels.extractor") from None


@dataclass(frozen=True)
class SampleJob:
    """Sample the features of one shard of images."""

    storage: Storage
    images: ImageSlice
    stream: str
    source: Source
    sampling: SamplingConfig
    seed: int
    extractor: ExtractorSource

    name: ClassVar[str] = "SampleJob"

    @property
    def title(self) -> str:
        """The job's name and its images."""
        return f"{self.name} {self.images}"

    def run(self, cache: WorkerCache) -> Outcome:
        """Compute and commit the shard."""
        ledger = Ledger(self.storage)
        origin = origin_of(self.extractor.sha256)
        record = ledger.shard(self.stream, self.images.digest, origin)
        if record is None:
            # Here and below: what computes is imported by workers alone; the driver is spared torch.
            from orchestrator.steps.feature_shards import ShardPlace, load_extractor, sample_shard

            record = sample_shard(
                self.storage,
                ShardPlace(shard_path(self.stream, self.images.digest), origin),
                self.images,
                self.source,
                cache.keep("extractor", self.extractor, lambda: load_extractor(self.extractor)),
                pixels_per_image=self.sampling.pixels_per_image,
                seed=self.seed,
                helpers=cache.helpers,
            )
            record = ledger.commit_shard(self.stream, self.images.digest, record)
        return Outcome({self.stream: record}, device=torch_device(self.extractor.device).type)
