"""Features of a shard of images: sampled for clustering, or turned into label maps.

The model: numbers are computed on one thread and in batches that are part of the definition, because the last bits of a
convolution depend on both: that is what makes results independent of the number of workers. Only the processes that
compute import this; the jobs that are sent to them are in `sample` and `label`.
"""

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
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
from workloads.ahead import made_ahead
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


class ShardPlace(NamedTuple):
    """Where a shard goes, and what it comes of."""

    path: str
    origin: str


def sample_shard(
    storage: Storage,
    place: ShardPlace,
    images: ImageSlice,
    source: Source,
    extractor: Extractor,
    *,
    pixels_per_image: int,
    seed: int,
    helpers: int = 1,
) -> ShardRecord:
    """Features of a seeded sample of pixels of every image.

    The sample of an image depends on the seed, the pool and the image's id alone; a smaller sample is a prefix of a
    larger. `helpers` threads decode while a device computes.
    """
    begun = time.perf_counter()
    writer = ShardWriter(sample_schema(extractor.channels), compression=None)
    with _Helpers(helpers) as pool:
        for image_id, picture, features in _features(storage, images, source, extractor, pool, writer):
            del picture
            cells = features.shape[1] * features.shape[2]
            order = generator(seed, "sample", source.pool, image_id).permutation(cells)
            chosen = order[:pixels_per_image]
            taken = features.reshape(features.shape[0], cells)[:, torch.from_numpy(chosen).to(features.device)]
            writer.add(sample_batch(image_id, chosen, taken.T.contiguous().cpu().numpy()))
    source.leave_contents(storage)
    return writer.write(storage, place.path, time.perf_counter() - begun, place.origin)


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
    storage: Storage,
    images: ImageSlice,
    source: Source,
    labellings: Sequence[Labelling],
    extractor: Extractor,
    helpers: int = 1,
) -> list[ShardRecord]:
    """Label maps of every image for several labellings, from one forward pass.

    Each cluster model is multiplied with the features by itself: in one product over all of them the last bits of a
    cell would depend on which other cells happen to be computed beside it. `helpers` threads decode and vote while a
    device computes.
    """
    begun = time.perf_counter()
    writers = [ShardWriter(LABEL_SCHEMA, compression=MAP_COMPRESSION) for _ in labellings]
    segments = {
        paths: {image_id: ids for path in paths for image_id, ids in read_maps(storage, path)}
        for paths in {one.superpixel_paths for one in labellings}
    }
    with _Helpers(helpers) as pool:
        for image_id, picture, features in _features(storage, images, source, extractor, pool, *writers):
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
                    segment = segments[one.superpixel_paths][image_id] if one.superpixel_paths else None
                    pool.then(
                        writer.add,
                        partial(_voted, image_id, labels, taken_out[one.outliers], segment, clusters.num_clusters, one),
                    )
    source.leave_contents(storage)
    seconds = (time.perf_counter() - begun) / len(labellings)
    return [
        writer.write(storage, one.path, seconds, one.origin) for one, writer in zip(labellings, writers, strict=True)
    ]


def _voted(
    image_id: str,
    labels: np.ndarray,
    taken_out: np.ndarray,
    segment: np.ndarray | None,
    num_clusters: int,
    labelling: Labelling,
) -> pa.RecordBatch:
    """The record of an image's label map, voted on where there are superpixels."""
    result, former = np.where(taken_out, np.uint16(IGNORE_LABEL), labels), labels
    if segment is not None:
        result = vote(result, segment, num_clusters)
        former = vote(labels, segment, num_clusters) if labelling.judged else former
    removed = former[result == IGNORE_LABEL] if labelling.judged else labels[:0]
    return label_batch(image_id, result, removed, int(taken_out.sum()))


class _Helpers:
    """Threads that make things beside the process's own; what is made is used in the order in which it was asked for.

    With one helper all is done at once by whoever asks. Twice as much as there are helpers is kept at most.
    """

    def __init__(self, helpers: int) -> None:
        self._pool = ThreadPoolExecutor(helpers, "helper") if helpers > 1 else None
        self._most = 2 * helpers
        self._made: deque[tuple[Callable[[Any], object], Future[Any]]] = deque()

    def __enter__(self) -> "_Helpers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            while self._made and kind is None:
                self._use()
        finally:
            self._made.clear()
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)

    def then(self, use: Callable[[Any], object], make: Callable[[], Any]) -> None:
        """Have something made, and used by this thread some time later."""
        if self._pool is None:
            use(make())
            return
        self._made.append((use, self._pool.submit(make)))
        if len(self._made) > self._most:
            self._use()

    def map(self, make: Callable[[str], Any], names: Sequence[str], ahead: int) -> Iterator[Any]:
        """What is made of each name, in order, at most so many `ahead`, or one for each helper."""
        if self._pool is None:
            yield from map(make, names)
            return
        yield from made_ahead(self._pool, make, names, max(ahead, self._most // 2))

    def _use(self) -> None:
        use, made = self._made.popleft()
        use(made.result())


def _features(
    storage: Storage,
    images: ImageSlice,
    source: Source,
    extractor: Extractor,
    pool: _Helpers,
    *writers: ShardWriter,
) -> Iterator[tuple[str, np.ndarray, torch.Tensor]]:
    """Image id, picture (H, W, 3) and features (D, h, w) of every usable image; the others are quarantined."""
    dataset = source.open()
    names = read_listing(storage, images.listing, images.start, images.stop)

    def read(image_id: str) -> np.ndarray | BrokenImageError:
        try:
            picture = dataset.read_image(source.pool, image_id)
        except BrokenImageError as error:
            return error
        if min(picture.shape[:2]) >= extractor.minimum_size:
            return picture
        height, width = picture.shape[:2]
        needed = f"the extractor needs {extractor.minimum_size} on each side"
        return BrokenImageError(image_id, f"{height}x{width} pixels; {needed}")

    size = extractor.config.batch_size
    read_ones = zip(names, pool.map(read, names, ahead=2 * size), strict=True)
    while batch_of := dict(islice(read_ones, size)):
        pictures: dict[str, np.ndarray] = {}
        for image_id, found in batch_of.items():
            if isinstance(found, BrokenImageError):
                for writer in writers:
                    writer.quarantine(image_id, found.reason)
            else:
                pictures[image_id] = found
        yield from _of_batch(pictures, extractor)


def _of_batch(pictures: dict[str, np.ndarray], extractor: Extractor) -> Iterator[tuple[str, np.ndarray, torch.Tensor]]:
    """Image id, picture and features of a batch, which is computed in parts of one size each."""
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
