"""Batch normalisation folded into the convolution before it, for a network that only infers.

In evaluation mode a batch normalisation multiplies and shifts each channel by constants, which the convolution can do
with its own weights and bias; that spares a pass over every feature map. Which of them follow one another is seen in
one pass of a small image, so that any network will do. The order in which modules were registered would not do: a
network may use a convolution's output in a second place, or change it before it is normalised.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_SIDE = 65


def fold_batch_normalisation(network: nn.Module, kept: str, size: tuple[int, int] = (_SIDE, _SIDE)) -> nn.Module:
    """Fold every batch normalisation whose input is a convolution's output and nothing else's, in place.

    The names of all modules stay: a folded normalisation becomes `nn.Identity`. What it computed differs from before by
    rounding. Only torch's own types are folded: a normalisation that is derived from torch's may do more (timm's
    activate), a convolution may change its weights before it uses them.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode; takes float32 (B, 3, H, W) on the CPU.
    kept : str
        Name of the module whose output is wanted; if it is a convolution it is not folded into.
    size : tuple[int, int]
        Height and width of an image that the network takes.

    Returns
    -------
    nn.Module
        The same module.
    """
    names = {module: name for name, module in network.named_modules()}
    outputs: dict[int, nn.Conv2d] = {}
    inputs: dict[nn.BatchNorm2d, int] = {}
    calls: Counter[nn.Module] = Counter()

    def note(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            outputs[id(output)] = module
        elif isinstance(module, nn.BatchNorm2d):
            inputs[module] = id(arguments[0])

    handles = [module.register_forward_hook(note) for module in names if type(module) in (nn.Conv2d, nn.BatchNorm2d)]
    with torch.inference_mode(), _Uses() as uses:
        network(torch.zeros(1, 3, *size))
    for handle in handles:
        handle.remove()
    for normalisation, place in inputs.items():
        convolution = outputs.get(place)
        if convolution is None or names[convolution] == kept:
            continue
        if uses.counts[place] == calls[convolution] == calls[normalisation] == 1:
            network.set_submodule(names[convolution], fuse_conv_bn_eval(convolution, normalisation))
            network.set_submodule(names[normalisation], nn.Identity())
    return network


class _Uses(TorchFunctionMode):
    """Counts, by identity, how many operations each tensor goes into."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        # As long as they are held, no two tensors have one identity.
        self._held: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # Asking for a size or a type is no use.
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor):
                    self.counts[id(leaf)] += 1
                    self._held.append(leaf)
        return result
