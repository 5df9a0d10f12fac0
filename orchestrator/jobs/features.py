"""Features of a shard of images: sampled for clustering, or turned into label maps.

The model: numbers are computed on one thread and in batches that are part of the definition, because the last bits of a
convolution depend on both: that is what makes results independent of the number of workers.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from orchestrator.images import read_listing
from orchestrator.jobs.common import MAP_COMPRESSION, ImageSlice, Outcome, Source, Workshop, below
from orchestrator.ledger import Ledger, attempt_path
from orchestrator.shards import (
    LABEL_SCHEMA,
    ShardRecord,
    ShardWriter,
    label_batch,
    read_arrays,
    read_maps,
    sample_batch,
    sample_schema,
)
from orchestrator.steps import StepKind
from orchestrator.storage import Storage
from workloads.auxiliary import IGNORE_LABEL, Scorer, assign, scorer, vote, without_outliers
from workloads.cluster_model import ClusterModel
from workloads.devices import torch_device
from workloads.errors import BrokenImage, InputError
from workloads.extractors import Extractor, ExtractorConfig, build_extractor
from workloads.seeding import generator


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
    def title(self) -> str:
        """The job's name on Ray's dashboard."""
        return f"SampleJob {self.images.start}-{self.images.stop}"

    def run(self, workshop: Workshop) -> Outcome:
        """Compute and commit the shard."""
        ledger = Ledger(self.storage)
        record = ledger.shard(self.stream, self.digest)
        if record is None:
            extractor = workshop.keep("extractor", self.extractor, lambda: load_extractor(self.extractor))
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
    def title(self) -> str:
        """The job's name on Ray's dashboard."""
        return f"LabelJob {self.images.start}-{self.images.stop} x {len(self.targets)}"

    def run(self, workshop: Workshop) -> Outcome:
        """Compute and commit the shards that are not there yet."""
        ledger = Ledger(self.storage)
        records = {target.stream: ledger.shard(target.stream, self.digest) for target in self.targets}
        missing = [target for target in self.targets if records[target.stream] is None]
        if missing:
            fresh = label_shard(
                self.storage,
                [attempt_path(target.stream, self.digest) for target in missing],
                self.images,
                self.source,
                [self._work(ledger, target) for target in missing],
                workshop.keep("extractor", self.extractor, lambda: load_extractor(self.extractor)),
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


def load_extractor(source: ExtractorSource) -> Extractor:
    """The extractor, ready to run on one thread.

    Raises:
        InputError: the weights do not fit or cannot be read.
    """
    torch.set_num_threads(1)
    device = torch_device(source.device)
    try:
        if source.stored is None:
            return build_extractor(source.config, source.weights, device)
        storage, path = source.stored
        with tempfile.NamedTemporaryFile(suffix=".pt") as copy:
            copy.write(storage.read(path))
            copy.flush()
            return build_extractor(source.config, copy.name, device)
    except InputError as error:
        raise below("labels.extractor", error) from None


def sample_shard(
    storage: Storage, path: str, images: ImageSlice, work: SampleWork, extractor: Extractor, batch_size: int
) -> ShardRecord:
    """Features of a seeded sample of pixels of every image.

    The sample of an image depends on the seed, the pool and the image's id alone; a smaller sample is a prefix of a
    larger.
    """
    begun = time.perf_counter()
    writer = ShardWriter(sample_schema(extractor.channels), compression=None)
    for image_id, picture, features in _features(storage, images, work.source, extractor, batch_size, writer):
        del picture
        cells = features.shape[1] * features.shape[2]
        order = generator(work.seed, "sample", work.source.pool, image_id).permutation(cells)
        chosen = order[: work.pixels_per_image]
        taken = features.reshape(features.shape[0], cells)[:, torch.from_numpy(chosen).to(features.device)]
        writer.add(sample_batch(image_id, chosen, taken.T.contiguous().cpu().numpy()))
    return writer.write(storage, path, time.perf_counter() - begun)


def label_shard(
    storage: Storage,
    paths: Sequence[str],
    images: ImageSlice,
    source: Source,
    works: Sequence[LabelWork],
    extractor: Extractor,
    batch_size: int,
) -> list[ShardRecord]:
    """Label maps of every image for several labellings, from one forward pass.

    Each cluster model is multiplied with the features by itself: in one product over all of them the last bits of a
    cell would depend on which other cells happen to be computed beside it.
    """
    begun = time.perf_counter()
    writers = [ShardWriter(LABEL_SCHEMA, compression=MAP_COMPRESSION) for _ in works]
    segments = {
        paths: {image_id: ids for path in paths for image_id, ids in read_maps(storage, path)}
        for paths in {work.superpixel_paths for work in works}
    }
    for image_id, picture, features in _features(storage, images, source, extractor, batch_size, *writers):
        size = picture.shape[:2]
        for model_path in dict.fromkeys(work.model_path for work in works):
            clusters = _scorer(storage, model_path, str(features.device))
            labels, distance = assign(clusters.maps(features), size)
            kept: dict[float, np.ndarray] = {}
            for work, writer in zip(works, writers, strict=True):
                if work.model_path != model_path:
                    continue
                if work.outliers not in kept:
                    thresholds = _thresholds(storage, model_path, work.outliers)
                    kept[work.outliers] = without_outliers(labels, distance, thresholds)
                result, former = kept[work.outliers], labels
                if work.superpixel_paths:
                    segment = segments[work.superpixel_paths][image_id]
                    result = vote(result, segment, clusters.num_clusters)
                    former = vote(labels, segment, clusters.num_clusters) if work.judged else former
                removed = former[result == IGNORE_LABEL] if work.judged else labels[:0]
                writer.add(label_batch(image_id, result, removed))
    seconds = (time.perf_counter() - begun) / len(works)
    return [writer.write(storage, path, seconds) for writer, path in zip(writers, paths, strict=True)]


def _features(
    storage: Storage,
    images: ImageSlice,
    source: Source,
    extractor: Extractor,
    batch_size: int,
    *writers: ShardWriter,
) -> Iterator[tuple[str, np.ndarray, torch.Tensor]]:
    """Image id, picture (H, W, 3) and features (D, h, w) of every usable image; the others are set aside."""
    dataset = source.open()
    names = read_listing(storage, images.listing, images.start, images.stop)
    for first in range(0, len(names), batch_size):
        pictures: dict[str, np.ndarray] = {}
        for image_id in names[first : first + batch_size]:
            try:
                picture = dataset.read_image(source.pool, image_id)
                if min(picture.shape[:2]) < extractor.minimum_size:
                    height, width = picture.shape[:2]
                    raise BrokenImage(
                        image_id,
                        f"{height}x{width} pixels; the extractor needs {extractor.minimum_size} on each side",
                    )
                pictures[image_id] = picture
            except BrokenImage as error:
                for writer in writers:
                    writer.set_aside(image_id, error.reason)
        for shape in dict.fromkeys(picture.shape for picture in pictures.values()):
            group = [image_id for image_id, picture in pictures.items() if picture.shape == shape]
            batch = extractor.features([pictures[image_id] for image_id in group])
            for image_id, features in zip(group, batch, strict=True):
                yield image_id, pictures[image_id], features


@lru_cache(maxsize=64)
def _load_model(storage: Storage, path: str) -> ClusterModel:
    return ClusterModel.from_arrays(read_arrays(storage, path))


@lru_cache(maxsize=64)
def _scorer(storage: Storage, path: str, device: str) -> Scorer:
    return scorer(_load_model(storage, path), device)


@lru_cache(maxsize=256)
def _thresholds(storage: Storage, path: str, share: float) -> np.ndarray:
    return _load_model(storage, path).outlier_thresholds(share)
