"""Proxy mean IoU of auxiliary labels, and mean IoU of networks, from counts over a whole validation set.

Labels have no names, so they are matched to classes one to one over the whole set, and the mean over classes of the IoU
under the best matching is the score. Pixels of labels that are matched to no class and pixels without a label are false
negatives of their class; pixels without ground truth are left out.

The failures this guards against: a label for every pixel scoring 100 (it does under many-to-one mappings, and does well
under per-image matching; Table 1 conditions #1 and #2 say <0.1 and <1), surplus labels dropped before matching, and a
label x class matrix of 10^9 rows.

Classes: the mean is over the classes that occur in the ground truth; those that do not have IoU NaN and are counted in
`absent`. Only the M best labels of each class take part in the matching, which loses nothing: were a class matched to
another, one of its M best would be free (the M - 1 other classes hold at most M - 1 of them) and at least as good.

The rule is ours, derived from Tables 1 and 2 (docs/method.md); the paper's text was not available.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from workloads.errors import InputError
from workloads.ignored import IGNORE_CLASS
from workloads.scoring.confusion import Confusion

Match = Literal["iou", "overlap"]
MatchingRule = Literal["one_to_one", "class_best", "many_to_one"]


@dataclass(frozen=True, eq=False)
class ProxyScore:
    """A PmIoU and what it is made of; all IoUs and means in percent.

    Attributes
    ----------
    pmiou : float
        Mean of `per_class_iou` over the classes present.
    per_class_iou : ndarray of float64, shape (M,)
        NaN for classes absent from the ground truth.
    matching : dict[int, int]
        Label -> class, pairs without a common pixel left out. Under "class_best", where a label may serve several
        classes, the class it serves best.
    coverage : float
        Share of the pixels with ground truth that have a label, 0..1.
    present : int
        Classes that occur in the ground truth.
    absent : int
        Classes that do not.
    many_to_one : float
        Diagnostic: mean IoU when every label goes to the class it overlaps most, then labels are merged.
    class_best : float
        Diagnostic: mean IoU when every class takes its best label, whether or not another has it.
    """

    pmiou: float
    per_class_iou: np.ndarray
    matching: dict[int, int]
    coverage: float
    present: int
    absent: int
    many_to_one: float
    class_best: float


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The pairs that occur, with each pair's IoU."""

    labels: np.ndarray
    classes: np.ndarray
    counts: np.ndarray
    sizes: np.ndarray
    iou: np.ndarray
    class_totals: np.ndarray

    @classmethod
    def of(cls, confusion: Confusion) -> "_Pairs":
        labels, classes, counts = confusion.pairs()
        found, label_sizes = confusion.label_sizes()
        sizes = label_sizes[np.searchsorted(found, labels)]
        iou = counts / (sizes + confusion.class_totals[classes] - counts)
        return cls(labels, classes, counts, sizes, iou, confusion.class_totals)

    def best_of_each_class(self, value: np.ndarray, number: int) -> np.ndarray:
        """Indices of each class's `number` pairs of highest value, ties to the smaller label."""
        order = np.lexsort((self.labels, -value, self.classes))
        starts = np.searchsorted(self.classes[order], np.arange(len(self.class_totals)))
        rank = np.arange(len(order)) - starts[self.classes[order]]
        return order[rank < number]


def proxy_mean_iou(
    confusion: Confusion, num_classes: int, match: Match = "iou", mapping: MatchingRule = "one_to_one"
) -> ProxyScore:
    """PmIoU of the counts of a whole validation set.

    Parameters
    ----------
    confusion : Confusion
        Counts of all images.
    num_classes : int
        M, must be the confusion's.
    match : Match
        What the one-to-one matching maximises: the sum of IoUs, or the number of common pixels.
    mapping : MatchingRule
        "one_to_one" is PmIoU; the others put a diagnostic in its place.

    Returns
    -------
    ProxyScore
        The score; the matching among equally good ones is SciPy's, for labels in ascending order.

    Raises
    ------
    InputError
        When no pixel has ground truth.
    """
    assert num_classes == confusion.num_classes, "a confusion of another data set"
    present = confusion.class_totals > 0
    if not present.any():
        raise InputError("ground truth: no pixel with a class in any image; PmIoU needs at least one")
    pairs = _Pairs.of(confusion)
    best_iou, best_match = _class_best(pairs)
    many_iou, many_match = _many_to_one(pairs)
    match mapping:
        case "one_to_one":
            iou, matching = _one_to_one(pairs, match)
        case "class_best":
            iou, matching = best_iou, best_match
        case "many_to_one":
            iou, matching = many_iou, many_match
    iou[~present] = np.nan
    return ProxyScore(
        pmiou=100 * float(iou[present].mean()),
        per_class_iou=100 * iou,
        matching=matching,
        coverage=confusion.coverage(),
        present=int(present.sum()),
        absent=int((~present).sum()),
        many_to_one=100 * float(many_iou[present].mean()),
        class_best=100 * float(best_iou[present].mean()),
    )


def _one_to_one(pairs: _Pairs, match: Match) -> tuple[np.ndarray, dict[int, int]]:
    num_classes = len(pairs.class_totals)
    value = pairs.iou if match == "iou" else pairs.counts.astype(np.float64)
    kept = pairs.best_of_each_class(value, num_classes)
    candidates, row = np.unique(pairs.labels[kept], return_inverse=True)
    values = np.zeros((len(candidates), num_classes))
    values[row, pairs.classes[kept]] = value[kept]
    ious = np.zeros_like(values)
    ious[row, pairs.classes[kept]] = pairs.iou[kept]
    rows, columns = linear_sum_assignment(values, maximize=True)
    iou = np.zeros(num_classes)
    iou[columns] = ious[rows, columns]
    useful = values[rows, columns] > 0
    return iou, {int(candidates[r]): int(c) for r, c in zip(rows[useful], columns[useful], strict=True)}


def _class_best(pairs: _Pairs) -> tuple[np.ndarray, dict[int, int]]:
    best = pairs.best_of_each_class(pairs.iou, 1)
    iou = np.zeros(len(pairs.class_totals))
    iou[pairs.classes[best]] = pairs.iou[best]
    ascending = best[np.lexsort((-pairs.classes[best], pairs.iou[best]))]
    return iou, {int(pairs.labels[pair]): int(pairs.classes[pair]) for pair in ascending}


def _many_to_one(pairs: _Pairs) -> tuple[np.ndarray, dict[int, int]]:
    order = np.lexsort((pairs.classes, -pairs.counts, pairs.labels))
    first = order[np.flatnonzero(np.diff(pairs.labels[order], prepend=-1))]
    num_classes = len(pairs.class_totals)
    hits, predicted = np.zeros(num_classes), np.zeros(num_classes)
    np.add.at(hits, pairs.classes[first], pairs.counts[first])
    np.add.at(predicted, pairs.classes[first], pairs.sizes[first])
    iou = hits / np.maximum(predicted + pairs.class_totals - hits, 1)
    matching = zip(pairs.labels[first].tolist(), pairs.classes[first].tolist(), strict=True)
    return iou, dict(matching)


def pixel_condition(class_totals: np.ndarray) -> float:
    """PmIoU in percent of Table 1's condition #1, in which every pixel is its own label.

    A label covers one pixel, so whichever label a class of N pixels is matched to, its IoU is 1 / N: the classes' pixel
    counts are all there is to stream.

    Parameters
    ----------
    class_totals : ndarray of int64, shape (M,)
        Pixels of each class in the whole set (`Confusion.class_totals`).
    """
    totals = class_totals[class_totals > 0]
    if len(totals) == 0:
        raise InputError("ground truth: no pixel with a class in any image; PmIoU needs at least one")
    return 100 * float((1 / totals).mean())


def superpixel_condition(confusion: Confusion) -> float:
    """PmIoU in percent of Table 1's condition #2, in which every superpixel of every image is its own label.

    Parameters
    ----------
    confusion : Confusion
        Made with `append(superpixels, ground_truth)` per image, parts merged with `merge_disjoint`.
    """
    return proxy_mean_iou(confusion, confusion.num_classes).pmiou


@dataclass(frozen=True, eq=False)
class MeanIou:
    """Mean IoU of a network, in percent.

    Attributes
    ----------
    miou : float
        Mean over the classes present in the ground truth; NaN when there are none.
    per_class_iou : ndarray of float64, shape (M,)
        NaN for absent classes.
    accuracy : float
        Share of correct pixels.
    present, absent : int
        Numbers of classes that do and do not occur in the ground truth.
    """

    miou: float
    per_class_iou: np.ndarray
    accuracy: float
    present: int
    absent: int


def network_confusion(predicted: np.ndarray, ground_truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels of one image by true class (rows) and predicted class (columns), 255 in the ground truth left out.

    Parameters
    ----------
    predicted : ndarray of integers, shape (H, W)
        Classes.
    ground_truth : ndarray of integers, shape (H, W)
        Classes, or 255.
    num_classes : int
        M.

    Returns
    -------
    ndarray of int64, shape (M, M)

    Raises
    ------
    InputError
        When sizes differ or a value is out of range.
    """
    if predicted.shape != ground_truth.shape:
        raise InputError(f"predictions: {predicted.shape}, the ground truth is {ground_truth.shape}")
    keep = ground_truth != IGNORE_CLASS
    truth, guess = ground_truth[keep].astype(np.int64), predicted[keep].astype(np.int64)
    for name, values in (("ground truth", truth), ("predictions", guess)):
        wrong = (values < 0) | (values >= num_classes)
        if wrong.any():
            raise InputError(f"{name}: value {values[wrong][0]}; allowed: 0 to {num_classes - 1}")
    return np.bincount(truth * num_classes + guess, minlength=num_classes**2).reshape(num_classes, num_classes)


def mean_iou(confusion: np.ndarray) -> MeanIou:
    """Mean IoU of a network's summed confusion.

    Parameters
    ----------
    confusion : ndarray of int64, shape (M, M)
        Rows ground truth and columns predictions, summed over the whole set.
    """
    hits = np.diag(confusion).astype(np.float64)
    truth, guessed = confusion.sum(1), confusion.sum(0)
    present = truth > 0
    iou = np.full(len(hits), np.nan)
    iou[present] = 100 * hits[present] / (truth + guessed - hits)[present]
    total = int(truth.sum())
    return MeanIou(
        miou=float(iou[present].mean()) if present.any() else float("nan"),
        per_class_iou=iou,
        accuracy=float(hits.sum()) / total if total else float("nan"),
        present=int(present.sum()),
        absent=int((~present).sum()),
    )
