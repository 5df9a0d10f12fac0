"""Weights for a network: found by name, path or URL, and loaded completely or not at all.

The model: weights are named by the user (`random`, a torchvision weights name, a path or a URL); what they
*are* is their identity, a digest or a torchvision name, which takes part in keys while the path does not.
Loading copies every tensor of the backbone or fails with counts. The failure this guards against: a
checkpoint that "loads" while every key misses, so that a network trained from scratch is reported as a
pre-trained one. A second one: a ResNet-101 file satisfies every name and shape of a ResNet-50, so tensors
that are left over are as fatal as missing ones.
"""

import functools
import hashlib
import logging
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import nn

from workloads.checkpoints import Checkpoint, file_sha256, read_checkpoint
from workloads.errors import InputError
from workloads.stand_ins import stand_in, stand_in_file, stand_in_identity

logger = logging.getLogger(__name__)

RANDOM = "random"
NONE = "none"

WEIGHT_FREE = ("filters",)
SEGMENTATION = ("deeplabv3_resnet50", "segmentor")
BACKBONES = ("mobilenet_v2", "resnet18", "resnet50", "vgg19")

# Heads that no backbone needs. A file's tensors under these names are set aside and reported, any other
# surplus fails.
HEADS = ("fc.", "classifier.", "head.", "aux_classifier.")
# MobileNetV2's last 1x1 convolution belongs to the classifier unless the network at hand has it.
OPTIONAL = {"mobilenet_v2": ("features.18.",)}

DOWNLOAD_TIMEOUT_SECONDS = 30.0
# Networks that a file of the wrong architecture is compared with, to say what it is.
LIKELY = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenet_v2", "vgg16", "vgg19")

_TORCHVISION_NAME = re.compile(r"(?:(?P<enum>\w+_Weights)\.)?(?P<member>[A-Z][A-Z0-9_]*)")


@dataclass(frozen=True)
class WeightsReport:
    """What happened to every tensor when a file was loaded into a network of kind `arch`.

    `matched` counts the network's tensors found in the file (the number of batches a batch normalisation has
    seen is not counted: nothing depends on it). `missing` and `unexpected` are empty in every report that is
    returned; `skipped` are the file's tensors that the network has no place for by intention (classifiers,
    momentum encoders, queues).
    """

    arch: str
    format: str
    sha256: str
    matched: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.arch} from a {self.format} file: {self.matched} tensors matched, "
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected, "
            f"{len(self.skipped)} skipped{_named(self.skipped)}, sha256 {self.sha256}"
        )


def weights_identity(arch: str, weights: str | None) -> str:
    """What the weights are, apart from where they lie; equal identities give equal networks.

    Returns:
        "none" for an architecture without weights, "random", "torchvision:<enum>.<member>" (known
        without a download), "stand-in:..." (see `workloads.stand_ins`) or "sha256:<hex>" of the file (a URL
        is downloaded for it, once).

    Raises:
        InputError: weights are given in vain or are missing, an unknown name, no such file, a URL that cannot
        be read.
    """
    if arch in WEIGHT_FREE:
        if weights not in (None, NONE):
            raise InputError(f"weights: {weights!r} is given, but {arch} has no weights; leave it out")
        return NONE
    weights = _given(arch, weights)
    if weights == RANDOM:
        return RANDOM
    if stand_in(weights) is not None:
        return stand_in_identity(arch, weights)
    member = _torchvision_member(arch, weights)
    if member is not None:
        return f"torchvision:{type(member).__name__}.{member.name}"
    return f"sha256:{_digest(_file(arch, weights))}"


def load_backbone(module: nn.Module, weights: str, arch: str) -> WeightsReport:
    """Load a file's tensors into `module`, in place; every tensor of the backbone must be found, in name and
    shape.

    Args:
        module: a network with torchvision's names (`conv1.weight`, `features.0.0.weight`, or `backbone.*` and
            `classifier.*` for the segmentation architectures). Tensors of its classifier, if it has one, stay
        as they are. weights: a torchvision weights name, a path or a URL. Naming weights is what asks for
        their download. arch: the architecture, e.g. "resnet50"; decides torchvision's names and what may be
        skipped.

    Raises:
        InputError: anything but a complete match, with the counts, the first names and the file's SHA-256;
            weights that are not finite;
            and everything that `weights_identity` and `read_checkpoint` raise.
    """
    given = _given(arch, weights)
    if given == RANDOM:
        raise InputError("weights: 'random' are drawn, not loaded")
    path = _file(arch, given)
    checkpoint = read_checkpoint(path)
    if checkpoint.format == "lookbeyond backbone" and checkpoint.arch != arch:
        raise InputError(f"weights: {given} is a backbone of {checkpoint.arch}; the architecture asked for is {arch}")
    tensors, set_aside = _for_architecture(checkpoint, arch)

    own = module.state_dict()
    never_required = _classifiers(module, arch)
    required = {
        name: tensor
        for name, tensor in own.items()
        if not name.startswith(never_required) and not name.endswith(".num_batches_tracked")
    }
    may_be_left = (*never_required, *OPTIONAL.get(arch, ()))
    missing = [_difference(name, tensors.get(name), tensor) for name, tensor in required.items()]
    surplus = [name for name in tensors if name not in own or name.startswith(never_required)]
    report = WeightsReport(
        arch=arch,
        format=checkpoint.format,
        sha256=checkpoint.sha256,
        matched=missing.count(""),
        missing=tuple(difference for difference in missing if difference),
        unexpected=tuple(name for name in surplus if not name.startswith(may_be_left)),
        skipped=(*set_aside, *(name for name in surplus if name.startswith(may_be_left))),
    )
    if report.missing or report.unexpected:
        raise InputError(_refusal(report, given, len(required), tensors))

    # Files written before batch normalisation counted its batches have no such tensor; nothing here depends
    # on it.
    counters = {name: torch.zeros_like(tensor) for name, tensor in own.items() if name.endswith(".num_batches_tracked")}
    loaded = {name: tensor for name, tensor in tensors.items() if name in own and name not in surplus}
    spoilt = tuple(name for name, tensor in loaded.items() if not torch.isfinite(tensor).all())
    if spoilt:
        raise InputError(
            f"weights: {given} holds NaN or infinity in {len(spoilt)} of {len(loaded)} tensors{_named(spoilt)}; "
            "every weight must be finite"
        )
    module.load_state_dict({**own, **counters, **loaded})
    logger.info("weights %s: %s", given, report)
    return report


def _given(arch: str, weights: str | None) -> str:
    if weights is None or not weights.strip() or weights == NONE:
        raise InputError(
            f"weights: {arch} needs 'random', a torchvision weights name ({_torchvision_names(arch)}), a path or a URL"
        )
    return weights.strip()


def _for_architecture(checkpoint: Checkpoint, arch: str) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The tensors under the architecture's own names, and the names in the file that were set aside."""
    tensors = checkpoint.tensors
    if arch in SEGMENTATION or not any(name.startswith("backbone.") for name in tensors):
        return tensors, checkpoint.skipped
    backbone = {
        name.removeprefix("backbone."): tensor for name, tensor in tensors.items() if name.startswith("backbone.")
    }
    heads = tuple(name for name in tensors if not name.startswith("backbone.") and name.startswith(HEADS))
    other = {name: tensor for name, tensor in tensors.items() if not name.startswith("backbone.") and name not in heads}
    return {**backbone, **other}, (*checkpoint.skipped, *heads)


def _classifiers(module: nn.Module, arch: str) -> tuple[str, ...]:
    """Prefixes of what depends on the number of classes: a whole classifier, or a segmentation head's last
    layer."""
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
        f"weights: {given} does not fit {report.arch}: {report.matched} of {num_required} tensors matched, "
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


def _torchvision_names(arch: str) -> str:
    if arch not in (*BACKBONES, "deeplabv3_resnet50"):
        return "none is published for it"
    return ", ".join(member.name for member in torchvision.models.get_model_weights(arch))


def _torchvision_member(arch: str, weights: str) -> "torchvision.models.WeightsEnum | None":
    """The member of torchvision's enumeration that `weights` names, or None when it is a path or a URL."""
    parts = _TORCHVISION_NAME.fullmatch(weights)
    if parts is None or (parts["enum"] is None and Path(weights).is_file()):
        return None
    if arch not in (*BACKBONES, "deeplabv3_resnet50"):
        raise InputError(f"weights: torchvision publishes none for {arch}, so {weights!r} cannot be used")
    enumeration = torchvision.models.get_model_weights(arch)
    if parts["enum"] not in (None, enumeration.__name__) or parts["member"] not in enumeration.__members__:
        raise InputError(
            f"weights: {weights!r} is not torchvision's for {arch}; allowed are "
            f"{', '.join(f'{enumeration.__name__}.{member.name}' for member in enumeration)}"
        )
    member = enumeration[parts["member"]]
    if parts["member"] == "DEFAULT":
        # What DEFAULT stands for changes with torchvision's version (resnet50: V2, not the V1 of the
        # literature).
        logger.warning("weights DEFAULT of %s is %s.%s here", arch, enumeration.__name__, member.name)
    return member


def _file(arch: str, weights: str) -> Path:
    """The local file behind a torchvision name, a stand-in, a URL or a path; a download happens once."""
    if stand_in(weights) is not None:
        return stand_in_file(arch, weights)
    member = _torchvision_member(arch, weights)
    if member is not None:
        file_name = Path(member.url).name
        # torchvision's file names end in the first digits of the file's SHA-256.
        digits = re.search(r"-([0-9a-f]+)\.", file_name)
        return _downloaded(member.url, file_name, digits[1] if digits else None)
    parsed = urllib.parse.urlparse(weights)
    if parsed.scheme in ("http", "https"):
        # Two URLs may end in the same file name, so the cached file's name begins with the URL's digest.
        digest = hashlib.sha256(weights.encode()).hexdigest()[:16]
        return _downloaded(weights, f"{digest}-{Path(parsed.path).name or 'weights'}", None)
    if parsed.scheme == "file":
        # Read where it lies: a cached copy would go stale when the file changes.
        path = Path(urllib.request.url2pathname(parsed.path))
    elif "://" in weights:
        raise InputError(f"weights: {weights!r} has a scheme that cannot be read; allowed are https, http and file")
    else:
        path = Path(weights).expanduser()
    if path.is_dir():
        raise InputError(f"weights: {weights} is a directory; a checkpoint file is needed")
    if not path.is_file():
        raise InputError(
            f"weights: no file {weights} (relative paths are relative to the working directory); "
            f"allowed are 'random', a torchvision weights name ({_torchvision_names(arch)}), a path or a URL"
        )
    return path


def _downloaded(url: str, file_name: str, hash_prefix: str | None) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    before = socket.getdefaulttimeout()
    try:
        # torch.hub sets no timeout, so an unreachable network would hang instead of saying so.
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
        torch.hub.download_url_to_file(url, str(path), hash_prefix, progress=False)
    except (OSError, RuntimeError, ValueError) as error:
        # An HTTPError says its code itself; any other URLError hides the reason inside.
        hidden = isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError)
        reason = getattr(error, "reason", error) if hidden else error
        raise InputError(
            f"weights: {url} could not be downloaded ({reason}); "
            "fetch it on a machine with network access and give its path"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
    return path


def _digest(path: Path) -> str:
    status = path.stat()
    if status.st_size == 0:
        raise InputError(f"weights: {path} is empty (0 bytes)")
    return _digest_of_version(path.resolve(), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest_of_version(path: Path, size: int, mtime_ns: int) -> str:
    """A grid asks for the same file in every cell; size and time of change tell whether it is still the
    same."""
    return file_sha256(path)
