"""Names of lukemelas/EfficientNet-PyTorch's checkpoints as timm's, which has the same networks.

There blocks are numbered through; in timm they are numbered within their stages, and a first block without an expansion
names its convolutions from one on.
"""

from collections.abc import Collection, Mapping

import torch

FORMAT = "EfficientNet-PyTorch"
_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}


def is_efficientnet_pytorch(names: Collection[str]) -> bool:
    """Whether the names are theirs."""
    return "_conv_stem.weight" in names and any(name.startswith("_blocks.") for name in names)


def timm_names(tensors: Mapping[str, torch.Tensor], own: Collection[str]) -> dict[str, torch.Tensor]:
    """The tensors under timm's names; `own` are those of the network asked for. What has no counterpart stays."""
    places = dict.fromkeys(".".join(name.split(".")[1:3]) for name in own if name.startswith("blocks."))
    order = sorted(places, key=lambda place: tuple(map(int, place.split("."))))
    expanded = {name.split(".")[1] for name in tensors if "._expand_conv." in name}
    renamed = {}
    for name, tensor in tensors.items():
        head, _, rest = name.partition(".")
        if head == "_blocks":
            number, layer, rest = rest.split(".", 2)
            known = {**(_EXPANDED if number in expanded else _PLAIN), **_SQUEEZE}
            if layer in known and int(number) < len(order):
                renamed[f"blocks.{order[int(number)]}.{known[layer]}.{rest}"] = tensor
                continue
        elif head in _OUTER:
            renamed[f"{_OUTER[head]}.{rest}"] = tensor
            continue
        renamed[name] = tensor
    return renamed
