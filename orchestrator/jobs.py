"""Jobs: what travels to a worker, and what it does there.

The model: a job is small and picklable, reads what it needs through the ledger, computes, and commits its shard
itself; only records and a few numbers go back. A job that is done twice (its worker died after the commit) finds the
record and returns it. The failure this guards against: features or maps passing through the driver or the object
store.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from orchestrator.images import ShardRange, read_listing
from orchestrator.ledger import Ledger, attempt_path
from orchestrator.shards import ShardRecord, read_arrays, read_judged_labels, read_samples, write_arrays
from orchestrator.steps import ClusterStep, LabelStep, SampleStep, ScoreStep, Step, StepKind
from orchestrator.storage import Storage
from orchestrator.work import (
    ExtractorSource,
    ImageSlice,
    LabelWork,
    SampleWork,
    Source,
    SuperpixelWork,
    label_shard,
    load_extractor,
    sample_shard,
    superpixel_shard,
)
from workloads.clustering import ClusterModel, KMeansConfig, KMeansState, fit_kmeans
from workloads.dbscan import DbscanConfig, fit_dbscan
from workloads.errors import InputError
from workloads.extractors import Extractor
from workloads.metrics import IGNORE_LABEL, Confusion, pixel_condition, proxy_mean_iou


@dataclass
class Outcome:
    """What a job sends back: a record per step (where it wrote one), results by step key, and the device it ran on."""

    records: list[ShardRecord] = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    device: str = "cpu"


class Workshop:
    """What a worker process keeps between jobs: one loaded extractor and one sample matrix."""

    def __init__(self) -> None:
        self._extractor: tuple[ExtractorSource, Extractor] | None = None
        self._matrix: tuple[str, np.ndarray] | None = None

    def extractor(self, source: ExtractorSource) -> Extractor:
        """The extractor, loaded when another one (or none) was there."""
        if self._extractor is None or self._extractor[0] != source:
            self._extractor = None
            self._extractor = (source, load_extractor(source))
        return self._extractor[1]

    def matrix(self, name: str, load: Callable[[], np.ndarray]) -> np.ndarray:
        """The sample matrix of a name, loaded when another one was there."""
        if self._matrix is None or self._matrix[0] != name:
            self._matrix = None
            self._matrix = (name, load())
        return self._matrix[1]


@dataclass(frozen=True)
class SampleJob:
    """Sample the features of one shard of images."""

    storage: Storage
    images: ImageSlice
    stream: str
    digest: str
    work: SampleWork
    extractor: ExtractorSource

    def run(self, workshop: Workshop) -> Outcome:
        """Compute and commit the shard."""
        ledger = Ledger(self.storage)
        record = ledger.shard(self.stream, self.digest)
        if record is None:
            extractor = workshop.extractor(self.extractor)
            path = attempt_path(self.stream, self.digest)
            batch_size = self.extractor.config.batch_size
            record = sample_shard(self.storage, path, self.images, self.work, extractor, batch_size)
            record = ledger.commit_shard(self.stream, self.digest, record)
        return Outcome([record], device=self.extractor.device)


@dataclass(frozen=True)
class SuperpixelJob:
    """Compute the superpixels of one shard of images."""

    storage: Storage
    images: ImageSlice
    stream: str
    digest: str
    work: SuperpixelWork

    def run(self, workshop: Workshop) -> Outcome:
        """Compute and commit the shard."""
        del workshop
        ledger = Ledger(self.storage)
        record = ledger.shard(self.stream, self.digest)
        if record is None:
            path = attempt_path(self.stream, self.digest)
            record = ledger.commit_shard(
                self.stream, self.digest, superpixel_shard(self.storage, path, self.images, self.work)
            )
        return Outcome([record])


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
                workshop.extractor(self.extractor),
                self.extractor.config.batch_size,
            )
            for target, made in zip(missing, fresh, strict=True):
                records[target.stream] = ledger.commit_shard(target.stream, self.digest, made)
        done = [record for target in self.targets if (record := records[target.stream]) is not None]
        return Outcome(done, device=self.extractor.device)

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


@dataclass(frozen=True)
class ClusterJob:
    """Fit one cluster model on a sample. Several jobs on one sample find its matrix still loaded."""

    storage: Storage
    key: str
    sample: str
    work: ClusterStep
    device: str

    def run(self, workshop: Workshop) -> Outcome:
        """Fit, continuing from the checkpoint a killed attempt left, and write the model."""
        config = self.work.config
        limit = config.max_pixels
        matrix = workshop.matrix(f"{self.sample}/{limit}", lambda: load_matrix(self.storage, self.sample, limit))
        features = torch.from_numpy(matrix)
        if isinstance(config, KMeansConfig):
            model = self._fit_kmeans(config, features)
        else:
            assert isinstance(config, DbscanConfig)
            model = fit_dbscan(features, config, self.work.seed, self.work.clusters, self.device)
        arrays = model.to_arrays()
        path = f"models/{self.key[:32]}.arrow"
        data = write_arrays(arrays)
        self.storage.replace(path, data)
        record = ShardRecord.of(path, data, rows=len(model.points), columns=sorted(arrays), images=0)
        self.storage.delete(self._checkpoint)
        results = {
            "clusters": int(model.num_clusters),
            "pixels": len(matrix),
            "channels": int(matrix.shape[1]),
            "inertia": float(model.inertia),
            "iterations": int(model.iterations),
            "converged": bool(model.converged),
            "emptied": int(model.emptied),
        }
        return Outcome([record], {self.key: results}, self.device)

    @property
    def _checkpoint(self) -> str:
        return f"checkpoints/{self.key[:32]}.arrow"

    def _fit_kmeans(self, config: KMeansConfig, features: torch.Tensor) -> ClusterModel:
        resume = None
        if self.storage.exists(self._checkpoint):
            resume = KMeansState.from_arrays(read_arrays(self.storage, self._checkpoint))

        def keep(state: KMeansState) -> None:
            self.storage.replace(self._checkpoint, write_arrays(state.to_arrays()))

        return fit_kmeans(
            features,
            self.work.clusters,
            config,
            self.work.seed,
            torch.device(self.device),
            resume=resume,
            on_iteration=keep,
        )


@dataclass(frozen=True)
class ScoreTarget:
    """One score: its step, which labels are judged (a manifest's kind and key, or none for pixel ids)."""

    key: str
    work: ScoreStep
    labels: tuple[str, str] | None


@dataclass(frozen=True)
class ScoreJob:
    """Judge several labellings of one image set; the ground truth is decoded once for all."""

    storage: Storage
    images: ImageSlice
    source: Source
    targets: tuple[ScoreTarget, ...]

    def run(self, workshop: Workshop) -> Outcome:
        """PmIoU and its diagnostics for every target."""
        del workshop
        dataset = self.source.open()
        confusions = {target.key: Confusion(target.work.num_classes) for target in self.targets}
        maps = {target.key: _Maps(self.storage, *target.labels) for target in self.targets if target.labels}
        for image_id in read_listing(self.storage, self.images.listing, 0, self.images.stop):
            truth: np.ndarray | None = None
            for target in self.targets:
                judged = maps[target.key].take(image_id) if target.labels else None
                if target.labels and judged is None:
                    continue
                if truth is None:
                    truth = dataset.read_ground_truth(self.source.pool, image_id)
                _count(confusions[target.key], target.work.condition, judged, truth)
        return Outcome(results={target.key: _judge(confusions[target.key], target) for target in self.targets})


Job = SampleJob | SuperpixelJob | LabelJob | ClusterJob | ScoreJob


def make_job(storage: Storage, kind: StepKind, steps: tuple[Step, ...], shard: ShardRange | None, device: str) -> Job:
    """The job of a task: `device` is where extraction or clustering runs."""
    step = steps[0]
    span = shard or ShardRange(0, step.images.count, "")
    images = ImageSlice(step.images.listing, span.start, span.stop)
    match step.work:
        case SampleStep() as sample:
            work = SampleWork(sample.source, sample.sampling.pixels_per_image, sample.seed)
            extractor = ExtractorSource(sample.extractor.config, sample.extractor.weights, device)
            return SampleJob(storage, images, step.stream, span.digest, work, extractor)
        case SuperpixelWork() as superpixel:
            return SuperpixelJob(storage, images, step.stream, span.digest, superpixel)
        case ClusterStep() as cluster:
            return ClusterJob(storage, step.key, step.inputs["sample"], cluster, device)
        case LabelStep() as label:
            extractor = ExtractorSource(label.extractor.config, label.extractor.weights, device)
            targets = tuple(_label_target(step) for step in steps)
            return LabelJob(storage, images, span.digest, label.source, extractor, targets)
        case ScoreStep() as score:
            scores = tuple(_score_target(step) for step in steps)
            return ScoreJob(storage, images, score.source, scores)
    raise AssertionError(f"{kind} has no job")


def load_matrix(storage: Storage, sample: str, limit: int) -> np.ndarray:
    """The sampled features (n, d) float32 of a finished sample step, at most `limit` rows.

    Every image gives the same number of its first sampled pixels (at least one), so that a limit thins the pixels and
    not the images; with more images than the limit, the first `limit` images give one each.
    """
    manifest = Ledger(storage).manifest(StepKind.SAMPLE, sample)
    assert manifest is not None, "clusters wait for their sample"
    images = sum(record.images for record in manifest.shards)
    if not images:
        raise InputError("no image of the pool could be used, so there is nothing to cluster")
    each = max(1, limit // images)
    matrix: np.ndarray | None = None
    filled = 0
    for record in manifest.shards:
        for _, _, features in read_samples(storage, record.path):
            taken = features[: min(each, limit - filled)]
            if matrix is None:
                matrix = np.empty((min(limit, each * images), features.shape[1]), dtype=np.float32)
            matrix[filled : filled + len(taken)] = taken
            filled += len(taken)
    assert matrix is not None
    return matrix[:filled]


_Judged = tuple[np.ndarray, np.ndarray | None]


def _count(confusion: Confusion, condition: str, judged: _Judged | None, truth: np.ndarray) -> None:
    """Count one image under a condition of Table 1."""
    if judged is None:
        # Condition #1: every pixel is a label of its own, so the classes' pixel counts are all there is to count.
        confusion.update(np.full(truth.shape, IGNORE_LABEL, dtype=np.uint16), truth)
        return
    labels, removed = judged
    if condition == "superpixel":
        confusion.append(labels, truth)
    elif removed is None or not removed.size:
        confusion.update(labels, truth)
    else:
        before = labels.copy()
        before[labels == IGNORE_LABEL] = removed
        confusion.update(labels, truth, before)


def _judge(confusion: Confusion, target: ScoreTarget) -> dict[str, Any]:
    """The results of a score step, in plain JSON types; IoUs in percent."""
    if target.work.condition == "pixel":
        return {"pmiou": pixel_condition(confusion.class_totals), "coverage": 1.0}
    score = proxy_mean_iou(confusion, target.work.num_classes)
    return {
        "pmiou": score.pmiou,
        "coverage": score.coverage,
        "per_class_iou": [None if np.isnan(value) else float(value) for value in score.per_class_iou],
        "matching": {str(label): index for label, index in score.matching.items()},
        "classes_present": score.present,
        "classes_absent": score.absent,
        "many_to_one": score.many_to_one,
        "class_best": score.class_best,
    }


class _Maps:
    """The maps of a finished step in the order of its images, some of which may be missing."""

    def __init__(self, storage: Storage, kind: str, key: str) -> None:
        self._iterator = self._read(storage, kind, key)
        self._next = next(self._iterator, None)

    def take(self, image_id: str) -> _Judged | None:
        """The image's labels and former labels, or None when it was set aside. Images must be asked for in order."""
        if self._next is None or self._next[0] != image_id:
            return None
        _, labels, removed = self._next
        self._next = next(self._iterator, None)
        return labels, removed

    @staticmethod
    def _read(storage: Storage, kind: str, key: str) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
        manifest = Ledger(storage).manifest(kind, key)
        assert manifest is not None, "scores wait for their labels"
        for record in manifest.shards:
            yield from read_judged_labels(storage, record.path)


def _label_target(step: Step) -> LabelTarget:
    assert isinstance(step.work, LabelStep)
    superpixels = (step.segment_stream, step.inputs["superpixels"]) if step.segment_stream else None
    return LabelTarget(step.stream, step.inputs["cluster"], step.work.outliers, step.work.judged, superpixels)


def _score_target(step: Step) -> ScoreTarget:
    assert isinstance(step.work, ScoreStep)
    kinds = {"auxiliary": StepKind.LABEL, "superpixel": StepKind.SUPERPIXELS}
    kind = kinds.get(step.work.condition)
    return ScoreTarget(step.key, step.work, (kind, step.inputs["labels"]) if kind else None)
