"""K-means: against scikit-learn and by hand; same bits whatever the threads, the memory or the interruptions."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from workloads.configs.clustering import KMeansConfig, number_of_clusters
from workloads.errors import InputError
from workloads.labels.cluster_model import ClusterModel
from workloads.labels.kmeans import KMeansState, fit_kmeans
from workloads.labels.sample_matrix import sample_matrix


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def blobs(rows: int = 5000, dims: int = 12, centers: int = 9, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    means = rng.normal(0, 1.5, (centers, dims))
    return (means[rng.integers(centers, size=rows)] + rng.normal(0, 1, (rows, dims))).astype(np.float32)


def digest(model: ClusterModel) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in model.to_arrays().values())).hexdigest()


@pytest.mark.parametrize(
    ("k_per_class", "classes", "expected"),
    [(1.5, 19, 29), (1.5, 11, 17), (1.5, 40, 60), (2.0, 150, 300), (0.5, 1, 1), (0.1, 2, 1), (1.0, 11, 11)],
)
def test_number_of_clusters_rounds_half_up(k_per_class: float, classes: int, expected: int) -> None:
    assert number_of_clusters(k_per_class, classes) == expected


def test_more_clusters_than_labels_are_refused() -> None:
    with pytest.raises(InputError, match="gives K = 150000; at most 65535"):
        number_of_clusters(1000, 150)


def test_config_takes_k_or_k_per_class_but_not_both() -> None:
    assert KMeansConfig().k_per_class == 1.5
    assert KMeansConfig(k=7).num_clusters(11) == 7 and KMeansConfig(k=7).k_per_class is None
    assert KMeansConfig(k_per_class=2.0).num_clusters(11) == 22
    with pytest.raises(ValueError, match="one is allowed"):
        KMeansConfig(k=7, k_per_class=1.5)


def test_equals_scikit_learn_from_the_same_first_centres() -> None:
    features = blobs()
    first = features[:16]
    ours = fit_kmeans(features, 16, KMeansConfig(k=16), 0, initial_centers=first)
    theirs = KMeans(16, init=first, n_init=1, tol=1e-4, max_iter=100, algorithm="lloyd").fit(features)
    assert ours.converged
    assert abs(ours.iterations - theirs.n_iter_) <= 1
    np.testing.assert_allclose(ours.points, theirs.cluster_centers_, atol=2e-3)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-5)
    assert (ours.sample_label != theirs.labels_).mean() < 1e-3


def test_labels_and_distances_are_those_of_the_final_centres() -> None:
    features = blobs(700)
    model = fit_kmeans(features, 5, KMeansConfig(k=5, max_iterations=2), 0)
    difference = features[:, None].astype(np.float64) - model.points
    square = (difference**2).sum(2)
    assert np.array_equal(model.sample_label, square.argmin(1))
    np.testing.assert_allclose(model.sample_distance, square.min(1), rtol=1e-5)
    assert model.inertia == pytest.approx(square.min(1).sum(), rel=1e-6)
    assert not model.converged and model.iterations == 2


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_threads_and_memory_layout_do_not_change_a_bit(init: str) -> None:
    features = blobs(9000)
    config = KMeansConfig(k=10, init=init, max_iterations=12)
    shifted = np.empty(features.size + 1, np.float32)[1:].reshape(features.shape)
    shifted[:] = features
    read_only = features.copy()
    read_only.flags.writeable = False
    digests = set()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for given_features in (features, shifted, read_only, torch.from_numpy(features)):
            digests.add(digest(fit_kmeans(given_features, 10, config, 3)))
        assert torch.get_num_threads() == threads
    assert len(digests) == 1
    torch.set_num_threads(1)
    assert digest(fit_kmeans(features, 10, config, 4)) not in digests


def test_greedy_seeding_reaches_the_inertia_of_scikit_learn() -> None:
    features = blobs(4000, centers=25, dims=6)
    ours = fit_kmeans(features, 25, KMeansConfig(k=25), 0).inertia
    theirs = np.median([KMeans(25, n_init=1, random_state=seed).fit(features).inertia_ for seed in range(5)])
    assert ours < 1.03 * theirs


def test_seeding_takes_one_point_of_each_far_blob() -> None:
    rng = np.random.default_rng(5)
    means = 1000 * np.eye(8)
    features = np.concatenate([mean + rng.normal(0, 0.1, (50, 8)) for mean in means]).astype(np.float32)
    for seed in range(3):
        states: list[KMeansState] = []
        fit_kmeans(features, 8, KMeansConfig(k=8), seed, on_iteration=states.append)
        assert states[0].iteration == 1 and states[0].emptied == 0
        np.testing.assert_allclose(np.sort(states[0].centers, axis=0)[-1], 1000, atol=1)


@pytest.mark.parametrize("restarts", [1, 3])
def test_resumed_from_any_stored_state_ends_in_the_same_bits(restarts: int) -> None:
    features = blobs(3000, centers=20)
    config = KMeansConfig(k=12, num_restarts=restarts, max_iterations=7, tolerance=1e-3)
    states: list[KMeansState] = []
    whole = fit_kmeans(features, 12, config, 1, on_iteration=states.append)
    assert {state.restart for state in states} == set(range(restarts))
    for state in states:
        stored = {name: array.copy() for name, array in state.to_arrays().items()}
        resumed = fit_kmeans(features, 12, config, 1, resume=KMeansState.from_arrays(stored))
        assert digest(resumed) == digest(whole)


def test_restarts_keep_the_lowest_inertia() -> None:
    features = blobs(1000, centers=20)
    config = KMeansConfig(k=15, init="random", max_iterations=30)
    states: list[KMeansState] = []
    several = fit_kmeans(features, 15, config.model_copy(update={"num_restarts": 4}), 0, on_iteration=states.append)
    ends = [
        last
        for last, following in zip(states, [*states[1:], None], strict=True)
        if following is None or following.restart != last.restart
    ]
    square = [((features[:, None] - end.centers) ** 2).sum(2).min(1).sum() for end in ends]
    assert len(ends) == 4
    assert several.inertia == pytest.approx(min(square), rel=1e-5)
    assert np.array_equal(several.points, ends[int(np.argmin(square))].centers)


def test_a_cluster_without_points_moves_to_the_farthest_point() -> None:
    features = np.array([[0, 0], [0, 1], [1, 0], [10, 0], [10, 1], [30, 0]], np.float32)
    first = np.array([[0, 0], [10, 0], [1000, 0]], np.float32)
    states: list[KMeansState] = []
    model = fit_kmeans(features, 3, KMeansConfig(k=3), 0, initial_centers=first, on_iteration=states.append)
    # (30, 0) is farthest from its centre (10, 0): it leaves that cluster and becomes the third.
    np.testing.assert_allclose(states[0].centers, [[1 / 3, 1 / 3], [10, 0.5], [30, 0]], rtol=1e-6)
    assert model.emptied == states[0].emptied == 1
    assert model.sample_label.tolist() == [0, 0, 0, 1, 1, 2]


def test_two_empty_clusters_take_different_points_ties_to_the_smaller_index() -> None:
    features = np.array([[-3], [-1], [1], [3]], np.float32)
    states: list[KMeansState] = []
    first = np.array([[0], [500], [600]], np.float32)
    fit_kmeans(features, 3, KMeansConfig(k=3), 0, initial_centers=first, on_iteration=states.append)
    np.testing.assert_allclose(states[0].centers, [[0], [-3], [3]], atol=1e-6)
    assert states[0].emptied == 2


def test_as_many_clusters_as_distinct_samples_leaves_no_error() -> None:
    features = np.repeat(np.arange(6, dtype=np.float32)[:, None], 3, axis=0)
    for init in ("k-means++", "random"):
        model = fit_kmeans(features, 6, KMeansConfig(k=6, init=init), 0)
        assert sorted(model.points[:, 0].tolist()) == [0, 1, 2, 3, 4, 5]
        assert model.inertia == 0


def test_more_clusters_than_samples_or_than_distinct_samples_is_an_input_error() -> None:
    features = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    features[0, 1] = -0.0
    with pytest.raises(InputError, match=r"k 13 .*number of samples 12"):
        fit_kmeans(features, 13, KMeansConfig(k=13), 0)
    with pytest.raises(InputError, match=r"k 4 .*distinct samples 3"):
        fit_kmeans(features, 4, KMeansConfig(k=4), 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_located(value: float) -> None:
    features = blobs(5000)
    features[[2100, 4000], 3] = value
    with pytest.raises(InputError, match=r"2 of 5000 rows .*first is row 2100"):
        fit_kmeans(features, 3, KMeansConfig(k=3), 0)


@pytest.mark.parametrize(
    "features", [np.zeros((3, 2), np.float64), np.zeros((0, 2), np.float32), np.zeros(4, np.float32)]
)
def test_other_matrices_are_refused(features: np.ndarray) -> None:
    with pytest.raises(InputError, match="float32"):
        fit_kmeans(features, 1, KMeansConfig(k=1), 0)


def test_first_centres_and_states_of_another_shape_are_refused() -> None:
    features = blobs(50)
    with pytest.raises(InputError, match=r"initial_centers: shape \(2, 12\)"):
        fit_kmeans(features, 3, KMeansConfig(k=3), 0, initial_centers=features[:2])
    states: list[KMeansState] = []
    fit_kmeans(features, 3, KMeansConfig(k=3), 0, on_iteration=states.append)
    with pytest.raises(InputError, match="resume"):
        fit_kmeans(features, 4, KMeansConfig(k=4), 0, resume=states[0])


def test_a_common_offset_of_the_features_costs_no_accuracy() -> None:
    features = blobs(2000)
    plain = fit_kmeans(features, 6, KMeansConfig(k=6, tolerance=0), 0, initial_centers=features[:6])
    moved = (features + np.float32(512)).astype(np.float32)
    offset = fit_kmeans(moved, 6, KMeansConfig(k=6, tolerance=0), 0, initial_centers=moved[:6])
    assert offset.inertia == pytest.approx(plain.inertia, rel=1e-4)
    assert (offset.sample_label != plain.sample_label).mean() < 0.01


def test_nearest_compares_blocks_of_points_and_breaks_ties_to_the_smaller_index(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workloads.labels.sample_matrix.POINTS_BLOCK", 4)
    features = blobs(300, dims=3)
    points = np.concatenate([features[:9], features[:9]])
    with sample_matrix(features) as matrix:
        index, distance = matrix.nearest(torch.from_numpy(points))
    square = ((features[:, None].astype(np.float64) - points) ** 2).sum(2)
    assert index.max() < 9
    np.testing.assert_allclose(distance, square.min(1), rtol=1e-4, atol=1e-5)


def model_of(labels: np.ndarray, distances: np.ndarray, k: int) -> ClusterModel:
    return ClusterModel(
        points=np.zeros((k, 1), np.float32),
        owner=np.arange(k, dtype=np.int32),
        num_clusters=k,
        sample_label=labels.astype(np.int32),
        sample_distance=distances.astype(np.float32),
        inertia=0.0,
        iterations=0,
        converged=True,
        emptied=0,
    )


def test_outlier_thresholds_by_hand() -> None:
    labels = np.array([0] * 10 + [1] * 3)
    distances = np.array([5, 1, 9, 2, 8, 3, 7, 4, 6, 10, 0.5, 2.5, 1.5])
    model = model_of(labels, distances, 3)
    assert model.outlier_thresholds(0).tolist() == [np.inf] * 3
    assert model.outlier_thresholds(0.2).tolist() == [8, np.inf, np.inf]
    assert model.outlier_thresholds(0.34).tolist() == [7, 1.5, np.inf]
    for share in (-0.1, 1.0, 5):
        with pytest.raises(InputError, match=f"outliers {share}"):
            model.outlier_thresholds(share)


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(1, 200), st.floats(0, 0.99), st.integers(0, 10**6))
def test_thresholds_drop_the_stated_number_of_samples(k: int, rows: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=rows)
    distances = rng.permutation(rows)
    thresholds = model_of(labels, distances, k).outlier_thresholds(share)
    for cluster in range(k):
        mine = distances[labels == cluster]
        assert (mine > thresholds[cluster]).sum() == int(np.floor(share * len(mine) + 1e-9))


def test_models_survive_storage_as_arrays() -> None:
    model = fit_kmeans(blobs(200), 3, KMeansConfig(k=3), 0)
    again = ClusterModel.from_arrays(model.to_arrays())
    assert digest(again) == digest(model)
    assert again.num_clusters == 3 and again.converged is model.converged
