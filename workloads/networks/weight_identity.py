"""Where weights lie and what they are, known without loading them.

Weights are named by the user (`random`, a torchvision weights name, a stand-in, a path, a URL, or a name that others
publish them under, see `workloads.networks.published_weights`); what they *are* is
their identity, a digest or a torchvision name, which takes part in keys while the path does not. torch and torchvision
are imported only where a name of theirs is used. A path in a key would take a copied file for other weights and a
changed one for the same.
"""

import functools
import hashlib
import logging
import re
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from workloads.configs.networks import TIMM
from workloads.errors import InputError
from workloads.networks.downloads import downloaded
from workloads.networks.published_weights import KINDS, is_published, pinned, published_weights
from workloads.networks.stand_ins import stand_in, stand_in_file, stand_in_identity
from workloads.places import expanded

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

logger = logging.getLogger(__name__)

RANDOM = "random"
NONE = "none"

WEIGHT_FREE = ("filters",)
SEGMENTATION = ("deeplabv3_resnet50", "segmentor")
BACKBONES = ("mobilenet_v2", "resnet18", "resnet50", "vgg19")

_TORCHVISION_NAME = re.compile(r"(?:(?P<enum>\w+_Weights)\.)?(?P<member>[A-Z][A-Z0-9_]*)")


def file_sha256(path: Path) -> str:
    """SHA-256 of the file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_identity(arch: str, weights: str | None) -> str:
    """What the weights are, apart from where they lie; equal identities give equal networks.

    Returns
    -------
    str
        "none" for an architecture without weights, "random", "torchvision:<enum>.<member>" (known without a download),
        "stand-in:..." (see `workloads.networks.stand_ins`) or "sha256:<hex>" of the file (one that is not on this
        machine is downloaded for it, once).

    Raises
    ------
    InputError
        Weights are given in vain or are missing, an unknown name, no such file, a URL that cannot be
        read.
    """
    if arch in WEIGHT_FREE:
        if weights not in (None, NONE):
            raise InputError(
                f"{weights!r} is given, but {arch} has no weights", key="weights", value=weights, allowed="leave it out"
            )
        return NONE
    weights = given_weights(arch, weights)
    if arch.startswith(TIMM):
        from workloads.networks.timm_networks import require_timm

        require_timm(arch.removeprefix(TIMM))
    if weights == RANDOM:
        return RANDOM
    if stand_in(weights) is not None:
        return stand_in_identity(arch, weights)
    member = _torchvision_member(arch, weights)
    if member is not None:
        return f"torchvision:{type(member).__name__}.{member.name}"
    return f"sha256:{_digest(weights_file(arch, weights))}"


def given_weights(arch: str, weights: str | None) -> str:
    """The weights as given, refused where there are none.

    Raises
    ------
    InputError
        None, or an empty name.
    """
    if weights is None or not weights.strip() or weights == NONE:
        raise InputError(f"{arch} needs {_allowed(arch)}", key="weights")
    return weights.strip()


def travelling_name(arch: str, weights: str | None) -> str | None:
    """The weights for a worker, which may run in another working directory, on another machine and later.

    Raises
    ------
    InputError
        What is published under the name cannot be had.
    """
    if weights is None:
        return None
    if is_published(weights):
        return pinned(arch, weights)
    path = expanded(weights, "weights")
    return str(path.absolute()) if path.is_file() else weights


def _allowed(arch: str) -> str:
    """What may be given as weights of an architecture, in words."""
    if arch.startswith(TIMM):
        return f"'random', {KINDS}, a path or a URL"
    return f"'random', a torchvision weights name ({torchvision_names(arch)}), a path or a URL"


def torchvision_names(arch: str) -> str:
    """The names of the weights that torchvision publishes for an architecture, for messages."""
    if arch not in (*BACKBONES, "deeplabv3_resnet50"):
        return "none is published for it"
    import torchvision

    return ", ".join(member.name for member in torchvision.models.get_model_weights(arch))


def _torchvision_member(arch: str, weights: str) -> "WeightsEnum | None":
    """The member of torchvision's enumeration that `weights` names, or None when it is a path or a URL."""
    parts = _TORCHVISION_NAME.fullmatch(weights)
    if parts is None or (parts["enum"] is None and Path(weights).is_file()):
        return None
    if arch not in (*BACKBONES, "deeplabv3_resnet50"):
        raise InputError(f"torchvision publishes none for {arch}, so {weights!r} cannot be used", key="weights")
    import torchvision

    enumeration = torchvision.models.get_model_weights(arch)
    if parts["enum"] not in (None, enumeration.__name__) or parts["member"] not in enumeration.__members__:
        raise InputError(
            f"{weights!r} is not torchvision's for {arch}",
            key="weights",
            value=weights,
            allowed=f"allowed are {', '.join(f'{enumeration.__name__}.{member.name}' for member in enumeration)}",
        )
    member = enumeration[parts["member"]]
    if parts["member"] == "DEFAULT":
        # What DEFAULT stands for changes with torchvision's version (resnet50: V2, not the V1 of the literature).
        logger.warning("weights DEFAULT of %s is %s.%s here", arch, enumeration.__name__, member.name)
    return member


def weights_file(arch: str, weights: str) -> Path:
    """The local file behind any name of weights but 'random', a URL or a path; a download happens once."""
    if is_published(weights):
        return published_weights(arch, weights).path
    if stand_in(weights) is not None:
        return stand_in_file(arch, weights)
    member = _torchvision_member(arch, weights)
    if member is not None:
        file_name = Path(member.url).name
        # torchvision's file names end in the first digits of the file's SHA-256.
        digits = re.search(r"-([0-9a-f]+)\.", file_name)
        return downloaded(member.url, file_name, digits[1] if digits else None)
    parsed = urllib.parse.urlparse(weights)
    if parsed.scheme in ("http", "https"):
        # Two URLs may end in the same file name, so the cached file's name begins with the URL's digest.
        digest = hashlib.sha256(weights.encode()).hexdigest()[:16]
        return downloaded(weights, f"{digest}-{Path(parsed.path).name or 'weights'}", None)
    if parsed.scheme == "file":
        # Read where it lies: a cached copy would go stale when the file changes.
        path = Path(urllib.request.url2pathname(parsed.path))
    elif "://" in weights:
        raise InputError(
            f"{weights!r} has a scheme that cannot be read",
            key="weights",
            value=weights,
            allowed="allowed are https, http and file",
        )
    else:
        path = expanded(weights, "weights")
    if path.is_dir():
        raise InputError(
            f"{weights} is a directory", key="weights", value=weights, allowed="a checkpoint file is needed"
        )
    if not path.is_file():
        raise InputError(
            f"no file {weights} (relative paths are relative to the working directory)",
            key="weights",
            value=weights,
            allowed=f"allowed are {_allowed(arch)}",
        )
    return path


def _digest(path: Path) -> str:
    status = path.stat()
    if status.st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)", key="weights")
    return _digest_of_version(path.resolve(), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest_of_version(path: Path, size: int, mtime_ns: int) -> str:
    """A grid asks for the same file in every cell; size and time of change tell whether it is still the same."""
    return file_sha256(path)
