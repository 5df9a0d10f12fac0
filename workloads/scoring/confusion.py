"""Sparse counts of (label, class) pairs over a data set: all that any matching metric needs.

A `Confusion` is a sum over images, so shards count theirs and are merged in any order. Only pairs that occur are kept,
because conditions #1 and #2 of Table 1 have a label per pixel or per superpixel: up to 10^9 labels, of which a dense
matrix would never fit. Class totals count every pixel with ground truth, labelled or not.

The failures this guards against: predictions that are dropped before matching (which flatters: pixels of surplus labels
and ignored pixels must stay false negatives), and label ids of different images taken for the same label.
"""

from collections.abc import Mapping

import numpy as np

from workloads.errors import InputError
from workloads.ignored import IGNORE_CLASS, IGNORE_LABEL


class Confusion:
    """Counts of pixels by auxiliary label and ground-truth class; pixels without ground truth are not counted.

    Attributes
    ----------
    num_classes
        M.
    num_labels
        One more than the largest label seen, or the number of labels so far when they are appended.
    class_totals : array of int64, shape (M,)
        Pixels of each class, those without a label included.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.num_labels = 0
        self.class_totals = np.zeros(num_classes, np.int64)
        self._keys: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        self._pending = 0

    def update(self, labels: np.ndarray, ground_truth: np.ndarray, before: np.ndarray | None = None) -> None:
        """Count one image.

        Parameters
        ----------
        labels : ndarray of integers, shape (H, W)
            65535 where there is no label.
        ground_truth : ndarray of uint8, shape (H, W)
            0..M-1, or 255 where there is none.
        before : ndarray | None of integers, shape (H, W)
            The labels before some were removed. A removed pixel then still counts as part of its former label (as a
            false positive wherever it is one), so that no removal can raise an IoU. Without it a removed pixel is a
            false negative only.

        Raises
        ------
        InputError
            When sizes differ or a ground-truth value is neither a class nor 255.
        """
        counted = labels if before is None else np.where(labels == IGNORE_LABEL, before, labels)
        self._count(counted, ground_truth, IGNORE_LABEL)
        if before is not None:
            removed = (labels == IGNORE_LABEL) & (counted != IGNORE_LABEL)
            self._discredit(counted[removed], ground_truth[removed])

    def append(self, labels: np.ndarray, ground_truth: np.ndarray) -> None:
        """Count one image whose labels (from 0, none ignored) are its own and no other image's: condition #2."""
        image = Confusion(self.num_classes)
        image._count(labels, ground_truth, None)
        self.merge_disjoint(image)

    def _count(self, labels: np.ndarray, ground_truth: np.ndarray, ignore: int | None) -> None:
        if labels.shape != ground_truth.shape:
            raise InputError(f"labels: {labels.shape}, the ground truth is {ground_truth.shape}; one size is needed")
        classes = ground_truth.ravel()
        per_value = np.bincount(classes, minlength=256)
        wrong = np.flatnonzero(per_value[self.num_classes : IGNORE_CLASS])
        if len(wrong):
            raise InputError(
                f"ground truth: value {self.num_classes + wrong[0]}; allowed: 0 to {self.num_classes - 1}, and 255"
            )
        self.class_totals += per_value[: self.num_classes]
        keep = classes != IGNORE_CLASS
        flat = labels.ravel()
        if ignore is not None:
            keep &= flat != ignore
        keys = flat[keep].astype(np.int64) * self.num_classes + classes[keep]
        if len(keys) == 0:
            return
        if keys.max() < 4 * len(keys) + 65536:
            counts = np.bincount(keys)
            keys = np.flatnonzero(counts)
            counts = counts[keys]
        else:
            keys, counts = np.unique(keys, return_counts=True)
        self.num_labels = max(self.num_labels, int(keys[-1]) // self.num_classes + 1)
        self._add(keys, counts)

    def _discredit(self, labels: np.ndarray, classes: np.ndarray) -> None:
        """Move pixels from (label, class) to (label, no class): still the label's, but right for no class."""
        keep = classes != IGNORE_CLASS
        keys = labels[keep].astype(np.int64) * self.num_classes + classes[keep]
        found, counts = np.unique(keys, return_counts=True)
        self._add(found, -counts)
        # Negative keys are the wrong pixels of a label: -1 - label.
        found, counts = np.unique(labels[keep].astype(np.int64), return_counts=True)
        self._add(-1 - found, counts)

    def _add(self, keys: np.ndarray, counts: np.ndarray) -> None:
        self._keys.append(keys.astype(np.int64))
        self._counts.append(counts.astype(np.int64))
        self._pending += len(keys)
        if self._pending > 4_000_000:  # keep the memory near that of the distinct pairs
            self._condense()

    def _condense(self) -> tuple[np.ndarray, np.ndarray]:
        if len(self._keys) != 1:
            keys = np.concatenate([np.empty(0, np.int64), *self._keys])
            counts = np.concatenate([np.empty(0, np.int64), *self._counts])
            order = np.argsort(keys, kind="stable")
            keys, counts = keys[order], counts[order]
            starts = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1 if len(keys) else 0))
            self._keys = [keys[starts]]
            self._counts = [np.add.reduceat(counts, starts) if len(starts) else counts]
        self._pending = 0
        return self._keys[0], self._counts[0]

    def merge(self, other: "Confusion") -> None:
        """Add the counts of another part of the data set, with the same labels."""
        self._require_same_classes(other)
        self.class_totals += other.class_totals
        self.num_labels = max(self.num_labels, other.num_labels)
        self._add(*other._condense())

    def merge_disjoint(self, other: "Confusion") -> None:
        """Add the counts of another part whose labels are others: they are renumbered to follow these."""
        self._require_same_classes(other)
        self.class_totals += other.class_totals
        keys, counts = other._condense()
        self._add(np.where(keys < 0, keys - self.num_labels, keys + self.num_labels * self.num_classes), counts)
        self.num_labels += other.num_labels

    def _require_same_classes(self, other: "Confusion") -> None:
        assert self.num_classes == other.num_classes, "confusions of different data sets"

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pairs that occur, sorted by label, then class: labels, classes and counts, each int64 (e,)."""
        keys, counts = self._condense()
        found = (keys >= 0) & (counts > 0)
        labels, classes = np.divmod(keys[found], self.num_classes)
        return labels, classes, counts[found]

    def label_sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """The labels that occur, ascending, and the number of pixels each covers: int64 (l,) twice."""
        keys, counts = self._condense()
        labels = np.where(keys < 0, -1 - keys, keys // self.num_classes)
        found, inverse = np.unique(labels, return_inverse=True)
        sizes = np.zeros(len(found), np.int64)
        np.add.at(sizes, inverse, counts)
        return found[sizes > 0], sizes[sizes > 0]

    def coverage(self) -> float:
        """Share of the pixels with ground truth that have a label; 0 when there are none."""
        total = int(self.class_totals.sum())
        return int(self.pairs()[2].sum()) / total if total else 0.0

    def dense(self) -> np.ndarray:
        """int64 (num_labels, M), for few labels."""
        labels, classes, counts = self.pairs()
        matrix = np.zeros((self.num_labels, self.num_classes), np.int64)
        matrix[labels, classes] = counts
        return matrix

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays only: sorted keys, their counts, class totals and the number of labels."""
        keys, counts = self._condense()
        return {
            "keys": keys,
            "counts": counts,
            "class_totals": self.class_totals.copy(),
            "num_labels": np.array([self.num_labels], np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Confusion":
        """The inverse of `to_arrays`."""
        confusion = cls(len(arrays["class_totals"]))
        confusion.class_totals += np.asarray(arrays["class_totals"], np.int64)
        confusion.num_labels = int(arrays["num_labels"][0])
        confusion._add(np.asarray(arrays["keys"]), np.asarray(arrays["counts"]))
        return confusion
