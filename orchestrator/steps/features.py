"""Jobs on the features of a shard of images: to sample them for clustering, and to turn them into label maps.

The model: a job is a small value that the driver makes and a worker runs; what computes is imported by the worker
alone (`orchestrator.steps.feature_shards`), so that a driver needs neither torch nor the memory that it takes.
"""

from dataclasses import dataclass

from orchestrator.ledger.layout import attempt_path
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.outcomes import Outcome
from orchestrator.steps.jobs import ImageSlice, Source, WorkerCache
from orchestrator.steps.steps import StepKind
from orchestrator.storage.store import Storage
from workloads.configs.extraction import ExtractorConfig
from workloads.devices import torch_device


@dataclass(frozen=True)
class ExtractorSource:
    """A feature extractor, where its weights are, and the device it runs on (see `torch_device`).

    `stored` is the place on a storage of a network that this project trained; it stands in for `weights`.
    """

    config: ExtractorConfig
    weights: str | None
    device: str
    stored: tuple[Storage, str] | None = None


@dataclass(frozen=True)
class SampleWork:
    """Which feature pixels to keep of every image."""

    source: Source
    pixels_per_image: int
    seed: int


@dataclass(frozen=True)
class LabelWork:
    """One labelling: a fitted cluster model, the share of outliers, and superpixel shards to vote with (or none).

    Labels that are to be judged keep the former labels of the pixels that were taken out.
    """

    model_path: str
    outliers: float
    superpixel_paths: tuple[str, ...]
    judged: bool


@dataclass(frozen=True)
class SampleJob:
    """Sample the features of one shard of images."""

    storage: Storage
    images: ImageSlice
    stream: str
    digest: str
    work: SampleWork
    extractor: ExtractorSource

    @property
    def name(self) -> str:
        """The job's name on Ray's dashboard, which groups by it."""
        return "SampleJob"

    @property
    def title(self) -> str:
        """The job's name and its images."""
        return f"{self.name} {self.images.start}-{self.images.stop}"

    def run(self, cache: WorkerCache) -> Outcome:
        """Compute and commit the shard."""
        ledger = Ledger(self.storage)
        record = ledger.shard(self.stream, self.digest)
        if record is None:
            from orchestrator.steps.feature_shards import load_extractor, sample_shard

            extractor = cache.keep("extractor", self.extractor, lambda: load_extractor(self.extractor))
            path = attempt_path(self.stream, self.digest)
            batch_size = self.extractor.config.batch_size
            record = sample_shard(self.storage, path, self.images, self.work, extractor, batch_size)
            record = ledger.commit_shard(self.stream, self.digest, record)
        return Outcome([record], device=torch_device(self.extractor.device).type)


@dataclass(frozen=True)
class LabelTarget:
    """One labelling of a shard: where it goes and what it is made from; of superpixels (if any) the stream and key."""

    stream: str
    cluster: str
    outliers: float
    judged: bool
    superpixels: tuple[str, str] | None


@dataclass(frozen=True)
class LabelJob:
    """Label one shard of images for several labellings, from one forward pass."""

    storage: Storage
    images: ImageSlice
    digest: str
    source: Source
    extractor: ExtractorSource
    targets: tuple[LabelTarget, ...]

    @property
    def name(self) -> str:
        """The job's name on Ray's dashboard, which groups by it."""
        return f"LabelJob x {len(self.targets)}"

    @property
    def title(self) -> str:
        """The job's name and its images."""
        return f"{self.name} {self.images.start}-{self.images.stop}"

    def run(self, cache: WorkerCache) -> Outcome:
        """Compute and commit the shards that are not there yet."""
        ledger = Ledger(self.storage)
        records = {target.stream: ledger.shard(target.stream, self.digest) for target in self.targets}
        missing = [target for target in self.targets if records[target.stream] is None]
        if missing:
            from orchestrator.steps.feature_shards import label_shard, load_extractor

            fresh = label_shard(
                self.storage,
                [attempt_path(target.stream, self.digest) for target in missing],
                self.images,
                self.source,
                [self._work(ledger, target) for target in missing],
                cache.keep("extractor", self.extractor, lambda: load_extractor(self.extractor)),
                self.extractor.config.batch_size,
            )
            for target, made in zip(missing, fresh, strict=True):
                records[target.stream] = ledger.commit_shard(target.stream, self.digest, made)
        done = [record for target in self.targets if (record := records[target.stream]) is not None]
        return Outcome(done, device=torch_device(self.extractor.device).type)

    def _work(self, ledger: Ledger, target: LabelTarget) -> LabelWork:
        model = ledger.manifest(StepKind.CLUSTER, target.cluster)
        assert model is not None, "labels wait for their clusters"
        paths = self._superpixel_paths(ledger, *target.superpixels) if target.superpixels else ()
        return LabelWork(model.shards[0].path, target.outliers, paths, target.judged)

    def _superpixel_paths(self, ledger: Ledger, stream: str, key: str) -> tuple[str, ...]:
        """The shards that hold the superpixels of the job's images."""
        record = ledger.shard(stream, self.digest)
        if record is not None:
            return (record.path,)
        # A run with another compute.shard_images has cut the same images at other places.
        manifest = ledger.manifest(StepKind.SUPERPIXELS, key)
        assert manifest is not None, "labels wait for their superpixels"
        paths, start = [], 0
        for other in manifest.shards:
            stop = start + other.images + len(other.quarantined)
            if start < self.images.stop and stop > self.images.start:
                paths.append(other.path)
            start = stop
        return tuple(paths)
