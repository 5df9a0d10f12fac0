"""Labels from scores: against plain NumPy and torch's interpolation; outliers and votes by hand."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.errors import InputError
from workloads.grid import CellGrid
from workloads.ignored import IGNORE_LABEL
from workloads.labels.auxiliary import assign, outliers, score_maps, scorer, vote
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


def interpolated(scores: torch.Tensor, size: tuple[int, int], grid: CellGrid) -> np.ndarray:
    """Every pixel by itself: bilinear between the four cells around its place, in float64."""
    values = scores.double().numpy()
    full = np.empty((len(values), *size))
    for row in range(size[0]):
        for column in range(size[1]):
            place = []
            for pixel, pixels, cells, axis in (
                (row, size[0], values.shape[1], 0),
                (column, size[1], values.shape[2], 1),
            ):
                extent = grid.input_size[axis] if grid.input_size else pixels
                at = ((pixel + 0.5) * extent / pixels - 0.5 - grid.origin) / grid.stride
                place.append(min(max(at, 0.0), cells - 1.0))
            (top, left), (y, x) = (int(at) for at in place), place
            bottom, right = min(top + 1, values.shape[1] - 1), min(left + 1, values.shape[2] - 1)
            upper = values[:, top, left] * (1 - (x - left)) + values[:, top, right] * (x - left)
            lower = values[:, bottom, left] * (1 - (x - left)) + values[:, bottom, right] * (x - left)
            full[:, row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return full


@pytest.mark.parametrize(
    ("cells", "size", "grid"),
    [
        ((23, 31), (353, 481), CellGrid(16, 0.0)),
        ((12, 9), (90, 70), CellGrid(8, 3.5)),
        ((12, 9), (45, 70), CellGrid(8, 3.5, (90, 66))),
        ((1, 5), (8, 33), CellGrid(8, 0.0)),
        ((4, 1), (9, 1), CellGrid(4, 1.5)),
        ((6, 7), (3, 2), CellGrid(8, 0.0, (41, 49))),
        ((2, 2), (1, 1), CellGrid(16, 7.5)),
    ],
)
def test_assign_is_bilinear_interpolation_then_argmax(
    cells: tuple[int, int], size: tuple[int, int], grid: CellGrid
) -> None:
    scores = -torch.rand(9, *cells, generator=torch.Generator().manual_seed(0))
    full = interpolated(scores, size, grid)
    labels, distance = assign(scores, size, grid)
    assert labels.dtype == np.uint16 and distance.dtype == np.float32 and labels.shape == distance.shape == size
    np.testing.assert_allclose(distance, -full.max(0), atol=3e-6)
    chosen = np.take_along_axis(full, labels[None].astype(np.int64), 0)[0]
    np.testing.assert_allclose(chosen, full.max(0), atol=3e-6)
    assert (labels == full.argmax(0)).mean() > 0.999


def test_cells_of_a_stride_16_network_sit_on_every_16th_pixel() -> None:
    scores = -torch.rand(5, 23, 31, generator=torch.Generator().manual_seed(2))
    labels, distance = assign(scores, (353, 481), CellGrid(16, 0.0))
    assert np.array_equal(labels[::16, ::16], scores.argmax(0).numpy())
    np.testing.assert_allclose(distance[::16, ::16], -scores.amax(0).numpy(), atol=1e-6)


@settings(max_examples=40)
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
    grid = CellGrid(4, seed % 4 / 2)
    labels, distance = assign(scores, size, grid, tile)
    expected = np.full(size, -np.inf, np.float32)
    winner = np.zeros(size, np.uint16)
    for label in range(k):  # one cluster at a time, over the whole picture, none left out
        alone = -assign(scores[label : label + 1], size, grid)[1]
        winner[alone > expected] = label
        expected = np.maximum(expected, alone)
    assert np.array_equal(labels, winner)
    assert np.array_equal(distance, -expected)


def test_equal_scores_go_to_the_smaller_label() -> None:
    scores = torch.stack([torch.full((3, 3), -2.0), torch.full((3, 3), -1.0), torch.full((3, 3), -1.0)])
    labels, distance = assign(scores, (10, 10), CellGrid(4, 0.0))
    assert np.unique(labels).tolist() == [1]
    assert np.unique(distance).tolist() == [1.0]


def test_positive_rounding_residues_become_distance_zero() -> None:
    assert assign(torch.full((1, 2, 2), 1e-7), (4, 4), CellGrid(2, 0.5))[1].min() == 0


def test_scores_that_are_not_finite_are_refused() -> None:
    scores = torch.zeros(2, 3, 3)
    scores[1, 2, 2] = math.nan
    with pytest.raises(InputError, match="NaN"):
        assign(scores, (6, 6), CellGrid(2, 0.5))


def test_outliers_are_the_pixels_of_cells_beyond_their_own_clusters_threshold() -> None:
    scores = torch.tensor([[[-1.0, -2.0, -9.0]], [[-9.0, -9.0, -3.0]]])
    found = outliers(scores, np.array([1.0, np.inf], np.float32), (2, 12), CellGrid(4, 1.5))
    # Cells of 4 pixels: of the first two, cluster 0's, the second lies beyond 1; the third is cluster 1's.
    assert found.tolist() == [[False] * 4 + [True] * 4 + [False] * 4] * 2


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_as_many_pixels_are_taken_out_as_was_asked_for(share: float) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(6, 5)).astype(np.float32)
    grid, size, taken_out = CellGrid(8, 3.5), (160, 240), []
    maps = []
    for _ in range(20):
        # Patches of features near the centres, as an image has them.
        nearest = rng.integers(0, 6, (5, 6)).repeat(4, 0).repeat(5, 1)
        features = points[nearest] + rng.normal(0, 0.4, (20, 30, 5))
        maps.append(score_maps(torch.from_numpy(features.transpose(2, 0, 1).astype(np.float32)), model_of(points)))
    best = [scores.max(0) for scores in maps]
    sampled = replace(
        model_of(points),
        sample_label=np.concatenate([label.numpy().ravel() for _, label in best]).astype(np.int32),
        sample_distance=np.concatenate([-value.numpy().ravel() for value, _ in best]),
    )
    for scores in maps:
        taken_out.append(outliers(scores, sampled.outlier_thresholds(share), size, grid).mean())
    assert np.mean(taken_out) == pytest.approx(share, rel=0.02)
    interpolated_share = np.mean(
        [
            (distance > sampled.outlier_thresholds(share)[labels]).mean()
            for labels, distance in (assign(scores, size, grid) for scores in maps)
        ]
    )
    assert interpolated_share > 1.1 * share, "what interpolated distances would take out"


def test_vote_by_hand() -> None:
    i = IGNORE_LABEL
    superpixels = np.array([[0, 0, 0, 1, 1], [2, 2, 2, 2, 1], [3, 3, 4, 4, 4]], np.uint16)
    labels = np.array([[2, 2, 1, i, i], [3, 1, 3, 1, i], [i, 0, i, i, 4]], np.uint16)
    voted = vote(labels, superpixels, 5)
    assert voted.dtype == np.uint16
    assert voted.tolist() == [[2, 2, 2, i, i], [1, 1, 1, 1, i], [0, 0, 4, 4, 4]]


@settings(max_examples=60)
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
