"""Random weights of a network, from a seed alone.

Convolutions after He et al. (arXiv:1502.01852), normal, fan-in; batch normalisations at their start. The weights depend
neither on what was drawn before nor on the device.
"""

import torch
from torch import nn

from workloads.seeding import stable_hash


def draw_weights(network: nn.Module, seed: int) -> None:
    """Draw all convolutions and batch normalisations of `network`, in place.

    Fan-in keeps the size of activations through depthwise convolutions too, which torchvision's fan-out does not: its
    random mobilenet_v2 vanishes in half precision. No global random state is used, and all is drawn on the CPU, so a
    GPU has the same weights.
    """
    generator = torch.Generator().manual_seed(stable_hash(seed, "random weights") % 2**63)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
