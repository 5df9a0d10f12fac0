"""Features of a shard of images: sampled for clustering, or turned into label maps.

The model: numbers are computed on one thread and in batches that are part of the definition, because the last bits of a
convolution depend on both: that is what makes results independent of the number of workers. Only the processes that
compute import this; the jobs that are sent to them are in `sample` and `label`.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from orchestrator.ledger.image_sets import read_listing
from orchestrator.ledger.shards import (
    LABEL_SCHEMA,
    MAP_COMPRESSION,
    ShardRecord,
    ShardWriter,
    label_batch,
    read_arrays,
    read_maps,
    sample_batch,
    sample_schema,
)
from orchestrator.steps.extraction import ExtractorSource
from orchestrator.steps.jobs import ImageSlice, Source
from orchestrator.storage.store import Storage
from workloads.devices import torch_device
from workloads.errors import BrokenImageError, InputError
from workloads.features.extractors import Extractor, build_extractor
from workloads.ignored import IGNORE_LABEL
from workloads.labels.auxiliary import Scorer, assign, outliers, scorer, vote
from workloads.labels.cluster_model import ClusterModel
from workloads.seeding import generator


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
        raise error.below("labels.extractor") from None


def sample_shard(
    storage: Storage,
    path: str,
    images: ImageSlice,
    source: Source,
    extractor: Extractor,
    *,
    pixels_per_image: int,
    seed: int,
    origin: str,
) -> ShardRecord:
    """Features of a seeded sample of pixels of every image.

    The sample of an image depends on the seed, the pool and the image's id alone; a smaller sample is a prefix of a
    larger.
    """
    begun = time.perf_counter()
    writer = ShardWriter(sample_schema(extractor.channels), compression=None)
    for image_id, picture, features in _features(storage, images, source, extractor, writer):
        del picture
        cells = features.shape[1] * features.shape[2]
        order = generator(seed, "sample", source.pool, image_id).permutation(cells)
        chosen = order[:pixels_per_image]
        taken = features.reshape(features.shape[0], cells)[:, torch.from_numpy(chosen).to(features.device)]
        writer.add(sample_batch(image_id, chosen, taken.T.contiguous().cpu().numpy()))
    source.leave_contents(storage)
    return writer.write(storage, path, time.perf_counter() - begun, origin)


@dataclass(frozen=True)
class Labelling:
    """One labelling: where it goes, a fitted cluster model, the share of outliers, and superpixel shards to vote with.

    Labels that are to be judged keep the former labels of the pixels that were taken out.
    """

    path: str
    model_path: str
    outliers: float
    superpixel_paths: tuple[str, ...]
    judged: bool
    origin: str


def label_shard(
    storage: Storage, images: ImageSlice, source: Source, labellings: Sequence[Labelling], extractor: Extractor
) -> list[ShardRecord]:
    """Label maps of every image for several labellings, from one forward pass.

    Each cluster model is multiplied with the features by itself: in one product over all of them the last bits of a
    cell would depend on which other cells happen to be computed beside it.
    """
    begun = time.perf_counter()
    writers = [ShardWriter(LABEL_SCHEMA, compression=MAP_COMPRESSION) for _ in labellings]
    segments = {
        paths: {image_id: ids for path in paths for image_id, ids in read_maps(storage, path)}
        for paths in {one.superpixel_paths for one in labellings}
    }
    for image_id, picture, features in _features(storage, images, source, extractor, *writers):
        size = (picture.shape[0], picture.shape[1])
        for model_path in dict.fromkeys(one.model_path for one in labellings):
            clusters = _scorer(storage, model_path, str(features.device))
            scores = clusters.maps(features)
            labels, _ = assign(scores, size, extractor.grid(size))
            taken_out: dict[float, np.ndarray] = {}
            for one, writer in zip(labellings, writers, strict=True):
                if one.model_path != model_path:
                    continue
                if one.outliers not in taken_out:
                    thresholds = _thresholds(storage, model_path, one.outliers)
                    taken_out[one.outliers] = outliers(scores, thresholds, size, extractor.grid(size))
                result, former = np.where(taken_out[one.outliers], np.uint16(IGNORE_LABEL), labels), labels
                if one.superpixel_paths:
                    segment = segments[one.superpixel_paths][image_id]
                    result = vote(result, segment, clusters.num_clusters)
                    former = vote(labels, segment, clusters.num_clusters) if one.judged else former
                removed = former[result == IGNORE_LABEL] if one.judged else labels[:0]
                writer.add(label_batch(image_id, result, removed, int(taken_out[one.outliers].sum())))
    source.leave_contents(storage)
    seconds = (time.perf_counter() - begun) / len(labellings)
    return [
        writer.write(storage, one.path, seconds, one.origin) for one, writer in zip(labellings, writers, strict=True)
    ]


def _features(
    storage: Storage,
    images: ImageSlice,
    source: Source,
    extractor: Extractor,
    *writers: ShardWriter,
) -> Iterator[tuple[str, np.ndarray, torch.Tensor]]:
    """Image id, picture (H, W, 3) and features (D, h, w) of every usable image; the others are quarantined."""
    dataset = source.open()
    names = read_listing(storage, images.listing, images.start, images.stop)
    for first in range(0, len(names), extractor.config.batch_size):
        pictures: dict[str, np.ndarray] = {}
        for image_id in names[first : first + extractor.config.batch_size]:
            try:
                picture = dataset.read_image(source.pool, image_id)
                if min(picture.shape[:2]) < extractor.minimum_size:
                    height, width = picture.shape[:2]
                    raise BrokenImageError(
                        image_id,
                        f"{height}x{width} pixels; the extractor needs {extractor.minimum_size} on each side",
                    )
                pictures[image_id] = picture
            except BrokenImageError as error:
                for writer in writers:
                    writer.quarantine(image_id, error.reason)
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
