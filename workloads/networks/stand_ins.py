"""Stand-ins: random weights in the layout of a published checkpoint, for rows whose file is not at hand.

``stand-in:moco`` names weights as a torchvision name does. Its file is not downloaded but written, on the machine that
needs it, from the architecture's seeded random weights in the publisher's layout; it is read by the same code as the
real file. So every row of a table can be tried before any checkpoint was fetched. A number of random weights must not
pass for one of the real file: a stand-in says what it is in its name, in its identity and in the results.

Layouts: MoCo v2 (facebookresearch/moco), PixPro (zdaxie/PixPro), torchvision's classifiers and segmentation networks.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from workloads.errors import InputError
from workloads.places import cache_folder
from workloads.seeding import stable_hash

if TYPE_CHECKING:
    from torch import Tensor, nn

StandIn = Literal["moco", "pixpro", "imagenet", "voc"]
NOTES: dict[str, str] = {
    "moco": "MoCo weights: random values in the official format",
    "pixpro": "PixPro weights: random values in the official format",
    "imagenet": "ImageNet weights: random values in torchvision's format",
    "voc": "Pascal VOC weights: random values in the format of torchvision's DeepLabV3",
}
_PREFIX = "stand-in:"
# Bumped by hand when the values change: it is part of the identity.
_VERSION = 1


def stand_in(weights: str) -> StandIn | None:
    """Which stand-in `weights` names, or None when it names something else.

    Raises
    ------
    InputError
        A stand-in that does not exist.
    """
    if not weights.startswith(_PREFIX):
        return None
    for kind in get_args(StandIn):
        if weights == f"{_PREFIX}{kind}":
            return kind
    allowed = ", ".join(_PREFIX + kind for kind in NOTES)
    raise InputError(f"{weights!r} is not known", key="weights", value=weights, allowed=f"allowed: {allowed}")


def stand_in_identity(arch: str, weights: str) -> str:
    """What the stand-in is, for keys; known without writing it.

    Raises
    ------
    InputError
        An architecture that no stand-in is written for.
    """
    _require(arch, weights)
    return f"{weights}:{arch}:{_VERSION}"


def stand_in_file(arch: str, weights: str) -> Path:
    """The stand-in's file for an architecture, in torch's cache of checkpoints; written when it is not there."""
    import torch

    kind = _require(arch, weights)
    path = cache_folder() / f"lookbeyond-stand-in-{kind}-{arch}-{_VERSION}.pth"
    if path.is_file():
        return path
    # Written beside and renamed: several workers may want it at once.
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        torch.save(_content(kind, arch), file)
    os.replace(file.name, path)  # noqa: PTH105 - the name of an open temporary file
    return path


def _require(arch: str, weights: str) -> StandIn:
    kind = stand_in(weights)
    assert kind is not None
    known = arch in ("mobilenet_v2", "resnet18", "resnet50", "vgg19")
    if not known and (arch, kind) != ("deeplabv3_resnet50", "voc"):
        raise InputError(f"there is no stand-in {weights!r} for arch {arch}", key="weights")
    return kind


def _content(kind: StandIn, arch: str) -> dict[str, Any]:
    """What `torch.save` writes: the publisher's layout."""
    import torch

    network = _network(kind, arch)
    match kind:
        case "moco":
            encoder = _headless(network, arch) | _linear_head()
            queue = {"module.queue": torch.zeros(128, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
            state = _prefixed("module.encoder_q.", encoder) | _prefixed("module.encoder_k.", encoder) | queue
            return {"epoch": 0, "arch": arch, "state_dict": state, "optimizer": {}}
        case "pixpro":
            encoder = _headless(network, arch)
            state = _prefixed("module.encoder.", encoder) | _prefixed("module.encoder_k.", encoder)
            state["module.projector.linear1.weight"] = torch.zeros(16, 16, 1, 1)
            return {"opt": argparse.Namespace(arch=arch), "model": state, "epoch": 0}
        case "imagenet":
            return network
        case "voc":
            if arch == "deeplabv3_resnet50":
                return network
            return _prefixed("backbone.", _headless(network, arch)) | {"classifier.4.weight": torch.zeros(21, 16, 1, 1)}


def _network(kind: StandIn, arch: str) -> "dict[str, Tensor]":
    """All tensors of torchvision's network of that name, seeded by kind and architecture."""
    import torch
    import torchvision

    from workloads.networks.random_weights import draw_weights

    options = {"weights_backbone": None} if arch.startswith("deeplabv3") else {}
    with torch.device("meta"):
        network: nn.Module = torchvision.models.get_model(arch, weights=None, **options)
    network.to_empty(device="cpu")
    for tensor in network.state_dict().values():
        tensor.zero_()
    draw_weights(network, stable_hash(kind, arch) % 2**31)
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def _headless(tensors: "dict[str, Tensor]", arch: str) -> "dict[str, Tensor]":
    """Without the classifier; of mobilenet_v2 without its last 1x1 convolution, too, as segmentation networks are."""
    heads = ("fc.", "classifier.", "features.18.") if arch == "mobilenet_v2" else ("fc.", "classifier.")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(heads)}


def _linear_head() -> "dict[str, Tensor]":
    import torch

    return {"fc.0.weight": torch.zeros(16, 16), "fc.0.bias": torch.zeros(16), "fc.2.weight": torch.zeros(16, 16)}


def _prefixed(prefix: str, tensors: "dict[str, Tensor]") -> "dict[str, Tensor]":
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
