"""PmIoU of labels against the ground truth of an image set."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.ledger.image_sets import read_listing
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import read_judged_labels
from orchestrator.steps.jobs import ImageSlice, Source, WorkerCache
from orchestrator.storage.store import Storage
from workloads.ignored import IGNORE_LABEL
from workloads.scoring.confusion import Confusion


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
        return Outcome(results={target.key: _judge(confusions[target.key], target) for target in self.targets})


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
        self._iterator = self._read(storage, kind, key)
        self._next = next(self._iterator, None)

    def take(self, image_id: str) -> _Judged | None:
        """The image's labels and former labels, or None when it was quarantined. Images must be asked for in order."""
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
