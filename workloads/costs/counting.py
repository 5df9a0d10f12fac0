"""The operations of a network, counted by torch's own formulas on the meta device: nothing is computed.

    python -m workloads.costs.counting < passes.json > costs.json

does so in a process of its own, for a driver that is spared torch.
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from workloads.costs.speeds import PassCost
from workloads.costs.work import NetworkPass
from workloads.features.extractors import on_meta
from workloads.networks.segmentors import Segmentor

# Of a parameter, in bytes of a forward pass.
_OPTIMISER_BYTES = 8


class CostCounter(TorchDispatchMode):
    """Counts what runs below it."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = self.grouped = self.bytes = self.operations = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count it; a view costs nothing."""
        del types
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            operations = float(flop_registry[packet](*args, **(kwargs or {}), out_val=out))
            # The last argument of a convolution is its number of groups.
            if packet is torch.ops.aten.convolution and args[8] > 1:
                self.grouped += operations
            else:
                self.dense += operations
        if not func.is_view:
            self.operations += 1
            tensors = (each for each in tree_leaves((args, out)) if isinstance(each, torch.Tensor))
            self.bytes += sum(each.numel() * each.element_size() for each in tensors)
        return out

    @property
    def cost(self) -> PassCost:
        """What was counted."""
        return PassCost(self.dense, self.grouped, self.bytes, self.operations)


@torch.no_grad()
def count(one: NetworkPass) -> PassCost:
    """The forward pass of a batch; what gradients cost is in the speed of training."""
    images = torch.empty((one.batch, 3, *one.image_size), device="meta")
    forward: Callable[[torch.Tensor], Any]
    network: torch.nn.Module | None = None
    if one.segmentor is not None:
        with torch.device("meta"):
            # In training, batch statistics of a single cell are refused; they cost the same in evaluation.
            network = Segmentor(one.segmentor, one.num_classes).eval()
        forward = network
    else:
        assert one.extractor is not None
        forward = on_meta(one.extractor)
    counter = CostCounter()
    if one.training and network is not None:
        # The optimiser reads and writes every parameter and its moments, as fast as memory; the bytes of a forward pass
        # stand for three times themselves where gradients are computed.
        counter.bytes += _OPTIMISER_BYTES * sum(each.numel() for each in network.parameters())
    with counter:
        forward(images)
    return counter.cost


def main() -> None:
    """Count the passes of standard input."""
    passes = [NetworkPass.model_validate(one) for one in json.load(sys.stdin)]
    json.dump(count_all(passes), sys.stdout)


def count_all(passes: Sequence[NetworkPass]) -> list[PassCost | None]:
    """The cost of each; None where a network cannot be built, which is for its run to say."""
    return [_count(one) for one in passes]


def _count(one: NetworkPass) -> PassCost | None:
    try:
        return count(one)
    except Exception:  # an estimate must not fail where the run would say why
        return None


if __name__ == "__main__":
    main()
