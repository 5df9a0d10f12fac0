import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from workloads.configs.networks import SegmentorConfig
from workloads.configs.objectives import PixproConfig
from workloads.configs.training import PretrainConfig
from workloads.configs.views import ViewsConfig
from workloads.networks.segmentors import build_segmentor
from workloads.training.batches import Sample, Slot
from workloads.training.pixpro import PixelPropagation, consistency, propagate, same_place

torch.set_num_threads(1)


def test_propagation_is_the_formula():
    embedded = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    transform = nn.Linear(4, 4)
    found = propagate(embedded, transform, gamma=2.0)
    for n in range(2):
        for i in range(5):
            expected = torch.zeros(4)
            for j in range(5):
                cosine = float(F.cosine_similarity(embedded[n, i], embedded[n, j], dim=0))
                transformed = transform(embedded[n, j])
                expected += max(cosine, 0.0) ** 2 * transformed / transformed.norm()
            torch.testing.assert_close(found[n, i], expected, rtol=1e-4, atol=1e-5)


def test_pairs_are_within_a_share_of_the_longer_diagonal():
    first = torch.tensor([[[0.0, 0.0], [0.0, 10.0], [math.nan, math.nan]]])
    second = torch.tensor([[[0.0, 6.9], [0.0, 17.1], [math.nan, math.nan]]])
    pairs = same_place(first, second, torch.tensor([[10.0, 5.0]]), distance=0.7)
    # Distances 6.9, 17.1 / 3.1, 7.1 against 0.7 x 10; places outside pair with nothing, not even each other.
    assert pairs[0].tolist() == [[True, False, False], [True, False, False], [False, False, False]]


def test_loss_by_hand():
    first = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [1.0, 1.0]]])
    second = torch.tensor([[[1.0, 1.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, 3.0]]])
    pairs = torch.tensor([[[True, False], [True, True]], [[True, False], [False, False]]])
    image_0 = (math.sqrt(0.5) + math.sqrt(0.5) + 1) / 3
    assert float(consistency(first, second, pairs)) == pytest.approx(-2 * (image_0 - 1) / 2, rel=1e-5)


def test_views_without_common_ground_give_zero():
    loss = consistency(torch.randn(1, 3, 4), torch.randn(1, 3, 4), torch.zeros(1, 3, 3, dtype=torch.bool))
    assert float(loss) == 0.0


def objective(views):
    pixpro = PixproConfig(hidden_channels=8, embedding_dim=8, momentum=0.5)
    network = build_segmentor(SegmentorConfig(backbone="mobilenet_v2", output_stride=8, head_channels=8), 1)
    config = PretrainConfig(steps=1, objective="pixpro", segmentor=network.config, views=views, pixpro=pixpro)
    return PixelPropagation(network, config).train()


IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def test_equal_views_pair_every_cell_with_itself_alone():
    still = ViewsConfig(crop_mode="fixed", crop=(64, 64), scale=(1, 1), rotation=(0, 0), flip=0, cutout=(0, 0))
    pixpro = objective(still)
    made = pixpro.inputs(Sample(IMAGE, None), Slot("a", 0, (64, 64)))
    assert made["diagonals"].tolist() == pytest.approx([8 * math.sqrt(2)] * 2)
    assert made["places"][0].view(8, 8, 2)[2, 3].tolist() == [16, 24]
    pairs = same_place(made["places"][:1], made["places"][1:], made["diagonals"][None], 0.7)
    # Neighbours are 8 apart, the limit is 0.7 x 11.3 = 7.9.
    assert torch.equal(pairs[0], torch.eye(64, dtype=torch.bool))


def test_a_step_is_finite_and_the_momentum_rises_to_one():
    pixpro = objective(ViewsConfig(crop_mode="fixed", crop=(48, 48), cutout=(0, 5)))
    made = [pixpro.inputs(Sample(IMAGE, None), Slot(f"i{n}", 0, (48, 48))) for n in range(2)]
    loss = pixpro({name: torch.stack([one[name] for one in made]) for name in made[0]})
    assert torch.isfinite(loss)
    assert -4 <= float(loss.detach()) <= 4
    loss.backward()
    assert all(parameter.grad is None for parameter in pixpro.target.parameters())
    assert pixpro.transform.weight.grad is not None
    weight = pixpro.target.projection[0].weight
    before, online = weight.clone(), pixpro.online.projection[0].weight
    with torch.no_grad():
        online.add_(1.0)
    pixpro.after_step(progress=0.0)
    torch.testing.assert_close(weight, before + 0.5)
    pixpro.after_step(progress=1.0)
    torch.testing.assert_close(weight, before + 0.5)
