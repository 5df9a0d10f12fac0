import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.configs.objectives import ContrastConfig
from workloads.errors import InputError
from workloads.training.contrast import (
    AnchorSlots,
    Keys,
    LabelMemory,
    cell_labels,
    contrastive_loss,
    joined,
    places,
    sample_anchors,
)

torch.set_num_threads(1)


def keys(labels, images=None, views=None, seed=0, dim=8):
    number = len(labels)
    vectors = F.normalize(torch.randn(number, dim, generator=torch.Generator().manual_seed(seed)), dim=1)
    return Keys(
        vectors,
        torch.tensor(labels),
        torch.tensor(images if images is not None else [0] * number),
        torch.tensor(views if views is not None else [0] * number),
    )


def slow_loss(anchors, all_keys, first_column, config):
    """The formula, one anchor and one key at a time, in float64."""
    a, k = anchors.vectors.double().numpy(), all_keys.vectors.double().numpy()
    total, counted = 0.0, 0
    for i in range(len(a)):
        label = int(anchors.labels[i])
        if label < 0:
            continue
        positive, negative = [], []
        for j in range(len(k)):
            other = int(all_keys.labels[j])
            if other < 0 or j == first_column + i:
                continue
            same_image = int(anchors.images[i]) == int(all_keys.images[j])
            same_view = int(anchors.views[i]) == int(all_keys.views[j])
            score = float(a[i] @ k[j]) / config.temperature
            same = label == other and (config.positives == "auxiliary" or same_image)
            if same:
                if config.positives != "pixel" or not same_view:
                    positive.append(score)
            elif config.negatives == "batch" or same_image:
                negative.append(score)
        if positive and negative:
            repulsion = sum(math.exp(score) for score in negative)
            total += np.mean([-math.log(math.exp(p) / (math.exp(p) + repulsion)) for p in positive])
            counted += 1
    return total, counted


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    positives=st.sampled_from(["auxiliary", "superpixel", "pixel"]),
    negatives=st.sampled_from(["batch", "image"]),
    size=st.integers(1, 14),
)
def test_loss_is_the_formula(seed, positives, negatives, size):
    rng = np.random.default_rng(seed)
    everything = keys(
        rng.integers(-1, 3, size).tolist(),
        rng.integers(0, 2, size).tolist(),
        rng.integers(0, 2, size).tolist(),
        seed,
    )
    first = int(rng.integers(0, size))
    anchors = Keys(*(part[first:] for part in everything))
    config = ContrastConfig(positives=positives, negatives=negatives, temperature=0.3)
    found = contrastive_loss(anchors, everything, first, config)
    total, counted = slow_loss(anchors, everything, first, config)
    assert int(found.counted.sum()) == counted
    assert float(found.total) == pytest.approx(total, rel=1e-4, abs=1e-5)


def test_gradient_is_that_of_the_formula():
    everything = keys([0, 0, 1, 1, 2, -1], seed=3)
    vectors = everything.vectors.double().requires_grad_()
    logits = vectors @ vectors.T / 0.1
    terms = []
    for i, j in ((0, 1), (1, 0), (2, 3), (3, 2)):
        negative = [n for n in range(5) if int(everything.labels[n]) != int(everything.labels[i])]
        terms.append(torch.logsumexp(torch.stack([logits[i, j], *logits[i, negative]]), 0) - logits[i, j])
    (expected,) = torch.autograd.grad(torch.stack(terms).sum(), vectors)
    ours = everything.vectors.clone().requires_grad_()
    (found,) = torch.autograd.grad(
        contrastive_loss(
            everything._replace(vectors=ours), everything._replace(vectors=ours), 0, ContrastConfig()
        ).total,
        ours,
    )
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("labels", [[], [4], [-1, -1], [0, 0, 0], [0, 1, 2], [0, -1, 0, 1]])
@pytest.mark.parametrize("positives", ["auxiliary", "superpixel", "pixel"])
def test_finite_with_a_graph_whatever_the_batch_holds(labels, positives):
    everything = keys(labels)
    vectors = everything.vectors.clone().requires_grad_()
    all_keys = everything._replace(vectors=vectors)
    loss = contrastive_loss(all_keys, all_keys, 0, ContrastConfig(positives=positives, temperature=0.01))
    assert torch.isfinite(loss.total)
    loss.total.backward()
    assert torch.isfinite(vectors.grad).all()
    if len(set(labels) - {-1}) < 2:
        assert (float(loss.total.detach()), int(loss.counted.sum())) == (0.0, 0)


def test_extreme_cosines_at_a_low_temperature_stay_finite():
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1])
    all_keys = Keys(vectors, labels, torch.zeros(4), torch.zeros(4))
    loss = contrastive_loss(all_keys, all_keys, 0, ContrastConfig(temperature=1e-3))
    # Each anchor: positive at cosine -1, one negative at 1 and one at -1: log(1 + e^2000 + e^0) = 2000.
    assert float(loss.total.detach()) == pytest.approx(8000, rel=1e-5)
    loss.total.backward()
    assert torch.isfinite(vectors.grad).all()


def test_float32_inside_autocast():
    everything = keys([0, 0, 1, 1, 2, 2], dim=64)
    outside = contrastive_loss(everything, everything, 0, ContrastConfig())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = contrastive_loss(everything, everything, 0, ContrastConfig())
    assert inside.total.dtype == torch.float32
    assert torch.equal(inside.total, outside.total)


def test_an_anchor_is_not_its_own_positive_nor_are_memory_columns_masked():
    batch = keys([3, 1])
    memory = Keys(batch.vectors[:1].clone(), torch.tensor([3]), torch.tensor([-1]), torch.tensor([-1]))
    config = ContrastConfig()
    assert int(contrastive_loss(batch, batch, 0, config).counted.sum()) == 0, "each label once: no positive"
    with_memory = contrastive_loss(batch, joined(batch, memory), 0, config)
    assert int(with_memory.counted.sum()) == 1
    assert float(with_memory.positive_cosine) == pytest.approx(1.0), "the remembered key is a positive"


def cells_of(rng, labels, shape):
    return rng.choice(labels, size=shape)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    slots=st.integers(2, 60),
    positives=st.sampled_from(["auxiliary", "superpixel", "pixel"]),
)
def test_anchors_are_cells_of_their_label_without_repetition(seed, slots, positives):
    rng = np.random.default_rng(seed)
    cells = rng.integers(-1, 6, (2, 4, 5))
    chosen = sample_anchors(cells, slots, positives, rng)
    held = chosen.labels >= 0
    assert len(chosen.cells) == len(chosen.labels) == slots
    assert np.array_equal(cells.reshape(-1)[chosen.cells[held]], chosen.labels[held])
    assert len(set(chosen.cells[held])) == held.sum()
    if positives == "auxiliary":
        assert held.sum() == min(slots, (cells >= 0).sum())


def test_anchors_are_balanced_and_small_labels_are_kept():
    cells = np.zeros((2, 20, 20), np.int64)  # label 0 fills nearly everything
    cells[0, 0, :3] = 7
    cells[1, :2, :10] = 5
    chosen = sample_anchors(cells, 40, "auxiliary", np.random.default_rng(0))
    counts = dict(zip(*np.unique(chosen.labels, return_counts=True), strict=True))
    assert counts[7] == 3, "all of a small label"
    assert abs(counts[0] - counts[5]) <= 1, "label 0 like any other"
    assert sum(counts.values()) == 40


def test_every_chosen_superpixel_brings_a_partner_from_the_other_view():
    rng = np.random.default_rng(0)
    cells = np.stack([rng.permutation(400), rng.permutation(400)]).reshape(2, 20, 20)
    for positives in ("superpixel", "pixel", "auxiliary"):
        chosen = sample_anchors(cells, 64, positives, rng)
        labels, counts = np.unique(chosen.labels, return_counts=True)
        assert len(labels) == 32
        assert set(counts) == {2}
        view = chosen.cells // 400
        assert all(set(view[chosen.labels == label]) == {0, 1} for label in labels)


def test_labels_without_a_possible_positive_are_passed_over():
    cells = np.array([[[1, 2, 2, 3]], [[3, -1, -1, 4]]])
    superpixel = sample_anchors(cells, 10, "superpixel", np.random.default_rng(0))
    assert sorted(superpixel.labels[superpixel.labels >= 0]) == [2, 2, 3, 3]
    pixel = sample_anchors(cells, 10, "pixel", np.random.default_rng(0))
    assert sorted(pixel.labels[pixel.labels >= 0]) == [3, 3]
    nothing = sample_anchors(np.full((2, 3, 3), -1), 4, "auxiliary", np.random.default_rng(0))
    assert np.array_equal(nothing.labels, [-1] * 4)
    assert isinstance(nothing, AnchorSlots)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    stride=st.sampled_from([2, 4, 8]),
)
def test_cell_labels_are_strict_majorities(seed, height, width, stride):
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1, 0, 1], p=[0.2, 0.6, 0.2], size=(height, width))
    found = cell_labels(torch.from_numpy(labels), stride, "majority").numpy()
    half = stride // 2
    padded = np.pad(labels, ((half, 2 * stride), (half, 2 * stride)), constant_values=-1)
    assert found.shape == (math.ceil(height / stride), math.ceil(width / stride))
    for i in range(found.shape[0]):
        for j in range(found.shape[1]):
            window = padded[i * stride : (i + 1) * stride, j * stride : (j + 1) * stride]
            winners = [value for value in (0, 1) if (window == value).sum() > stride * stride / 2]
            assert found[i, j] == (winners[0] if winners else -1)
    nearest = cell_labels(torch.from_numpy(labels), stride, "nearest").numpy()
    assert np.array_equal(nearest, labels[::stride, ::stride])


def test_places_are_squares_of_the_image():
    pixels = torch.arange(6 * 10).view(6, 10)
    pixels[0, 0] = -1
    found = places(pixels, image_width=10, cell=4)
    assert found[0].tolist() == [-1, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert found[5].tolist() == [3, 3, 3, 3, 4, 4, 4, 4, 5, 5]


def remember(memory, values):
    """Push (label, value) pairs; a key's first coordinate is its value."""
    vectors = torch.zeros(len(values), memory.vectors.shape[2])
    vectors[:, 0] = torch.tensor([float(value) for _, value in values])
    labels = torch.tensor([label for label, _ in values])
    memory.update(Keys(vectors, labels, labels, labels))


def held(memory, label):
    present = memory.keys()
    return sorted(present.vectors[present.labels == label][:, 0].tolist())


def test_memory_advances_by_what_it_took_and_overwrites_the_oldest():
    memory = LabelMemory(3, ContrastConfig(memory_per_label=5, memory_update_per_label=3, embedding_dim=4))
    remember(memory, [(1, 1), (1, 2), (1, 3)])
    remember(memory, [(1, 4), (1, 5), (1, 6)])  # wraps: 1 is the oldest
    assert held(memory, 1) == [2, 3, 4, 5, 6]
    remember(memory, [(1, 7)])
    assert held(memory, 1) == [3, 4, 5, 6, 7]


def test_memory_keeps_label_0_and_shows_no_empty_entry():
    memory = LabelMemory(3, ContrastConfig(memory_per_label=4, memory_update_per_label=2, embedding_dim=4))
    assert (memory.keys().labels == -1).all(), "zero vectors are nobody's keys"
    remember(memory, [(0, 9), (2, 8), (-1, 7)])
    assert held(memory, 0) == [9]
    assert held(memory, 2) == [8]
    assert int((memory.keys().labels >= 0).sum()) == 2


def test_memory_takes_keys_of_the_label_only_and_in_order():
    memory = LabelMemory(2, ContrastConfig(memory_per_label=10, memory_update_per_label=2, embedding_dim=4))
    remember(memory, [(1, 10), (0, 1), (0, 2), (1, 11), (0, 3)])
    assert (held(memory, 0), held(memory, 1)) == ([1, 2], [10, 11])


def test_memory_follows_a_plain_ring_over_many_steps():
    config = ContrastConfig(memory_per_label=7, memory_update_per_label=4, embedding_dim=4)
    memory, plain, rng = LabelMemory(4, config), {label: [] for label in range(4)}, np.random.default_rng(0)
    for step in range(30):
        values = [(int(rng.integers(-1, 4)), 100 * step + i) for i in range(12)]
        remember(memory, values)
        for label, ring in plain.items():
            ring.extend([value for other, value in values if other == label][:4])
            del ring[:-7]
    assert all(held(memory, label) == sorted(ring) for label, ring in plain.items())


def test_labels_that_do_not_fit_are_refused():
    memory = LabelMemory(2, ContrastConfig(memory_per_label=4, memory_update_per_label=2, embedding_dim=4))
    with pytest.raises(InputError, match="label 2"):
        remember(memory, [(2, 1)])
    with pytest.raises(ValueError, match="only auxiliary labels"):
        ContrastConfig(positives="pixel", memory_per_label=4)
