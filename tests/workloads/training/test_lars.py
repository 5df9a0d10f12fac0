import pytest
import torch
from torch import nn

from workloads.configs.training import OptimiserConfig
from workloads.training.lars import Lars
from workloads.training.optimisation import build_optimiser

torch.set_num_threads(1)


def test_steps_by_hand():
    """Three steps in plain numbers: a kernel is decayed and scaled, a vector takes plain SGD with momentum."""
    kernel, vector = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Parameter(torch.tensor([1.0]))
    optimiser = Lars([kernel, vector], lr=0.5, momentum=0.9, weight_decay=0.1, trust=0.01)
    expected, number = [3.0, 4.0], 1.0
    velocity, pace = [0.0, 0.0], 0.0
    for gradient in ([1.0, -2.0], [0.5, 0.5], [-1.0, 0.25]):
        kernel.grad, vector.grad = torch.tensor([gradient]), torch.tensor([gradient[0]])
        optimiser.step()
        whole = [g + 0.1 * w for g, w in zip(gradient, expected, strict=True)]
        length = (expected[0] ** 2 + expected[1] ** 2) ** 0.5
        scale = 0.01 * length / (whole[0] ** 2 + whole[1] ** 2) ** 0.5
        velocity = [0.9 * v + scale * g for v, g in zip(velocity, whole, strict=True)]
        expected = [w - 0.5 * v for w, v in zip(expected, velocity, strict=True)]
        pace = 0.9 * pace + gradient[0]
        number -= 0.5 * pace
    assert kernel.tolist()[0] == pytest.approx(expected)
    assert vector.tolist() == pytest.approx([number])


def test_a_weight_or_gradient_of_zero_is_not_divided_by():
    zero, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimiser = Lars([zero, still], lr=0.1, momentum=0.0)
    zero.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    optimiser.step()
    assert torch.equal(zero, torch.full((2, 2), -0.1))
    assert torch.equal(still, torch.ones(2, 2))


def test_a_resumed_optimiser_steps_as_one_that_was_not():
    config = OptimiserConfig(kind="lars", learning_rate=0.3, weight_decay=0.01)
    states = []
    for stops in (False, True):
        layer = nn.Linear(3, 2)
        with torch.no_grad():
            layer.weight.copy_(torch.arange(6.0).view(2, 3))
            layer.bias.zero_()
        optimiser = build_optimiser(config, layer)
        assert isinstance(optimiser, Lars)
        for step in range(4):
            if stops and step == 2:
                kept = optimiser.state_dict()
                optimiser = build_optimiser(config, layer)
                optimiser.load_state_dict(kept)
            optimiser.zero_grad()
            layer(torch.eye(3) * (step + 1)).square().sum().backward()
            optimiser.step()
        states.append(layer.weight.detach().clone())
    assert torch.equal(states[0], states[1])
