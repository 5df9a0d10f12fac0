"""Superpixels of an image set."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from orchestrator.ledger.image_sets import ShardRange, read_listing
from orchestrator.ledger.layout import shard_path
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import MAP_COMPRESSION, MAP_SCHEMA, ShardRecord, ShardWriter, map_batch
from orchestrator.steps.jobs import ImageSlice, Job, Source, WorkerCache
from orchestrator.steps.rates import ASSUMED_MEGAPIXELS, Extent, Rate, config_of
from orchestrator.steps.step import CellSteps, Pool, ShardedStep, Step
from orchestrator.storage.store import Storage
from workloads.configs.superpixels import SuperpixelConfig
from workloads.costs.work import Size, Work, megapixels
from workloads.errors import BrokenImageError, InputError


@dataclass(frozen=True, eq=False, kw_only=True)
class SuperpixelStep(ShardedStep):
    """Superpixels of an image set; they do not depend on the experiment's seed."""

    kind: ClassVar[str] = "superpixels"
    code_version: ClassVar[int] = 1
    title: ClassVar[str] = "superpixels"
    pool: ClassVar[Pool] = Pool.PROCESS
    roles: ClassVar[tuple[str, ...]] = ("superpixels", "superpixels_val")
    assumed_rate: ClassVar[Rate] = Rate(seconds=0.10, bytes=25_000)
    shows_images: ClassVar[bool] = True

    config: SuperpixelConfig

    @classmethod
    def plan(cls, role: str, cell: CellSteps) -> Self | None:
        """Superpixels of the images that are labelled, where labels are voted or are superpixels themselves."""
        labels = cell.entry.labels
        val = role == "superpixels_val"
        if not cell.makes_labels or labels.source == "pixel" or (val and not cell.scores_labels):
            return None
        if labels.superpixels is None:
            if labels.source == "superpixel":
                raise InputError("null is not allowed where labels.source is superpixel", key="labels.superpixels")
            return None
        source = cell.val if val else cell.train
        images = cell.image_set(source, None) if val else cell.labelled_images
        return cls(images=images, dataset=cell.image_identity, source=source, config=labels.superpixels)

    @property
    def inputs(self) -> dict[str, Step]:
        """None: images are all that it needs."""
        return {}

    def own_meaning(self) -> Mapping[str, Any]:
        """The pool and the algorithm."""
        return {"dataset": self.dataset, "pool": self.source.pool, "superpixels": self.config}

    @classmethod
    def work_of(cls, meaning: Mapping[str, Any], extent: Extent) -> Work | None:
        """Decoding, and the iterations."""
        pixels = megapixels(extent.size, extent.images)
        iterations = config_of(SuperpixelConfig, meaning["superpixels"]).iterations
        return Work(amounts={"decode": pixels, "superpixels": pixels * iterations / 10})

    def bytes_per_image(self, size: Size) -> float:
        """A map of the image's size."""
        return self.assumed_rate.bytes * megapixels(size) / ASSUMED_MEGAPIXELS

    @classmethod
    def job(cls, storage: Storage, steps: tuple[Self, ...], shard: ShardRange | None, device: str) -> Job:
        """One shard, the same for all the steps."""
        del device
        assert shard is not None
        step = steps[0]
        return SuperpixelJob(storage, ImageSlice.of(step.images, shard), step.stream, step.source, step.config)


@dataclass(frozen=True)
class SuperpixelJob:
    """Compute the superpixels of one shard of images."""

    storage: Storage
    images: ImageSlice
    stream: str
    source: Source
    config: SuperpixelConfig

    @property
    def name(self) -> str:
        """The job's name on Ray's dashboard, which groups by it."""
        return f"SuperpixelJob N={self.config.n_segments}"

    @property
    def title(self) -> str:
        """The job's name and its images."""
        return f"{self.name} {self.images}"

    def run(self, cache: WorkerCache) -> Outcome:
        """Compute and commit the shard."""
        del cache
        ledger = Ledger(self.storage)
        record = ledger.shard(self.stream, self.images.digest)
        if record is None:
            record = ledger.commit_shard(self.stream, self.images.digest, self._compute())
        return Outcome({self.stream: record})

    def _compute(self) -> ShardRecord:
        """Superpixel ids of every pixel of every image."""
        # scikit-image is imported where superpixels are made, and not by the driver.
        from workloads.labels.superpixels import superpixels

        begun = time.perf_counter()
        writer = ShardWriter(MAP_SCHEMA, compression=MAP_COMPRESSION)
        dataset = self.source.open()
        for image_id in read_listing(self.storage, self.images.listing, self.images.start, self.images.stop):
            try:
                image = dataset.read_image(self.source.pool, image_id)
                writer.add(map_batch(image_id, superpixels(image, self.config)))
            except BrokenImageError as error:
                writer.quarantine(image_id, error.reason)
        self.source.leave_contents(self.storage)
        path = shard_path(self.stream, self.images.digest)
        return writer.write(self.storage, path, time.perf_counter() - begun)
