"""Any network of timm's as features: its maps, and where in an image their cells lie.

Networks are built by timm and keep the names of their parameters, so files fit that timm or others wrote for them;
features come by `forward_intermediates`. The constructors are called without weights, so nothing is downloaded
behind the user's back, and on the CPU, never on the meta device: buffers that are in no file (rotary embeddings, blurs)
are computed there.

What networks differ in is measured by probe passes on the meta device, which compute shapes and no numbers: which sides
an image may have, and how far the centre of cell 0 lies from pixel 0. The failure this guards against: a table of
strides and patch sizes that is right for the networks somebody thought of.
"""

import difflib
import functools
import inspect
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import timm
import torch
from timm.layers import AvgPool2dSame, BlurPool2d, Conv2dSame
from timm.layers.pool2d_same import MaxPool2dSame
from torch import Tensor, nn

from workloads.configs.networks import TIMM
from workloads.errors import InputError
from workloads.grid import Centres, Window
from workloads.networks.dilation import run_probe

# Either of them makes timm build other code under the same names.
_SWITCHES = ("TIMM_USE_NAFLEX", "TIMM_USE_NAFLEXVIT")
_DEFAULT_STRIDE = 16
_Windowed = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | BlurPool2d


class TimmFeatures(nn.Module):
    """A network of timm's that gives maps of some of its stages. Built by `build_timm`.

    Attributes
    ----------
    network : nn.Module
        timm's, with timm's names.
    stages : tuple[int, ...]
        Which of its stages, counted as timm does.
    channels, strides : tuple[int, ...]
        D and pixels per cell of each of them.
    has_stages : bool
        Whether its maps shrink on the way; a plain transformer's do not.
    """

    def __init__(self, name: str, network: nn.Module, stages: tuple[int, ...]) -> None:
        super().__init__()
        self.name, self.network, self.stages = name, network, stages
        self._intermediates = hasattr(network, "forward_intermediates")
        info = stage_info(network)
        self.channels = tuple(int(info[stage]["num_chs"]) for stage in stages)
        self.strides = tuple(int(info[stage]["reduction"]) for stage in stages)
        # A plain transformer's features are of use behind its last normalisation only; timm leaves it out by default.
        self.has_stages = len({one["reduction"] for one in info}) > 1
        parameters = (
            inspect.signature(cast(Any, network.forward_intermediates)).parameters if self._intermediates else {}
        )
        self._options = {"norm": True} if not self.has_stages and "norm" in parameters else {}

    @property
    def mean(self) -> tuple[float, ...]:
        """What is subtracted from RGB in 0 to 1."""
        return tuple(self._config["mean"])

    @property
    def std(self) -> tuple[float, ...]:
        """What the difference is divided by."""
        return tuple(self._config["std"])

    @property
    def licence(self) -> str | None:
        """Of the weights that timm publishes under this name."""
        return self._config.get("license")

    @property
    def native_size(self) -> tuple[int, int]:
        """Height and width of the images that it was trained with."""
        return tuple(self._config["input_size"][1:])

    @property
    def _config(self) -> dict[str, Any]:
        return cast(dict[str, Any], self.network.pretrained_cfg)

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, ...]:
        """The maps float (B, D, h, w) of the stages of normalised images."""
        if not self._intermediates:
            maps = self.network(images_B3HW)
            return tuple(maps[stage] for stage in self.stages)
        forward = cast(Any, self.network).forward_intermediates
        return tuple(
            forward(images_B3HW, indices=list(self.stages), output_fmt="NCHW", intermediates_only=True, **self._options)
        )

    def prune(self) -> None:
        """Cut off what comes behind the last of the stages; after weights were loaded."""
        if self._intermediates:
            keep = bool(self._options)
            network = cast(Any, self.network)
            network.prune_intermediate_layers(list(self.stages), prune_norm=not keep, prune_head=True)


def build_timm(name: str, output_stride: int | None, seed: int, stages: Sequence[int | str] = (-1,)) -> TimmFeatures:
    """A network with timm's own random weights, which depend on the seed alone; the caller's random state stays.

    Parameters
    ----------
    name : str
        As timm lists it, with or without the tag of weights (`resnet50.a1_in1k`).
    output_stride : int | None
        Pixels per cell of the last stage. None: 16 where the network can be dilated, else its own.
    seed : int
        Of the random weights.
    stages : Sequence[int | str]
        Of which maps are wanted: numbers, or names of modules as timm gives them.

    Raises
    ------
    InputError
        There is no such network or stage, it gives no maps, or not at that stride.
    """
    require_timm(name)
    options = _options(name, output_stride)
    if options is None:
        raise InputError(
            f"{TIMM}{name} cannot be dilated",
            key="output_stride",
            value=output_stride,
            allowed=f"it has strides {_own_strides(name)}; leave it out for its own",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(name, pretrained=False, **options)
    chosen = tuple(_stage(name, network, stage) for stage in stages)
    return TimmFeatures(name, network.eval(), chosen)


def require_timm(name: str) -> None:
    """Refuse what is no network of timm's.

    Raises
    ------
    InputError
        It is none, or timm is told to build other networks under its names.
    """
    if any(os.environ.get(switch, "").lower() in ("1", "true") for switch in _SWITCHES):
        raise InputError(f"{' or '.join(_SWITCHES)} is set, which changes what timm's names mean", allowed="unset it")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=4, cutoff=0.5)
        raise InputError(
            f"timm has no network {architecture!r}",
            key="arch",
            value=f"{TIMM}{name}",
            allowed=f"the nearest are {', '.join(near)}" if near else "timm.list_models() names them",
        )
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise InputError(
            f"timm publishes no weights {tag!r} of {architecture}",
            key="arch",
            value=f"{TIMM}{name}",
            allowed=f"allowed: {', '.join(tags) or 'no tag'}",
        )


def published_names(name: str) -> frozenset[str]:
    """Names of all tensors of timm's whole network, its classifier included."""
    with torch.device("meta"):
        return frozenset(timm.create_model(name, pretrained=False).state_dict())


def stage_info(network: nn.Module) -> list[dict[str, Any]]:
    """What timm says of each stage: `num_chs`, `reduction`, `module`."""
    info: Any = network.feature_info
    return cast(list[dict[str, Any]], info if isinstance(info, list) else info.info)


@functools.lru_cache(maxsize=64)
def _options(name: str, output_stride: int | None) -> dict[str, Any] | None:
    """What timm's constructor takes for a network of that stride; None where it cannot have it."""
    wanted = output_stride or _DEFAULT_STRIDE
    # The classes that only give features can be dilated where the whole network cannot (MobileNetV3).
    for options in ({"num_classes": 0}, {"features_only": True}):
        found = _tried(name, {**options, "output_stride": wanted})
        if found is not None and stage_info(found)[-1]["reduction"] == wanted and _fits(name, found):
            return {**options, "output_stride": wanted}
    # Sizes are free where the network lets them be.
    for options in ({"dynamic_img_size": True}, {"strict_img_size": False}, {}):
        found = _tried(name, {"num_classes": 0, **options})
        if found is not None:
            own = stage_info(found)[-1]["reduction"]
            return {"num_classes": 0, **options} if output_stride in (None, own) else None
    raise InputError(f"timm cannot build {name} without a classifier", key="arch", value=f"{TIMM}{name}")


def _tried(name: str, options: dict[str, Any]) -> nn.Module | None:
    """The network without numbers, or None where its constructor does not take the options."""
    try:
        with torch.device("meta"):
            network: nn.Module = timm.create_model(name, pretrained=False, **options)
    except (TypeError, AssertionError, NotImplementedError, ValueError, RuntimeError):
        return None
    return network if getattr(network, "feature_info", None) else None


def _fits(name: str, network: nn.Module) -> bool:
    """Whether the names of the parameters are those of the whole network, which files have."""
    return hasattr(network, "forward_intermediates") or network.state_dict().keys() <= published_names(name)


def _own_strides(name: str) -> str:
    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False)
    return ", ".join(str(one) for one in dict.fromkeys(one["reduction"] for one in stage_info(network)))


def _stage(name: str, network: nn.Module, stage: int | str) -> int:
    info = stage_info(network)
    if isinstance(stage, int):
        return range(len(info))[stage]
    names = [str(one["module"]) for one in info]
    if stage not in names:
        raise InputError(
            f"{TIMM}{name} gives no features of {stage!r}", key="layer", value=stage, allowed=f"allowed: {names}"
        )
    return names.index(stage)


@dataclass(frozen=True)
class Sides:
    """Which images a network takes.

    Attributes
    ----------
    multiple : int | None
        Of which both sides are multiples; None: no image is taken but of the size `fixed`.
    fixed : tuple[int, int]
        Height and width that the network was trained with.
    rounds_up : bool
        Whether a last cell that the border cuts off is there.
    """

    multiple: int | None
    fixed: tuple[int, int]
    rounds_up: bool = False

    def cells(self, side: int, stride: int) -> int:
        """How many cells of a stride there are along a side."""
        return -(-side // stride) if self.rounds_up else side // stride

    def nearest(self, height: int, width: int) -> tuple[int, int]:
        """The size that an image is brought to.

        Raises
        ------
        InputError
            The network takes one size only, and this is another.
        """
        if self.multiple is None:
            if (height, width) != self.fixed:
                raise InputError(
                    f"the network takes images of {self.fixed[0]} x {self.fixed[1]} pixels only",
                    key="input_size",
                    allowed=f"input_size: {list(self.fixed)}",
                )
            return self.fixed
        rounded = [max(1, round(side / self.multiple)) * self.multiple for side in (height, width)]
        return rounded[0], rounded[1]


def measure_sides(features: TimmFeatures) -> Sides:
    """Try which sides the network takes."""
    height, width = features.native_size
    step = max(features.strides)
    for multiple in (1, step, 2 * step):
        # Neither a multiple of anything larger nor the native size.
        side = -(-height // multiple) * multiple + multiple
        cells = _cells(features, (side, side + 2 * multiple))
        if cells is not None:
            return Sides(multiple, (height, width), rounds_up=cells[0] * features.strides[-1] >= side)
    if _cells(features, (height, width)) is not None:
        return Sides(None, (height, width))
    raise InputError(f"{features.name} gives no maps (B, D, h, w)", key="arch", value=f"{TIMM}{features.name}")


def _cells(features: TimmFeatures, size: tuple[int, int]) -> tuple[int, int] | None:
    """How many cells the last map has, or None where the network does not take the size or gives other maps."""
    try:
        maps = run_probe(features, {}, size)
    except (AssertionError, RuntimeError, ValueError):
        return None
    for each, channels, stride in zip(maps, features.channels, features.strides, strict=True):
        allowed = [(side // stride, -(-side // stride)) for side in size]
        if each.dim() != 4 or each.shape[1] != channels:
            return None
        if any(cells not in ends for cells, ends in zip(each.shape[2:], allowed, strict=True)):
            return None
    return maps[-1].shape[2], maps[-1].shape[3]


def measure_centres(features: TimmFeatures, sides: Sides) -> tuple[Centres, ...]:
    """Where the cells of each stage lie."""
    found: list[tuple[int, Window]] = []
    height, width = sides.fixed

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        side = inputs[0].shape[-2]
        window = _window(module)
        # Patches of any size are made of the image itself; all else comes behind powers of two.
        if window.stride > 1 or window.shift(side):
            found.append((2 ** round(math.log2(height / side)), window))

    hooked = [module for module in features.modules() if isinstance(module, _Windowed)]
    run_probe(features, dict.fromkeys(hooked, note), (height, width))
    return tuple(Centres(tuple(found), stride) for stride in features.strides)


def _window(layer: nn.Module) -> Window:
    if isinstance(layer, BlurPool2d):
        return Window(layer.filt_size, layer.stride, 1, _first(layer.padding))
    assert isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
    kernel, stride, dilation = (_first(one) for one in (layer.kernel_size, layer.stride, getattr(layer, "dilation", 1)))
    same = isinstance(layer, Conv2dSame | MaxPool2dSame | AvgPool2dSame) or layer.padding == "same"
    padding = None if same else 0 if layer.padding == "valid" else _first(layer.padding)
    return Window(kernel, stride, dilation, padding, isinstance(layer, nn.AvgPool2d))


def _first(value: Any) -> int:
    return int(value if isinstance(value, int) else value[0])
