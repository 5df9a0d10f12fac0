"""Measures without ground truth, against their definitions written out."""

from itertools import combinations

import numpy as np
import pytest

from workloads.ignored import IGNORE_LABEL
from workloads.scoring.unlabelled import adjusted_rand_index, silhouette


def test_the_silhouette_is_how_much_nearer_the_own_cluster_is_than_the_next() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(30, 4)).astype(np.float32)
    labels = random.integers(0, 3, 30)
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    values = []
    for row, own in enumerate(labels):
        alike = (labels == own) & (np.arange(30) != row)
        inside = distances[row, alike].mean()
        outside = min(distances[row, labels == other].mean() for other in set(labels) - {own})
        values.append((outside - inside) / max(inside, outside))
    assert silhouette(features, labels) == pytest.approx(np.mean(values), abs=1e-5)
    assert silhouette(features, np.zeros(30, int)) is None
    assert silhouette(features, np.arange(30)) is None


def test_far_clusters_stay_far_however_many_rows_there_are() -> None:
    labels = np.repeat([0, 1], 5000)
    features = labels[:, None] * 100 + np.random.default_rng(0).normal(size=(10_000, 2))
    found = silhouette(features, labels)
    assert found is not None and found > 0.9


def test_the_adjusted_rand_index_counts_pairs_of_pixels_beyond_chance() -> None:
    random = np.random.default_rng(1)
    one, other = (random.integers(0, 3, (16, 24)).astype(np.uint16) for _ in range(2))
    other[:8] = one[:8]
    one[0, 0] = other[4, 4] = IGNORE_LABEL
    a, b = one[::4, ::4].ravel(), other[::4, ::4].ravel()
    kept = (a != IGNORE_LABEL) & (b != IGNORE_LABEL)
    pairs = list(combinations(np.flatnonzero(kept), 2))
    same_a = np.array([a[i] == a[j] for i, j in pairs])
    same_b = np.array([b[i] == b[j] for i, j in pairs])
    expected = same_a.sum() * same_b.sum() / len(pairs)
    index = ((same_a & same_b).sum() - expected) / ((same_a.sum() + same_b.sum()) / 2 - expected)
    assert adjusted_rand_index([(one, other)]) == pytest.approx(index)


def test_names_of_clusters_do_not_matter_and_nothing_to_compare_is_none() -> None:
    labels = np.random.default_rng(2).integers(0, 5, (32, 32)).astype(np.uint16)
    assert adjusted_rand_index([(labels, 4 - labels)]) == 1.0
    assert adjusted_rand_index([(labels, np.full_like(labels, IGNORE_LABEL))]) is None
    assert adjusted_rand_index([]) is None
