"""DBSCAN: against scikit-learn for every eps; rules that find eps; labels of pixels outside the sample."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score

from workloads.configs.clustering import DbscanConfig
from workloads.errors import InputError
from workloads.labels.cluster_model import ClusterModel
from workloads.labels.dbscan import density, fit_dbscan


def rings_and_blobs(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, 300)
    ring = np.stack([6 * np.cos(angle), 6 * np.sin(angle)], 1)
    inner = rng.normal(0, 0.4, (150, 2))
    corner = rng.normal((12, 12), 0.4, (150, 2))
    noise = rng.uniform(-15, 15, (40, 2))
    return (np.concatenate([ring + rng.normal(0, 0.15, ring.shape), inner, corner, noise])).astype(np.float32)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.15, 3.0), st.integers(1, 12))
def test_core_samples_and_clusters_are_those_of_scikit_learn(seed: int, eps: float, min_samples: int) -> None:
    features = np.random.default_rng(seed).normal(size=(120, 3)).astype(np.float32)
    distances = ((features[:, None].astype(np.float64) - features) ** 2).sum(2).astype(np.float32)
    dense = density(distances, min_samples)
    labels = dense.labels(eps**2)
    theirs = DBSCAN(eps=eps, min_samples=min_samples).fit(features.astype(np.float64))
    core = np.flatnonzero(labels >= 0)
    assert core.tolist() == theirs.core_sample_indices_.tolist()
    # Both number clusters by their first core sample only up to border samples, so compare partitions.
    assert len(core) == 0 or adjusted_rand_score(labels[core], theirs.labels_[core]) == 1.0
    radii, clusters = dense.radii()
    place = np.searchsorted(radii, np.float32(eps**2), side="right") - 1
    assert (clusters[place] if place >= 0 else 0) == theirs.labels_.max() + 1


def test_a_given_radius_finds_the_shapes() -> None:
    features = rings_and_blobs()
    model = fit_dbscan(features, DbscanConfig(eps=1.0, min_samples=8), 0)
    assert model.num_clusters == 3
    assert np.unique(model.sample_label[:300]).tolist() == [0]
    assert np.unique(model.sample_label[300:450]).tolist() == [1]
    assert np.unique(model.sample_label[450:600]).tolist() == [2]
    assert (np.diff(model.owner) >= 0).all()


def test_the_knee_separates_the_shapes_from_the_noise() -> None:
    model = fit_dbscan(rings_and_blobs(), DbscanConfig(eps="knee", min_samples=8), 0)
    assert 0.4 < model.eps < 3.0
    assert model.num_clusters == 3


def test_target_k_takes_the_most_even_radius_that_gives_the_number() -> None:
    features = rings_and_blobs()
    config = DbscanConfig(eps="target_k", min_samples=8)
    for target in (1, 2, 3):
        model = fit_dbscan(features, config, 0, num_clusters=target)
        assert target == model.num_clusters
        theirs = DBSCAN(eps=model.eps, min_samples=8).fit(features.astype(np.float64))
        assert theirs.labels_.max() + 1 == target
        assert len(model.points) == len(theirs.core_sample_indices_)
    assert np.bincount(model.sample_label).min() > 130  # the three shapes, not one shape and two crumbs
    # No radius gives 500 clusters: the nearest number is taken.
    assert 3 <= fit_dbscan(features, config, 0, num_clusters=500).num_clusters < 500
    assert config.num_clusters(19) == 29


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_evenness_is_the_entropy_of_the_clusters_at_every_radius(seed: int, min_samples: int) -> None:
    features = np.random.default_rng(seed).integers(0, 6, (25, 2)).astype(np.float32)  # many equal distances
    dense = density(((features[:, None] - features) ** 2).sum(2), min_samples)
    radii, clusters = dense.radii()
    for radius, number, entropy in zip(radii, clusters, dense.evenness(radii), strict=True):
        labels = dense.labels(radius)
        share = np.bincount(labels[labels >= 0]) / (labels >= 0).sum()
        assert len(share) == number
        assert entropy == pytest.approx(-(share * np.log(share)).sum(), abs=1e-9)


def test_samples_take_the_cluster_and_distance_of_the_nearest_other_core_sample() -> None:
    features = rings_and_blobs()
    model = fit_dbscan(features, DbscanConfig(eps=1.0, min_samples=8), 0)
    square = ((features[:, None].astype(np.float64) - model.points) ** 2).sum(2)
    square[square == 0] = np.inf
    np.testing.assert_allclose(model.sample_distance, square.min(1), rtol=1e-3, atol=1e-4)
    assert np.array_equal(model.sample_label, model.owner[square.argmin(1)])


def test_strict_noise_is_beyond_eps_and_nearest_noise_is_not_noise() -> None:
    features = rings_and_blobs()
    strict = fit_dbscan(features, DbscanConfig(eps=1.0, min_samples=8, noise="strict"), 0)
    nearest = fit_dbscan(features, DbscanConfig(eps=1.0, min_samples=8), 0)
    assert strict.outlier_thresholds(0).tolist() == [1.0] * 3
    assert (strict.outlier_thresholds(0.1) < 1.0).all()
    assert nearest.outlier_thresholds(0).tolist() == [np.inf] * 3
    theirs = DBSCAN(eps=1.0, min_samples=8).fit(features.astype(np.float64))
    assert np.array_equal(strict.sample_distance > strict.limit, theirs.labels_ == -1)


def test_large_samples_are_cut_to_a_seeded_subset() -> None:
    features = rings_and_blobs()
    config = DbscanConfig(eps=2.0, min_samples=4, max_pixels=200)
    first, same, other = (fit_dbscan(features, config, seed) for seed in (0, 0, 1))
    assert len(first.sample_label) == 200
    assert np.array_equal(first.points, same.points)
    assert not np.array_equal(first.points, other.points)


def test_no_cluster_at_all_says_what_radius_would_have_one() -> None:
    features = np.arange(20, dtype=np.float32)[:, None]
    with pytest.raises(InputError, match=r"eps 0.5 .*0 clusters.*core sample appears at eps 1\b"):
        fit_dbscan(features, DbscanConfig(eps=0.5, min_samples=3), 0)
    with pytest.raises(InputError, match="min_samples 10 with 3 samples"):
        fit_dbscan(features[:3], DbscanConfig(eps=0.5), 0)


def test_models_survive_storage_as_arrays() -> None:
    model = fit_dbscan(rings_and_blobs(), DbscanConfig(eps=1.0, min_samples=8, noise="strict"), 0)
    again = ClusterModel.from_arrays(model.to_arrays())
    assert (again.limit, again.eps, again.num_clusters) == (model.limit, model.eps, model.num_clusters)
    assert np.array_equal(again.owner, model.owner)
