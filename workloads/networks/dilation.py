"""Any convolutional network at a smaller output stride, with the same weights: the à trous algorithm.

Every strided convolution or pool beyond the wanted output stride becomes a stride-1 one, and everything that follows it
is dilated by the stride that was taken away [1]_. The dense features then contain the undilated network's features: for
an input of size 32 n + 1, sampling the features of output stride 8 at every fourth place gives exactly those of stride
32. The failure this guards against: a network-specific table of dilations that is right for ResNet-50 and silently
wrong for the next network (a block whose own stride moved but whose padding did not, a pool that nobody dilated). The
strides are therefore measured by one probe pass on the `meta` device, which computes shapes and no numbers.

References
----------
.. [1] Chen, Papandreou, Schroff and Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation",
   arXiv:1706.05587, section 3.1.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from workloads.errors import InputError

OUTPUT_STRIDES = (8, 16, 32)

PROBE_SIZE = 257
"""Side of the probe in pixels: 32 n + 1, so that every stride up to 32 divides (size - 1)."""

# These very classes: one that inherits from them may do more, or hold layers that somebody asks about.
_SAME_SHAPE = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.SiLU, nn.Hardswish, nn.GELU, nn.Dropout)

Hook = Callable[[nn.Module, tuple[torch.Tensor, ...], object], None]


class DilatedMaxPool2d(nn.Module):
    """A max-pool of stride 1 that keeps the map's size; places outside the map never win.

    It stands for a strided `nn.MaxPool2d` of kernel size k and padding p whose stride was taken away: the map is padded
    by p * dilation before and (k - 1 - p) * dilation after with minus infinity. torch's own pool cannot pad one side
    only, which is what a 2 × 2 pool without padding needs.
    """

    def __init__(self, kernel_size: int, padding: int, dilation: int) -> None:
        super().__init__()
        self.kernel_size, self.padding, self.dilation = kernel_size, padding, dilation

    def forward(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        """The largest value in each dilated window, float (B, C, H, W) in and out."""
        before = self.padding * self.dilation
        after = (self.kernel_size - 1 - self.padding) * self.dilation
        padded = F.pad(maps_BCHW, (before, after, before, after), value=-math.inf)
        return F.max_pool2d(padded, self.kernel_size, stride=1, dilation=self.dilation)

    def extra_repr(self) -> str:
        """The numbers that `print(network)` shows."""
        return f"kernel_size={self.kernel_size}, padding={self.padding}, dilation={self.dilation}"


def dilate(module: nn.Module, output_stride: int) -> nn.Module:
    """Turn the strides of `module` beyond `output_stride` into dilation, in place; weights and names stay.

    Parameters
    ----------
    module : nn.Module
        A network that takes float (B, 3, H, W); its strided layers must be `Conv2d` and `MaxPool2d` modules.
    output_stride : int
        8, 16 or 32. A network whose stride is not larger is left as it is, so calling twice is harmless.

    Returns
    -------
    nn.Module
        The same module.

    Raises
    ------
    InputError
        Another output stride, or a network that strides by something that cannot be dilated.
    """
    if output_stride not in OUTPUT_STRIDES:
        raise InputError(
            f"{output_stride} is not possible",
            key="output_stride",
            value=output_stride,
            allowed=f"allowed are {list(OUTPUT_STRIDES)}",
        )
    strides = _input_strides(module)
    names = {layer: name for name, layer in module.named_modules()}
    for layer, input_stride in strides.items():
        # What this layer's input has become denser by, and how much of its own stride the wanted output stride still
        # allows.
        denser = max(1, input_stride // output_stride)
        allowed_stride = max(1, output_stride // input_stride)
        if isinstance(layer, nn.Conv2d):
            _dilate_convolution(layer, denser, allowed_stride, names[layer])
        elif isinstance(layer, nn.MaxPool2d):
            pool = _dilated_pool(layer, denser, allowed_stride, names[layer])
            if pool is not layer:
                parent, _, child = names[layer].rpartition(".")
                setattr(module.get_submodule(parent), child, pool)
        elif max(_pair(layer.stride, names[layer])) > allowed_stride:
            raise InputError(f"{names[layer]}: a strided {type(layer).__name__} cannot be dilated")
    for layer, input_stride in _input_strides(module).items():
        if input_stride > output_stride and max(_pair(layer.kernel_size, "")) > 1:
            raise InputError(
                f"{output_stride} cannot be reached, {type(module).__name__} strides outside "
                "of its Conv2d and MaxPool2d layers",
                key="output_stride",
            )
    return module


def run_probe(module: nn.Module, hooks: dict[nn.Module, Hook], size: tuple[int, int] = (PROBE_SIZE, PROBE_SIZE)) -> Any:
    """Call `module` once on one meta image of a size, in evaluation mode, with forward hooks; returns what it returns.

    Nothing is computed and no weight or running statistic changes. A hook may raise to end the pass early; what it
    raises goes to the caller. Layers that keep the shape are passed over: on `meta` they take most of the time.
    """
    tensors = {name: _on_meta(tensor) for name, tensor in module.named_parameters()}
    tensors |= {name: _on_meta(tensor) for name, tensor in module.named_buffers()}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_evaluation_mode(module))
        stack.enter_context(torch.no_grad())
        for layer, hook in hooks.items():
            stack.callback(layer.register_forward_hook(hook).remove)
        for layer in module.modules():
            if type(layer) in _SAME_SHAPE and "forward" not in vars(layer):
                vars(layer)["forward"] = _unchanged
                stack.callback(vars(layer).pop, "forward")
        return torch.func.functional_call(module, tensors, (torch.empty(1, 3, *size, device="meta"),))


def _unchanged(maps: torch.Tensor) -> torch.Tensor:
    return maps


def stride_of(map_size: int) -> int:
    """The stride, a power of two, of a map that is `map_size` places wide when the probe went in."""
    return int(2 ** round(math.log2(PROBE_SIZE / map_size)))


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, device="meta")


@contextlib.contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    modes = {layer: layer.training for layer in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for layer, training in modes.items():
            layer.training = training


Windowed = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d


def centre_shift(layer: nn.Module) -> float:
    """How far the centre of a layer's first window lies from the centre of its first input place, in such places.

    0 where a window is padded by half of what it spans, as in nearly every convolution; 1/2 for a pool of 2 x 2.
    """
    if not isinstance(layer, Windowed | DilatedMaxPool2d):
        return 0.0
    kernel, padding, dilation = (
        _pair(each, type(layer).__name__)[0]
        for each in (layer.kernel_size, layer.padding, getattr(layer, "dilation", 1))
    )
    # A dilated pool pads as many of its dilated places as the pool that it stands for padded places.
    pad = padding * dilation if isinstance(layer, DilatedMaxPool2d) else padding
    return (kernel - 1) / 2 * dilation - pad


def _input_strides(module: nn.Module) -> dict[Windowed, int]:
    """The stride of the input of every convolution and pool, in the order in which they are called."""
    strides: dict[Windowed, int] = {}

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
        assert isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
        stride = stride_of(inputs[0].shape[-1])
        if strides.setdefault(layer, stride) != stride:
            raise InputError(f"{layer}: used at strides {strides[layer]} and {stride}, so it cannot be dilated")

    run_probe(module, {layer: note for layer in module.modules() if isinstance(layer, Windowed)})
    return strides


def _pair(value: int | str | tuple[int, ...], name: str) -> tuple[int, int]:
    """The (vertical, horizontal) numbers behind a setting such as a stride of 2 or (2, 2)."""
    if isinstance(value, str):
        raise InputError(f"{name}: padding {value!r} cannot be dilated, only numeric padding")
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _dilate_convolution(layer: nn.Conv2d, denser: int, allowed_stride: int, name: str) -> None:
    vertical, horizontal = _pair(layer.stride, name)
    layer.stride = (min(vertical, allowed_stride), min(horizontal, allowed_stride))
    if denser > 1 and max(layer.kernel_size) > 1:
        layer.dilation = (layer.dilation[0] * denser, layer.dilation[1] * denser)
        padding = _pair(layer.padding, name)
        layer.padding = (padding[0] * denser, padding[1] * denser)


def _dilated_pool(layer: nn.MaxPool2d, denser: int, allowed_stride: int, name: str) -> nn.Module:
    if max(_pair(layer.stride, name)) <= allowed_stride and denser == 1:
        return layer
    settings = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    (kernel_size, other), (stride, _), (padding, _), (dilation, _) = (_pair(each, name) for each in settings)
    if kernel_size != other or 1 < allowed_stride < stride:
        raise InputError(f"{name}: {layer} cannot be turned into a dilated pool of stride {allowed_stride}")
    return DilatedMaxPool2d(kernel_size, padding, dilation * denser)
