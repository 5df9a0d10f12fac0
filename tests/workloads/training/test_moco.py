import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from workloads.configs.networks import SegmentorConfig
from workloads.configs.objectives import MocoConfig
from workloads.configs.training import PretrainConfig
from workloads.configs.views import ViewsConfig
from workloads.networks.segmentors import build_segmentor
from workloads.training.batches import Sample, Slot
from workloads.training.moco import MomentumContrast, follow, frozen_copy, queue_loss

torch.set_num_threads(1)


def test_loss_by_hand():
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    keys = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    queue = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    loss, found = queue_loss(queries, keys, queue, temperature=0.5)
    first = -math.log(math.exp(2) / (math.exp(2) + math.exp(0) + math.exp(-2)))
    second = -math.log(math.exp(1.6) / (math.exp(1.6) + math.exp(2) + math.exp(0)))
    assert float(loss) == pytest.approx((first + second) / 2, rel=1e-5)
    assert float(found) == 0.5


def test_the_copy_follows_and_asks_for_no_gradient():
    online = nn.Linear(2, 2)
    copied = frozen_copy(online)
    before = copied.weight.clone()
    with torch.no_grad():
        online.weight.add_(1.0)
    follow(copied, online, momentum=0.9)
    torch.testing.assert_close(copied.weight, before + 0.1)
    assert not copied.weight.requires_grad
    assert online.weight.requires_grad


def objective(queue=5, num_images=100):
    network = build_segmentor(SegmentorConfig(backbone="mobilenet_v2", head_channels=8), 1)
    config = PretrainConfig(
        steps=1,
        objective="moco",
        segmentor=network.config,
        views=ViewsConfig(crop_mode="fixed", crop=(33, 33)),
        moco=MocoConfig(queue=queue, momentum=0.5, embedding_dim=8),
    )
    return MomentumContrast(network, config, num_images).train()


def test_the_queue_is_never_longer_than_there_are_images(caplog):
    assert objective(queue=5, num_images=3).queue.shape == (3, 8)
    assert "3 keys, as many as there are images, in place of 5" in caplog.text
    assert objective(queue=5, num_images=5).queue.shape == (5, 8)


def test_the_queue_forgets_the_oldest_and_wraps():
    moco = objective(queue=5)
    for step in range(4):
        moco._new_keys = F.normalize(torch.full((2, 8), float(step)) + torch.eye(2, 8), dim=1)
        moco.after_step(0.0)
    # Eight keys were written to five places: 0 1 2 3 4 | 5 6 7.
    expected = {0: 5, 1: 6, 2: 7, 3: 3, 4: 4}
    for place, number in expected.items():
        key = F.normalize(torch.full((8,), float(number // 2)) + torch.eye(2, 8)[number % 2], dim=0)
        torch.testing.assert_close(moco.queue[place], key)
    assert int(moco.oldest) == 3


def test_more_keys_than_places():
    moco = objective(queue=3)
    moco._new_keys = F.normalize(torch.arange(40.0).view(5, 8).cos(), dim=1)
    moco.after_step(0.0)
    assert set(map(tuple, moco.queue.tolist())) == set(map(tuple, moco._new_keys[-3:].tolist()))


def test_a_step_has_gradients_for_the_query_network_alone():
    moco = objective()
    rng = np.random.default_rng(0)
    made = [
        moco.inputs(Sample(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8), None), Slot(f"i{n}", 0, (33, 33)))
        for n in range(2)
    ]
    loss = moco({"views": torch.stack([one["views"] for one in made])})
    loss.backward()
    assert moco.query.head[0].weight.grad.abs().sum() > 0
    assert moco.segmentor.backbone.features[0][0].weight.grad is moco.query.backbone.features[0][0].weight.grad
    assert all(parameter.grad is None for parameter in moco.key.parameters())
    assert not moco.queue.requires_grad
