"""The à trous property, measured: the dense network contains the strided one."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workloads.errors import InputError
from workloads.networks.dilation import DilatedMaxPool2d, dilate, run_probe, stride_of


def backbone(arch: str) -> nn.Module:
    """The convolutional part of a torchvision network with random weights and running statistics that
    matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if arch == "vgg19":
            network: nn.Module = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["E"])
            for layer in network:
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.normal_(layer.bias, std=0.1)
        elif arch == "mobilenet_v2":
            network = torchvision.models.mobilenet_v2(weights=None).features
        else:
            full = torchvision.models.get_model(arch, weights=None)
            network = nn.Sequential(*list(full.children())[:-2])
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.bias, std=0.1)
                nn.init.normal_(layer.running_mean, std=0.1)
    return network.eval()


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "mobilenet_v2", "vgg19"])
@pytest.mark.parametrize("output_stride", [8, 16])
@torch.inference_mode()
def test_dense_features_contain_the_strided_ones(arch, output_stride):
    network = backbone(arch)
    images = torch.randn(1, 3, 97, 65, generator=torch.Generator().manual_seed(1))
    strided = network(images)
    dense = dilate(network, output_stride)(images)
    step = 32 // output_stride
    assert dense.shape[-1] > strided.shape[-1]
    sampled = dense[..., ::step, ::step]
    assert sampled.shape == strided.shape
    torch.testing.assert_close(sampled, strided, rtol=1e-4, atol=1e-4 * float(strided.abs().max()))
    # The places between are computed, not repeated.
    assert not torch.allclose(dense[..., 1::step, 1::step][..., :2, :1], strided[..., :2, :1])


@pytest.mark.parametrize(("output_stride", "replaced"), [(8, [False, True, True]), (16, [False, False, True])])
@torch.inference_mode()
def test_resnet50_equals_torchvisions_own_dilation(output_stride, replaced):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = torchvision.models.resnet50(weights=None).eval()
    theirs = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=replaced).eval()
    theirs.load_state_dict(ours.state_dict())
    dilate(ours, output_stride)
    for (name, our), their in zip(ours.named_modules(), theirs.modules(), strict=True):
        if isinstance(our, nn.Conv2d):
            assert (our.stride, our.dilation, our.padding) == (their.stride, their.dilation, their.padding), name
    images = torch.randn(1, 3, 65, 65, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ours(images), theirs(images))


def test_twice_is_once_and_nothing_else_changes():
    network = torchvision.models.resnet18(weights=None)
    network.layer1.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    dilate(network, 8)
    once = repr(network)
    assert repr(dilate(network, 8)) == once
    assert network.training and not network.layer1.training and network.layer2.training
    assert not any(layer._forward_hooks for layer in network.modules())
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_smaller_network_is_left_alone():
    network = torchvision.models.resnet18(weights=None)
    undilated = repr(network)
    assert repr(dilate(network, 32)) == undilated


def test_a_stride_that_is_not_offered_is_refused():
    with pytest.raises(InputError, match=r"output_stride: 4 .*\[8, 16, 32\]"):
        dilate(torchvision.models.resnet18(weights=None), 4)


def test_a_strided_average_pool_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=8, padding=1), nn.AvgPool2d(2))
    with pytest.raises(InputError, match="AvgPool2d cannot be dilated"):
        dilate(network, 8)


def test_a_stride_outside_of_the_layers_is_refused():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, stride=8, padding=1)
            self.last = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, images):
            return self.last(self.stem(images)[..., ::2, ::2])

    with pytest.raises(InputError, match="cannot be reached"):
        dilate(Hidden(), 8)


def test_the_probe_leaves_running_statistics_alone():
    network = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.BatchNorm2d(2)).train()
    seen = []
    run_probe(network, {network[0]: lambda layer, inputs, output: seen.append(output.shape)})
    assert seen == [(1, 2, 257, 257)]
    assert int(network[1].num_batches_tracked) == 0


@pytest.mark.parametrize(("size", "stride"), [(257, 1), (129, 2), (33, 8), (9, 32), (8, 32), (64, 4)])
def test_stride_of(size, stride):
    assert stride_of(size) == stride


@settings(max_examples=50)
@given(
    kernel_and_padding=st.sampled_from([(2, 0), (3, 0), (3, 1), (4, 1)]),
    dilation=st.integers(1, 4),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    seed=st.integers(0, 2**31),
)
def test_dilated_pool_by_hand(kernel_and_padding, dilation, height, width, seed):
    kernel_size, padding = kernel_and_padding
    maps = torch.randn(1, 1, height, width, generator=torch.Generator().manual_seed(seed))
    pooled = DilatedMaxPool2d(kernel_size, padding, dilation)(maps)
    assert pooled.shape == maps.shape
    for row in range(height):
        for column in range(width):
            window = [
                float(maps[0, 0, r, c])
                for i in range(kernel_size)
                for j in range(kernel_size)
                if 0 <= (r := row + (i - padding) * dilation) < height
                and 0 <= (c := column + (j - padding) * dilation) < width
            ]
            assert float(pooled[0, 0, row, column]) == max(window)
