"""PmIoU: against a dense Hungarian solution, by hand, and as properties; network mIoU against
scikit-learn."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import confusion_matrix, jaccard_score

from workloads.errors import InputError
from workloads.ignored import IGNORE_CLASS, IGNORE_LABEL
from workloads.scoring.confusion import Confusion
from workloads.scoring.metrics import (
    mean_iou,
    network_confusion,
    pixel_condition,
    proxy_mean_iou,
    superpixel_condition,
)

SIZE = (12, 10)


def confusion_of(labels: np.ndarray, truth: np.ndarray, classes: int) -> Confusion:
    confusion = Confusion(classes)
    confusion.update(labels, truth)
    return confusion


def score(labels: np.ndarray, truth: np.ndarray, classes: int) -> float:
    return proxy_mean_iou(confusion_of(labels, truth, classes), classes).pmiou


def dense_ious(labels: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """IoU of every label with every class, from masks."""
    valid = truth != IGNORE_CLASS
    number = int(labels[labels != IGNORE_LABEL].max(initial=0)) + 1
    ious = np.zeros((number, classes))
    for label, each in itertools.product(range(number), range(classes)):
        predicted, actual = (labels == label) & valid, truth == each
        union = (predicted | actual).sum()
        ious[label, each] = (predicted & actual).sum() / union if union else 0
    return ious


def dense_pmiou(labels: np.ndarray, truth: np.ndarray, classes: int) -> float:
    ious = dense_ious(labels, truth, classes)
    present = np.array([(truth == each).any() for each in range(classes)])
    rows, columns = linear_sum_assignment(ious, maximize=True)
    return 100 * ious[rows, columns].sum() / present.sum()


@st.composite
def maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels, ground truth and M: K below, at and above M, with ties, ignored pixels, absent classes."""
    classes = draw(st.integers(1, 5))
    k = draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    truth = rng.integers(classes, size=SIZE).astype(np.uint8)
    if draw(st.booleans()):
        labels = (truth + classes * rng.integers(max(1, k // classes), size=SIZE)).astype(np.uint16)
        labels[rng.random(SIZE) < 0.3] = 0
    else:
        labels = rng.integers(k, size=SIZE).astype(np.uint16)
    if draw(st.booleans()):  # coarse blocks make equal counts, so ties
        labels = np.kron(labels[::3, ::5], np.ones((3, 5), np.uint16))
        truth = np.kron(truth[::3, ::5], np.ones((3, 5), np.uint8))
    labels[rng.random(SIZE) < draw(st.sampled_from([0, 0.2]))] = IGNORE_LABEL
    truth[rng.random(SIZE) < draw(st.sampled_from([0, 0.2]))] = IGNORE_CLASS
    truth[0, 0] = 0
    return labels, truth, classes


@settings(max_examples=150)
@given(maps())
def test_equals_the_dense_hungarian_solution(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    labels, truth, classes = case
    assert score(*case) == pytest.approx(dense_pmiou(labels, truth, classes))


@settings(max_examples=80)
@given(maps(), st.integers(0, 10**6))
def test_neither_the_names_of_labels_nor_of_classes_matter(case: tuple[np.ndarray, np.ndarray, int], seed: int) -> None:
    labels, truth, classes = case
    rng = np.random.default_rng(seed)
    names = np.append(rng.permutation(60_000)[:20], 0).astype(np.uint16)
    names[-1] = IGNORE_LABEL
    renamed = names[np.where(labels == IGNORE_LABEL, 20, labels)]
    assert score(renamed, truth, classes) == pytest.approx(score(*case))
    order = np.append(rng.permutation(classes), [0] * (256 - classes)).astype(np.uint8)
    order[IGNORE_CLASS] = IGNORE_CLASS
    assert score(labels, order[truth], classes) == pytest.approx(score(*case))


@settings(max_examples=100)
@given(maps(), st.integers(0, 10**6), st.floats(0, 1))
def test_removing_pixels_never_raises_the_score(
    case: tuple[np.ndarray, np.ndarray, int], seed: int, share: float
) -> None:
    labels, truth, classes = case
    removed = labels.copy()
    removed[np.random.default_rng(seed).random(SIZE) < share] = IGNORE_LABEL
    whole, part = Confusion(classes), Confusion(classes)
    whole.update(labels, truth, before=labels)
    part.update(removed, truth, before=labels)
    assert proxy_mean_iou(whole, classes).pmiou == pytest.approx(score(*case))
    assert proxy_mean_iou(part, classes).pmiou <= score(*case) + 1e-9
    assert part.coverage() <= whole.coverage()


@settings(max_examples=60)
@given(maps(), st.integers(0, 10**6))
def test_removed_pixels_are_never_left_out_of_the_evaluation(
    case: tuple[np.ndarray, np.ndarray, int], seed: int
) -> None:
    labels, truth, classes = case
    removed = labels.copy()
    removed[np.random.default_rng(seed).random(SIZE) < 0.3] = IGNORE_LABEL
    without = truth.copy()
    without[(removed == IGNORE_LABEL)] = IGNORE_CLASS
    if len(np.unique(without)) == len(np.unique(truth)):  # no class vanished from the mean
        assert score(removed, truth, classes) <= score(removed, without, classes) + 1e-9


def test_perfect_labels_score_100_and_lose_by_every_removed_pixel() -> None:
    truth = np.arange(4, dtype=np.uint8).repeat(25).reshape(10, 10)
    labels = (3 - truth).astype(np.uint16)
    result = proxy_mean_iou(confusion_of(labels, truth, 4), 4)
    assert result.pmiou == result.many_to_one == result.class_best == 100
    assert result.matching == {3: 0, 2: 1, 1: 2, 0: 3} and result.coverage == 1
    labels[0, :5] = IGNORE_LABEL  # 5 of the 25 pixels of class 0
    result = proxy_mean_iou(confusion_of(labels, truth, 4), 4)
    assert result.per_class_iou.tolist() == [80, 100, 100, 100]
    assert result.pmiou == 95 and result.coverage == 0.95


def test_more_labels_than_classes_by_hand() -> None:
    # Class 0 (8 pixels) is split 5 + 3 over labels 0 and 1, class 1 (4 pixels) is label 2.
    truth = np.array([0] * 8 + [1] * 4, np.uint8)[None]
    labels = np.array([0] * 5 + [1] * 3 + [2] * 4, np.uint16)[None]
    result = proxy_mean_iou(confusion_of(labels, truth, 2), 2)
    assert result.per_class_iou.tolist() == [62.5, 100]  # label 1's pixels stay false negatives: 5 / 8
    assert result.pmiou == 81.25
    assert result.matching == {0: 0, 2: 1}
    assert result.many_to_one == 100 and result.class_best == 81.25


def test_fewer_labels_than_classes_by_hand() -> None:
    # One label over everything: the larger class takes it, IoU 6 / 10, the other has none.
    truth = np.array([0] * 4 + [1] * 6, np.uint8)[None]
    result = proxy_mean_iou(confusion_of(np.zeros_like(truth, np.uint16), truth, 2), 2)
    assert result.per_class_iou.tolist() == [0, 60]
    assert result.pmiou == 30
    assert result.matching == {0: 1}
    assert result.class_best == 50  # the label serves both: (40 + 60) / 2
    assert result.many_to_one == 30


def test_matching_on_overlap_may_differ_from_matching_on_iou() -> None:
    # Overlap prefers 0-0 and 1-1 (41 common pixels against 35); IoU prefers 1-0 and 0-1.
    counts = np.array([[40, 10], [25, 1]])
    labels = np.repeat([0, 0, 1, 1], counts.ravel()).astype(np.uint16)[None]
    truth = np.repeat([0, 1, 0, 1], counts.ravel()).astype(np.uint8)[None]
    confusion = confusion_of(labels, truth, 2)
    by_iou, by_overlap = (proxy_mean_iou(confusion, 2, match=match) for match in ("iou", "overlap"))
    assert by_overlap.matching == {0: 0, 1: 1}
    assert by_iou.matching == {0: 1, 1: 0}
    assert by_iou.pmiou == pytest.approx(50 * (25 / 66 + 10 / 51))
    assert by_overlap.pmiou == pytest.approx(50 * (40 / 75 + 1 / 36))


@pytest.mark.parametrize(("mapping", "expected"), [("class_best", 50), ("many_to_one", 30)])
def test_diagnostic_mappings_can_stand_in_for_the_score(mapping: str, expected: float) -> None:
    truth = np.array([0] * 4 + [1] * 6, np.uint8)[None]
    confusion = confusion_of(np.zeros_like(truth, np.uint16), truth, 2)
    assert proxy_mean_iou(confusion, 2, mapping=mapping).pmiou == expected


@settings(max_examples=60)
@given(maps())
def test_class_best_and_many_to_one_equal_their_definitions(
    case: tuple[np.ndarray, np.ndarray, int],
) -> None:
    labels, truth, classes = case
    result = proxy_mean_iou(confusion_of(*case), classes)
    present = [each for each in range(classes) if (truth == each).any()]
    best = dense_ious(*case).max(0)
    assert result.class_best == pytest.approx(100 * best[present].mean())
    merged = np.full(SIZE, IGNORE_LABEL)
    for label in np.unique(labels[labels != IGNORE_LABEL]):
        votes = np.bincount(truth[(labels == label) & (truth != IGNORE_CLASS)], minlength=classes)
        merged[labels == label] = votes.argmax()
    valid = truth != IGNORE_CLASS
    ious = [
        ((merged == each) & (truth == each)).sum() / (((merged == each) & valid) | (truth == each)).sum()
        for each in present
    ]
    assert result.many_to_one == pytest.approx(100 * np.mean(ious))


def test_pixels_without_ground_truth_count_for_nothing() -> None:
    truth = np.array([[0, 0, 1, 1, 255, 255, 255]], np.uint8)
    labels = np.array([[0, 0, 1, 1, 0, 7, IGNORE_LABEL]], np.uint16)
    result = proxy_mean_iou(confusion_of(labels, truth, 2), 2)
    assert result.pmiou == 100 and result.coverage == 1


def test_classes_absent_from_the_ground_truth_are_counted_and_not_averaged() -> None:
    truth = np.array([[0, 0, 2, 2]], np.uint8)
    result = proxy_mean_iou(confusion_of(np.array([[0, 0, 1, 0]], np.uint16), truth, 4), 4)
    assert (result.present, result.absent) == (2, 2)
    assert np.isnan(result.per_class_iou[[1, 3]]).all()
    assert result.pmiou == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)


def test_labels_ignored_everywhere_score_zero_and_no_ground_truth_is_an_error() -> None:
    truth = np.zeros((3, 3), np.uint8)
    nothing = np.full((3, 3), IGNORE_LABEL, np.uint16)
    result = proxy_mean_iou(confusion_of(nothing, truth, 2), 2)
    assert (result.pmiou, result.coverage, result.matching) == (0, 0, {})
    with pytest.raises(InputError, match="no pixel with a class"):
        proxy_mean_iou(confusion_of(nothing, truth + 255, 2), 2)


def test_wrong_ground_truth_is_refused_with_the_value() -> None:
    with pytest.raises(InputError, match=r"value 11; allowed: 0 to 10, and 255"):
        confusion_of(np.zeros((2, 2), np.uint16), np.full((2, 2), 11, np.uint8), 11)
    with pytest.raises(InputError, match=r"\(2, 3\)"):
        confusion_of(np.zeros((2, 3), np.uint16), np.zeros((2, 2), np.uint8), 2)


def test_shards_merge_in_any_order_and_survive_storage() -> None:
    rng = np.random.default_rng(0)
    images = [
        (rng.integers(40, size=SIZE).astype(np.uint16), rng.integers(5, size=SIZE).astype(np.uint8)) for _ in range(6)
    ]
    whole = Confusion(5)
    for labels, truth in images:
        whole.update(labels, truth)
    shards = [confusion_of(*image, 5) for image in images]
    merged = Confusion(5)
    for shard in reversed(shards):
        merged.merge(Confusion.from_arrays(shard.to_arrays()))
    for name, array in whole.to_arrays().items():
        assert np.array_equal(array, merged.to_arrays()[name])
    stacked = confusion_matrix(
        np.concatenate([truth.ravel() for _, truth in images]),
        np.concatenate([labels.ravel() for labels, _ in images]),
        labels=np.arange(40),
    )
    assert np.array_equal(whole.dense(), stacked.T[:40, :5])


def test_many_updates_stay_condensed(monkeypatch: pytest.MonkeyPatch) -> None:
    confusion = Confusion(3)
    for _ in range(50):
        confusion._add(np.arange(100_000), np.ones(100_000, np.int64))
    assert sum(len(keys) for keys in confusion._keys) <= 4_200_000
    assert confusion.pairs()[2].tolist() == [50] * 100_000


def street_like(rng: np.random.Generator, size: tuple[int, int], classes: int) -> np.ndarray:
    """Blocky ground truth with classes of very different size."""
    blocks = np.minimum(rng.geometric(0.35, (size[0] // 16, size[1] // 16)) - 1, classes - 1)
    return np.kron(blocks, np.ones((16, 16))).astype(np.uint8)


def grid_superpixels(size: tuple[int, int], side: int) -> np.ndarray:
    rows, columns = np.arange(size[0]) // side, np.arange(size[1]) // side
    return (rows[:, None] * (columns[-1] + 1) + columns).astype(np.uint16)


def test_conditions_one_and_two_equal_the_dense_solution_on_a_toy() -> None:
    rng = np.random.default_rng(0)
    truths = [street_like(rng, (32, 48), 4) for _ in range(3)]
    truths[1][:5] = IGNORE_CLASS
    whole = np.concatenate(truths)
    pixels = np.arange(whole.size).reshape(whole.shape)
    parts = [Confusion(4) for _ in truths]
    segments, offset = [], 0
    for part, truth in zip(parts, truths, strict=True):
        ids = grid_superpixels(truth.shape, 7)
        part.append(ids, truth)
        segments.append(ids.astype(np.int64) + offset)
        offset += int(ids.max()) + 1
    totals = np.sum([part.class_totals for part in parts], axis=0)

    valid = whole != IGNORE_CLASS
    ious = np.zeros((whole.size, 4))
    ious[pixels[valid], whole[valid]] = 1 / totals[whole[valid]]
    rows, columns = linear_sum_assignment(ious, maximize=True)
    assert pixel_condition(totals) == pytest.approx(100 * ious[rows, columns].mean())

    merged = parts[0]
    merged.merge_disjoint(parts[1])
    merged.merge_disjoint(parts[2])
    assert merged.num_labels == offset
    assert superpixel_condition(merged) == pytest.approx(dense_pmiou(np.concatenate(segments), whole, 4))


def test_conditions_one_and_two_meet_table_1_at_a_realistic_size() -> None:
    """100 images of 360 x 480 with about 700 superpixels: 17 million pixel labels, 68 thousand
    superpixels."""
    rng = np.random.default_rng(1)
    confusion = Confusion(8)
    superpixels = grid_superpixels((352, 480), 16)
    for _ in range(100):
        confusion.append(superpixels, street_like(rng, (352, 480), 8))
    assert confusion.num_labels == 100 * (int(superpixels.max()) + 1)
    assert 0 < pixel_condition(confusion.class_totals) < 0.1
    assert 0 < superpixel_condition(confusion) < 1


def test_network_miou_equals_scikit_learn_and_counts_absent_classes() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(5, size=(30, 40)).astype(np.uint8)
    truth[truth == 3] = IGNORE_CLASS
    predicted = np.where(rng.random(truth.shape) < 0.6, truth % 5, rng.integers(5, size=truth.shape))
    total = network_confusion(predicted[:15], truth[:15], 5) + network_confusion(predicted[15:], truth[15:], 5)
    valid = truth != IGNORE_CLASS
    assert np.array_equal(total, confusion_matrix(truth[valid], predicted[valid], labels=range(5)))
    result = mean_iou(total)
    expected = 100 * jaccard_score(truth[valid], predicted[valid], labels=[0, 1, 2, 4], average=None)
    np.testing.assert_allclose(result.per_class_iou[[0, 1, 2, 4]], expected)
    assert np.isnan(result.per_class_iou[3])
    assert result.miou == pytest.approx(expected.mean())
    assert (result.present, result.absent) == (4, 1)
    assert result.accuracy == pytest.approx((predicted == truth)[valid].mean())


def test_network_confusion_refuses_values_out_of_range() -> None:
    truth = np.zeros((2, 2), np.uint8)
    with pytest.raises(InputError, match="predictions: value 5; allowed: 0 to 4"):
        network_confusion(np.full((2, 2), 5), truth, 5)
    with pytest.raises(InputError, match="ground truth: value 9"):
        network_confusion(truth, truth + 9, 5)
    with pytest.raises(InputError, match=r"\(2, 3\)"):
        network_confusion(np.zeros((2, 3)), truth, 5)
    assert np.isnan(mean_iou(np.zeros((3, 3), np.int64)).miou)
