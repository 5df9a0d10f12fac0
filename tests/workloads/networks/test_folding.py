"""Folded networks give what the network gave before, wherever its output is taken."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from workloads.networks.folding import fold_batch_normalisation


def drawn(network: nn.Module) -> nn.Module:
    """Normalisations that do something: statistics and factors far from zero and one."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
            ):
                tensor.data.uniform_(low, high, generator=generator)
    return network.eval().requires_grad_(False)


def output_of(network: nn.Module, layer: str) -> torch.Tensor:
    outputs = []
    with network.get_submodule(layer).register_forward_hook(lambda *arguments: outputs.append(arguments[-1].clone())):
        network(torch.rand(1, 3, 65, 97, generator=torch.Generator().manual_seed(1)))
    return outputs[0]


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_no_normalisation_remains_and_the_output_does(name: str) -> None:
    network = drawn(torchvision.models.get_model(name, weights=None))
    last = [module_name for module_name, _ in network.named_children()][-1]
    folded = fold_batch_normalisation(copy.deepcopy(network), last)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert [module_name for module_name, _ in folded.named_modules()] == [n for n, _ in network.named_modules()]
    expected = output_of(network, last)
    torch.testing.assert_close(output_of(folded, last), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("layer", ["layer1.0.conv1", "layer1.0.bn1", "layer2.0.downsample.0", "layer3"])
def test_a_layer_inside_gives_what_it_gave(layer: str) -> None:
    network = drawn(torchvision.models.resnet18(weights=None))
    expected = output_of(network, layer)
    folded = output_of(fold_batch_normalisation(copy.deepcopy(network), layer), layer)
    torch.testing.assert_close(folded, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


class OutputUsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.normalisation = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        maps = self.convolution(images_B3HW)
        return maps + self.normalisation(maps)


class ChangedBefore(OutputUsedTwice):
    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        return self.normalisation(self.convolution(images_B3HW).relu_())


class ModuleUsedTwice(OutputUsedTwice):
    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        return self.normalisation(self.convolution(self.convolution(images_B3HW)))


@pytest.mark.parametrize("kind", [OutputUsedTwice, ChangedBefore, ModuleUsedTwice])
def test_what_cannot_be_folded_stays_as_it_is(kind: type[nn.Module]) -> None:
    network = drawn(kind())
    images = torch.rand(1, 3, 8, 8)
    expected = network(images)
    assert torch.equal(fold_batch_normalisation(network, "normalisation")(images), expected)
