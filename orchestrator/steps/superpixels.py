"""Superpixels of a shard of images."""

import time
from dataclasses import dataclass

from orchestrator.ledger.image_sets import read_listing
from orchestrator.ledger.layout import attempt_path
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import MAP_SCHEMA, ShardRecord, ShardWriter, map_batch
from orchestrator.steps.jobs import MAP_COMPRESSION, ImageSlice, Source, WorkerCache
from orchestrator.storage.store import Storage
from workloads.configs.superpixels import SuperpixelConfig
from workloads.errors import BrokenImage


@dataclass(frozen=True)
class SuperpixelWork:
    """Which superpixels to compute of every image."""

    source: Source
    config: SuperpixelConfig


@dataclass(frozen=True)
class SuperpixelJob:
    """Compute the superpixels of one shard of images."""

    storage: Storage
    images: ImageSlice
    stream: str
    digest: str
    work: SuperpixelWork

    @property
    def name(self) -> str:
        """The job's name on Ray's dashboard, which groups by it."""
        return f"SuperpixelJob N={self.work.config.n_segments}"

    @property
    def title(self) -> str:
        """The job's name and its images."""
        return f"{self.name} {self.images.start}-{self.images.stop}"

    def run(self, cache: WorkerCache) -> Outcome:
        """Compute and commit the shard."""
        del cache
        ledger = Ledger(self.storage)
        record = ledger.shard(self.stream, self.digest)
        if record is None:
            path = attempt_path(self.stream, self.digest)
            record = ledger.commit_shard(
                self.stream, self.digest, superpixel_shard(self.storage, path, self.images, self.work)
            )
        return Outcome([record])


def superpixel_shard(storage: Storage, path: str, images: ImageSlice, work: SuperpixelWork) -> ShardRecord:
    """Superpixel ids of every pixel of every image."""
    # scikit-image is imported where superpixels are made, and not by the driver.
    from workloads.labels.superpixels import superpixels

    begun = time.perf_counter()
    writer = ShardWriter(MAP_SCHEMA, compression=MAP_COMPRESSION)
    dataset = work.source.open()
    for image_id in read_listing(storage, images.listing, images.start, images.stop):
        try:
            writer.add(map_batch(image_id, superpixels(dataset.read_image(work.source.pool, image_id), work.config)))
        except BrokenImage as error:
            writer.quarantine(image_id, error.reason)
    return writer.write(storage, path, time.perf_counter() - begun)
