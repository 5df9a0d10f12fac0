"""PmIoU of labels against the ground truth of an image set."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from orchestrator.ledger.image_sets import ShardRange, read_listing
from orchestrator.ledger.keys import digest
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import StoredMap, read_judged_labels
from orchestrator.steps.jobs import ImageSlice, Job, Source, WorkerCache
from orchestrator.steps.rates import Extent, Rate
from orchestrator.steps.step import CellSteps, Need, Piece, Pool, Step
from orchestrator.storage.store import Storage
from workloads.costs.work import Work, megapixels
from workloads.errors import InputError
from workloads.ignored import IGNORE_LABEL
from workloads.scoring.confusion import Confusion

# What is scored under each condition of Table 1: auxiliary labels, superpixel ids (#2), pixel ids (#1).
_SCORED = {"auxiliary": "label_val", "superpixel": "superpixels_val"}


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreStep(Step):
    """PmIoU against the ground truth of a digest; condition #1 (a label per pixel) needs no labels."""

    kind: ClassVar[str] = "score"
    code_version: ClassVar[int] = 1
    title: ClassVar[str] = "score labels"
    pool: ClassVar[Pool] = Pool.PROCESS
    roles: ClassVar[tuple[str, ...]] = ("score",)
    assumed_rate: ClassVar[Rate] = Rate(seconds=0.005)
    shown_results: ClassVar[tuple[str, ...] | None] = None
    timed: ClassVar[bool] = False

    dataset: Mapping[str, Any]
    source: Source
    truth: str
    num_classes: int
    condition: str
    labels: Step | None

    @classmethod
    def plan(cls, role: str, cell: CellSteps) -> Self | None:
        """A score where the cell is about labels and the validation pool has ground truth."""
        condition = cell.entry.labels.source
        if not cell.makes_labels:
            return None
        if not cell.scores_labels:
            if condition == "pixel" and cell.entry.pretrain is None:
                raise InputError(
                    f"'pixel' is a score and nothing else, and data set {cell.dataset.name} has no "
                    f"ground truth in pool {cell.val.pool!r}",
                    key="labels.source",
                )
            return None
        labels = cell.step(_SCORED[condition]) if condition in _SCORED else None
        return cls(
            images=cell.image_set(cell.val, None),
            dataset=cell.identity,
            source=cell.val,
            truth=cell.truth_digest(cell.val),
            num_classes=len(cell.dataset.classes),
            condition=condition,
            labels=labels,
        )

    @property
    def inputs(self) -> dict[str, Step]:
        """The labels, where there are any."""
        return {"labels": self.labels} if self.labels else {}

    def own_meaning(self) -> Mapping[str, Any]:
        """The ground truth and the condition."""
        return {
            "dataset": self.dataset,
            "pool": self.source.pool,
            "truth": self.truth,
            "num_classes": self.num_classes,
            "condition": self.condition,
        }

    def pieces(self, ledger: Ledger) -> list[Piece]:
        """Scores against one ground truth are computed together, in as many parts as there are cores."""
        del ledger
        # Images of the same names are not the same images: generated scenes are numbered for every seed.
        truth = {"images": self.images.digest} | {name: self.meaning[name] for name in ("dataset", "pool")}
        needs = tuple(Need(key) for key in self.input_keys.values())
        return [Piece(f"{self.kind}/{digest(truth)[:32]}", needs=needs, divisible=True)]

    def evaluated(self, role: str) -> tuple[Source, int] | None:
        """The validation pool and its classes."""
        del role
        return self.source, self.num_classes

    @classmethod
    def work_of(cls, meaning: Mapping[str, Any], extent: Extent) -> Work | None:
        """Decoding the ground truth, once for all that are scored against it, and counting."""
        pixels = megapixels(extent.size, extent.images)
        truth = digest({name: meaning[name] for name in ("dataset", "pool", "truth")})
        return Work(amounts={"count": pixels}, in_common=Work(amounts={"decode": pixels}), shared=truth)

    @classmethod
    def job(cls, storage: Storage, steps: tuple[Self, ...], shard: ShardRange | None, device: str) -> Job:
        """Several scores against one ground truth."""
        del shard, device
        targets = tuple(ScoreTarget(step.key, step.num_classes, step.condition, _labels(step)) for step in steps)
        return ScoreJob(storage, ImageSlice.of(steps[0].images), steps[0].source, targets)


def _labels(step: ScoreStep) -> tuple[str, str] | None:
    return (step.labels.kind, step.labels.key) if step.labels else None


@dataclass(frozen=True)
class ScoreTarget:
    """One score: its step's key, number of classes and condition (Table 1), and which labels are judged: a manifest's
    kind and key, or none for pixel ids.
    """

    key: str
    num_classes: int
    condition: str
    labels: tuple[str, str] | None


@dataclass(frozen=True)
class ScoreJob:
    """Judge several labellings of one image set; the ground truth is decoded once for all."""

    storage: Storage
    images: ImageSlice
    source: Source
    targets: tuple[ScoreTarget, ...]

    @property
    def name(self) -> str:
        """The job's name on Ray's dashboard, which groups by it."""
        return f"ScoreJob x {len(self.targets)}"

    @property
    def title(self) -> str:
        """The job's name."""
        return self.name

    def run(self, cache: WorkerCache) -> Outcome:
        """PmIoU and its diagnostics for every target."""
        del cache
        dataset = self.source.open()
        confusions = {target.key: Confusion(target.num_classes) for target in self.targets}
        maps = {target.key: _Maps(self.storage, *target.labels) for target in self.targets if target.labels}
        for image_id in read_listing(self.storage, self.images.listing, 0, self.images.stop):
            truth: np.ndarray | None = None
            for target in self.targets:
                judged = maps[target.key].take(image_id) if target.labels else None
                if target.labels and judged is None:
                    continue
                if truth is None:
                    truth = dataset.read_ground_truth(self.source.pool, image_id)
                _count(confusions[target.key], target.condition, judged, truth)
        self.source.leave_contents(self.storage)
        if not any(confusion.class_totals.any() for confusion in confusions.values()):
            raise InputError(
                f"pool {self.source.pool!r} has no pixel with a class, and PmIoU needs one", key="dataset.val"
            )
        results = {target.key: _judge(confusions[target.key], target) for target in self.targets}
        for target in self.targets:
            if target.condition == "auxiliary":
                results[target.key]["outliers_removed"] = maps[target.key].outliers
        return Outcome(results=results)


def _count(confusion: Confusion, condition: str, judged: StoredMap | None, truth: np.ndarray) -> None:
    """Count one image under a condition of Table 1."""
    if judged is None:
        # Condition #1: every pixel is a label of its own, so the classes' pixel counts are all there is to count.
        confusion.update(np.full(truth.shape, IGNORE_LABEL, dtype=np.uint16), truth)
        return
    labels, removed = judged.values, judged.removed
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
    # SciPy is imported where scores are made, and not by the driver.
    from workloads.scoring.metrics import pixel_condition, proxy_mean_iou

    if target.condition == "pixel":
        return {"pmiou": pixel_condition(confusion.class_totals), "coverage": 1.0}
    score = proxy_mean_iou(confusion, target.num_classes)
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
        self._outliers = self._pixels = 0
        self._iterator = self._read(storage, kind, key)
        self._next = next(self._iterator, None)

    def take(self, image_id: str) -> StoredMap | None:
        """The image's labels and former labels, or None when it was quarantined. Images must be asked for in order."""
        found = self._next
        if found is None or found.image != image_id:
            return None
        self._next = next(self._iterator, None)
        self._pixels += found.values.size
        self._outliers += found.outliers
        return found

    @property
    def outliers(self) -> float:
        """Share of the pixels so far that were taken out before the vote."""
        return self._outliers / max(1, self._pixels)

    @staticmethod
    def _read(storage: Storage, kind: str, key: str) -> Iterator[StoredMap]:
        for record in Ledger(storage).finished(kind, key).shards:
            yield from read_judged_labels(storage, record.path)
