"""Weights for a network: loaded completely or not at all (`workloads.networks.weight_identity` finds them).

Loading copies every tensor of the backbone or fails with counts. The failure this guards against: a checkpoint that
"loads" while every key misses, so that a network trained from scratch is reported as a pre-trained one. A second one: a
ResNet-101 file satisfies every name and shape of a ResNet-50, so tensors that are left over are as fatal as missing
ones.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass

import torch
import torchvision
from torch import nn

from workloads.configs.networks import TIMM
from workloads.errors import InputError
from workloads.networks import efficientnet_names
from workloads.networks.checkpoints import Checkpoint, read_checkpoint
from workloads.networks.published_weights import is_published, published_weights
from workloads.networks.weight_identity import RANDOM, SEGMENTATION, given_weights, weights_file
from workloads.redaction import redacted

logger = logging.getLogger(__name__)

# Heads that no backbone needs. A file's tensors under these names are skipped and reported, any other surplus fails.
HEADS = ("fc.", "classifier.", "head.", "aux_classifier.", "decode_head.", "auxiliary_head.")
# MobileNetV2's last 1x1 convolution belongs to the classifier unless the network at hand has it.
OPTIONAL = {"mobilenet_v2": ("features.18.",)}

# Networks that a file of the wrong architecture is compared with, to say what it is.
LIKELY = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenet_v2", "vgg16", "vgg19")


@dataclass(frozen=True)
class WeightsReport:
    """What happened to every tensor when a file was loaded into a network of kind `arch`.

    Attributes
    ----------
    matched : int
        The network's tensors found in the file (the number of batches a batch normalisation has seen is not counted:
        nothing depends on it).
    missing, unexpected : tuple[str, ...]
        Empty in every report that is returned.
    skipped : tuple[str, ...]
        The file's tensors that the network has no place for by intention (classifiers, momentum encoders, queues).
    source, licence : str | None
        Where published weights come from, with their revision, and their licence, as far as they are known.
    """

    arch: str
    format: str
    sha256: str
    matched: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    source: str | None = None
    licence: str | None = None

    def __str__(self) -> str:
        published = "".join(
            f", {word} {value}" for word, value in (("by", self.source), ("licence", self.licence)) if value
        )
        return (
            f"{self.arch} from a {self.format} file: {self.matched} tensors matched, "
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected, "
            f"{len(self.skipped)} skipped{_named(self.skipped)}, sha256 {self.sha256}{published}"
        )


def load_backbone(module: nn.Module, weights: str, arch: str) -> WeightsReport:
    """Load a file's tensors into `module`, in place; every tensor of the backbone must be found, in name and shape.

    Parameters
    ----------
    module : nn.Module
        A network with torchvision's names (`conv1.weight`, `features.0.0.weight`, or `backbone.*` and `classifier.*`
        for the segmentation architectures), or one of timm's. Tensors of its classifier, if it has one, stay as they
        are.
    weights : str
        See `workloads.networks.weight_identity`. Naming weights is what asks for their download.
    arch : str
        The architecture, e.g. "resnet50"; decides torchvision's names and what may be skipped.

    Raises
    ------
    InputError
        Anything but a complete match, with the counts, the first names and the file's SHA-256; weights that are not
        finite; and everything that `weights_identity` and `read_checkpoint` raise.
    """
    given = given_weights(arch, weights)
    if given == RANDOM:
        raise InputError("'random' are drawn, not loaded", key="weights")
    path = weights_file(arch, given)
    published = published_weights(arch, given) if is_published(given) else None
    own = module.state_dict()
    checkpoint = read_checkpoint(path, _counted(own) if arch.startswith(TIMM) else ())
    if checkpoint.format == "lookbeyond backbone" and checkpoint.arch != arch:
        raise InputError(
            f"{given} is a backbone of {checkpoint.arch}",
            key="weights",
            value=given,
            allowed=f"the architecture asked for is {arch}",
        )
    tensors, skipped = _for_architecture(checkpoint, arch, own)
    never_required = _classifiers(module, arch)
    required = {name: tensor for name, tensor in _counted(own).items() if not name.startswith(never_required)}
    may_be_left = (*never_required, *OPTIONAL.get(arch, ()), *_left_by_timm(module, arch))
    missing = [_difference(name, tensors.get(name), tensor) for name, tensor in required.items()]
    surplus = [name for name in tensors if name not in own or name.startswith(never_required)]
    report = WeightsReport(
        arch=arch,
        format=checkpoint.format,
        sha256=checkpoint.sha256,
        matched=missing.count(""),
        missing=tuple(difference for difference in missing if difference),
        unexpected=tuple(name for name in surplus if not name.startswith(may_be_left)),
        skipped=(*skipped, *(name for name in surplus if name.startswith(may_be_left))),
        source=published.source if published else None,
        licence=published.licence if published else None,
    )
    if report.missing or report.unexpected:
        raise InputError(_refusal(report, given, len(required), tensors), key="weights", value=given)

    # Files written before batch normalisation counted its batches have no such tensor; nothing here depends on it.
    counters = {name: torch.zeros_like(tensor) for name, tensor in own.items() if name.endswith(".num_batches_tracked")}
    loaded = {name: tensor for name, tensor in tensors.items() if name in own and name not in surplus}
    spoilt = tuple(name for name, tensor in loaded.items() if not torch.isfinite(tensor).all())
    if spoilt:
        raise InputError(
            f"{given} holds NaN or infinity in {len(spoilt)} of {len(loaded)} tensors{_named(spoilt)}",
            key="weights",
            value=given,
            allowed="every weight must be finite",
        )
    module.load_state_dict({**own, **counters, **loaded})
    logger.info("weights %s: %s", redacted(given), report)
    return report


def _counted(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What must be in a file: all but how many batches a batch normalisation has seen."""
    return {name: tensor for name, tensor in state.items() if not name.endswith(".num_batches_tracked")}


def _left_by_timm(module: nn.Module, arch: str) -> tuple[str, ...]:
    """Names in a file that a network of timm's need not have: of its classifier, and of what is computed anew."""
    if not arch.startswith(TIMM):
        return ()
    from workloads.networks.timm_networks import published_names

    own = module.state_dict()
    computed = {name for name, _ in module.named_buffers()} - own.keys()
    # The token that stands for hidden patches is of use in pre-training only.
    return (*sorted(published_names(arch.removeprefix(TIMM)) - own.keys()), *sorted(computed), "mask_token")


def _for_architecture(
    checkpoint: Checkpoint, arch: str, own: Collection[str]
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The tensors under the architecture's own names, and the names in the file that were skipped."""
    tensors = checkpoint.tensors
    if arch.startswith(TIMM) and checkpoint.format == efficientnet_names.FORMAT:
        return efficientnet_names.timm_names(tensors, own), checkpoint.skipped
    if arch in SEGMENTATION or not any(name.startswith("backbone.") for name in tensors):
        return tensors, checkpoint.skipped
    backbone = {
        name.removeprefix("backbone."): tensor for name, tensor in tensors.items() if name.startswith("backbone.")
    }
    heads = tuple(name for name in tensors if not name.startswith("backbone.") and name.startswith(HEADS))
    other = {name: tensor for name, tensor in tensors.items() if not name.startswith("backbone.") and name not in heads}
    return {**backbone, **other}, (*checkpoint.skipped, *heads)


def _classifiers(module: nn.Module, arch: str) -> tuple[str, ...]:
    """Prefixes of what depends on the number of classes: a whole classifier, or a segmentation head's last layer."""
    if arch not in SEGMENTATION:
        return HEADS
    classifier = module.get_submodule("classifier")
    assert isinstance(classifier, nn.Sequential)
    return (f"classifier.{len(classifier) - 1}.", "aux_classifier.")


def _difference(name: str, found: torch.Tensor | None, wanted: torch.Tensor) -> str:
    """Empty when the file's tensor fits, else what is wrong with it."""
    if found is None:
        return name
    if found.shape != wanted.shape:
        return f"{name} (file {_shape(found)}, network {_shape(wanted)})"
    if found.is_floating_point() != wanted.is_floating_point():
        return f"{name} (file {found.dtype}, network {wanted.dtype})"
    return ""


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _refusal(report: WeightsReport, given: str, num_required: int, tensors: dict[str, torch.Tensor]) -> str:
    looks_like = _looks_like(tensors)
    hint = f"; the file looks like a {looks_like}" if looks_like not in (None, report.arch) else ""
    return (
        f"{given} does not fit {report.arch}: {report.matched} of {num_required} tensors matched, "
        f"{len(report.missing)} missing or of another shape{_named(report.missing)}, "
        f"{len(report.unexpected)} unexpected{_named(report.unexpected)}, {len(report.skipped)} skipped "
        f"({report.format} file, sha256 {report.sha256}){hint}"
    )


def _named(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _looks_like(tensors: dict[str, torch.Tensor]) -> str | None:
    """The largest of the likely networks whose whole backbone is in the file, or None."""
    fitting: dict[str, int] = {}
    for name in LIKELY:
        with torch.device("meta"):
            candidate = torchvision.models.get_model(name, weights=None).state_dict()
        optional = (*HEADS, *OPTIONAL.get(name, ()))
        backbone = {
            key: tensor.shape
            for key, tensor in candidate.items()
            if not key.startswith(optional) and not key.endswith(".num_batches_tracked")
        }
        if all(key in tensors and tensors[key].shape == shape for key, shape in backbone.items()):
            fitting[name] = len(backbone)
    return max(fitting, key=lambda name: fitting[name], default=None)
