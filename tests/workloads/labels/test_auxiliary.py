"""Labels from scores: against plain NumPy and torch's interpolation; outliers and votes by hand."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.errors import InputError
from workloads.ignored import IGNORE_LABEL
from workloads.labels.auxiliary import assign, score_maps, scorer, vote, without_outliers
from workloads.labels.cluster_model import ClusterModel


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model_of(points: np.ndarray, owner: list[int] | None = None) -> ClusterModel:
    owners = np.arange(len(points)) if owner is None else np.array(owner)
    return ClusterModel(
        points=points.astype(np.float32),
        owner=owners.astype(np.int32),
        num_clusters=int(owners.max()) + 1,
        sample_label=np.zeros(0, np.int32),
        sample_distance=np.zeros(0, np.float32),
        inertia=0.0,
        iterations=0,
        converged=True,
        emptied=0,
    )


def random_features(dims: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(dims, height, width, generator=torch.Generator().manual_seed(seed))


def test_scores_are_minus_squared_distances_to_the_centres() -> None:
    features = random_features(7, 5, 6)
    points = np.random.default_rng(0).normal(size=(4, 7))
    scores = score_maps(features, model_of(points))
    difference = features.permute(1, 2, 0).numpy()[None].astype(np.float64) - points[:, None, None]
    assert scores.shape == (4, 5, 6) and scores.dtype == torch.float32
    np.testing.assert_allclose(scores.numpy(), -(difference**2).sum(-1), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [3, 4, 4096])
def test_a_cluster_of_many_points_scores_by_its_nearest(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workloads.labels.auxiliary.POINTS_CHUNK", chunk)
    features = random_features(3, 4, 5)
    points = np.random.default_rng(1).normal(size=(8, 3))
    owner = [0, 0, 0, 1, 1, 2, 2, 2]
    scores = score_maps(features, model_of(points, owner)).numpy()
    square = ((features.permute(1, 2, 0).numpy()[None] - points[:, None, None]) ** 2).sum(-1)
    for cluster in range(3):
        expected = -square[np.array(owner) == cluster].min(0)
        np.testing.assert_allclose(scores[cluster], expected, rtol=1e-4, atol=1e-5)


def test_scores_do_not_depend_on_the_memory_layout_nor_on_other_cluster_sets() -> None:
    batch = torch.randn(2, 32, 9, 11, generator=torch.Generator().manual_seed(0))
    points = np.random.default_rng(0).normal(size=(24, 32))
    alone = score_maps(batch[1].contiguous(), model_of(points[:11]))
    prepared = {k: scorer(model_of(points[:k])) for k in (8, 11, 16, 24)}
    channels_last = batch.contiguous(memory_format=torch.channels_last)[1]
    together = {k: one.maps(channels_last) for k, one in prepared.items()}
    assert together[11].numpy().tobytes() == alone.numpy().tobytes()


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(InputError, match="5 channels, the cluster model was fitted on 3"):
        score_maps(random_features(5, 2, 2), model_of(np.zeros((2, 3))))


@pytest.mark.parametrize(
    ("cells", "size"),
    [
        ((23, 31), (353, 481)),
        ((23, 30), (90, 70)),
        ((1, 5), (8, 33)),
        ((4, 1), (9, 1)),
        ((6, 7), (3, 2)),
        ((2, 2), (1, 1)),
    ],
)
def test_assign_is_bilinear_interpolation_then_argmax(cells: tuple[int, int], size: tuple[int, int]) -> None:
    scores = -torch.rand(9, *cells, generator=torch.Generator().manual_seed(0))
    full = torch.nn.functional.interpolate(scores[None], size=size, mode="bilinear", align_corners=True)[0]
    labels, distance = assign(scores, size)
    assert labels.dtype == np.uint16 and distance.dtype == np.float32 and labels.shape == distance.shape == size
    np.testing.assert_allclose(distance, -full.amax(0).numpy(), atol=3e-6)
    chosen = np.take_along_axis(full.numpy(), labels[None].astype(np.int64), 0)[0]
    np.testing.assert_allclose(chosen, full.amax(0).numpy(), atol=3e-6)
    assert (labels == full.argmax(0).numpy()).mean() > 0.999


def test_cells_of_a_stride_16_network_sit_on_every_16th_pixel() -> None:
    scores = -torch.rand(5, 23, 31, generator=torch.Generator().manual_seed(2))
    labels, distance = assign(scores, (353, 481))
    assert np.array_equal(labels[::16, ::16], scores.argmax(0).numpy())
    np.testing.assert_allclose(distance[::16, ::16], -scores.amax(0).numpy(), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 12),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 10**6),
)
def test_tiles_and_left_out_clusters_do_not_change_a_bit(
    k: int, cells: tuple[int, int], size: tuple[int, int], tile: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Few distinct values, so that there are ties, and some clusters that are far behind.
    scores = torch.from_numpy(-(rng.integers(0, 6, (k, *cells)) * rng.choice([1.0, 0.1, 1e3], (k, 1, 1)))).float()
    labels, distance = assign(scores, size, tile)
    expected = np.full(size, -np.inf, np.float32)
    winner = np.zeros(size, np.uint16)
    for label in range(k):  # one cluster at a time, over the whole picture, none left out
        alone = -assign(scores[label : label + 1], size)[1]
        winner[alone > expected] = label
        expected = np.maximum(expected, alone)
    assert np.array_equal(labels, winner)
    assert np.array_equal(distance, -expected)


def test_equal_scores_go_to_the_smaller_label() -> None:
    scores = torch.stack([torch.full((3, 3), -2.0), torch.full((3, 3), -1.0), torch.full((3, 3), -1.0)])
    labels, distance = assign(scores, (10, 10))
    assert np.unique(labels).tolist() == [1]
    assert np.unique(distance).tolist() == [1.0]


def test_positive_rounding_residues_become_distance_zero() -> None:
    assert assign(torch.full((1, 2, 2), 1e-7), (4, 4))[1].min() == 0


def test_scores_that_are_not_finite_are_refused() -> None:
    scores = torch.zeros(2, 3, 3)
    scores[1, 2, 2] = math.nan
    with pytest.raises(InputError, match="NaN"):
        assign(scores, (6, 6))


def test_outliers_are_those_beyond_their_own_threshold() -> None:
    labels = np.array([[0, 0, 1, 1]], np.uint16)
    distance = np.array([[1.0, 2.0, 2.0, 3.0]], np.float32)
    kept = without_outliers(labels, distance, np.array([1.0, np.inf], np.float32))
    assert kept.tolist() == [[0, IGNORE_LABEL, 1, 1]]
    assert kept.dtype == np.uint16


def test_vote_by_hand() -> None:
    i = IGNORE_LABEL
    superpixels = np.array([[0, 0, 0, 1, 1], [2, 2, 2, 2, 1], [3, 3, 4, 4, 4]], np.uint16)
    labels = np.array([[2, 2, 1, i, i], [3, 1, 3, 1, i], [i, 0, i, i, 4]], np.uint16)
    voted = vote(labels, superpixels, 5)
    assert voted.dtype == np.uint16
    assert voted.tolist() == [[2, 2, 2, i, i], [1, 1, 1, 1, i], [0, 0, 4, 4, 4]]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 10**6))
def test_vote_equals_a_plain_loop(k: int, number: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    superpixels = rng.integers(number, size=(7, 9)).astype(np.uint16)
    labels = rng.integers(k + 1, size=(7, 9)).astype(np.uint16)
    labels[labels == k] = IGNORE_LABEL
    voted = vote(labels, superpixels, k)
    for segment in np.unique(superpixels):
        inside = superpixels == segment
        counts = [int((labels[inside] == label).sum()) for label in range(k)]
        winner = counts.index(max(counts)) if max(counts) else IGNORE_LABEL
        assert np.unique(voted[inside]).tolist() == [winner]


def test_votes_need_maps_of_one_size_and_labels_in_range() -> None:
    with pytest.raises(InputError, match=r"\(2, 2\)"):
        vote(np.zeros((2, 3), np.uint16), np.zeros((2, 2), np.uint16), 1)
    with pytest.raises(AssertionError):
        vote(np.full((2, 2), 7, np.uint16), np.zeros((2, 2), np.uint16), 3)
