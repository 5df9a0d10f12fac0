"""How good clusters are where nothing is labelled: apart from each other, and the same from other seeds."""

from collections.abc import Iterable

import numpy as np

from workloads.ignored import IGNORE_LABEL

# Every pair of rows is compared.
_ROWS = 2000
# Neighbouring pixels say the same.
_STRIDE = 4


def silhouette(features: np.ndarray, labels: np.ndarray) -> float | None:
    """The mean silhouette of evenly spaced rows: 1 where clusters are far apart, 0 where they touch.

    Parameters
    ----------
    features : ndarray, shape (n, d)
    labels : ndarray of integers, shape (n,)

    Returns
    -------
    float or None
        None where the rows are in one cluster, or each in one of its own.

    References
    ----------
    Rousseeuw, "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis", 1987.
    """
    from sklearn.metrics import silhouette_score

    rows = np.linspace(0, len(labels) - 1, min(len(labels), _ROWS)).astype(np.int64)
    taken = labels[rows]
    if not 1 < len(np.unique(taken)) < len(rows):
        return None
    # The last bits of a matrix product differ between machines.
    return round(float(silhouette_score(features[rows], taken)), 6)


def adjusted_rand_index(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float | None:
    """How far two labellings of the same images put the same pixels together: 1 the same, 0 as by chance.

    Parameters
    ----------
    pairs : Iterable[tuple[ndarray, ndarray]] of uint16, shape (H, W)
        Both label maps of every image. Pixels that either of them ignores are left out.

    Returns
    -------
    float or None
        None where no pixel is left.

    References
    ----------
    Hubert and Arabie, "Comparing partitions", 1985.
    """
    from sklearn.metrics import adjusted_rand_score

    first, second = [], []
    for one, other in pairs:
        a, b = one[::_STRIDE, ::_STRIDE], other[::_STRIDE, ::_STRIDE]
        kept = (a != IGNORE_LABEL) & (b != IGNORE_LABEL)
        first.append(a[kept])
        second.append(b[kept])
    if not sum(map(len, first)):
        return None
    return float(adjusted_rand_score(np.concatenate(first), np.concatenate(second)))
