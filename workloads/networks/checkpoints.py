"""Reading a checkpoint file: which of the known formats it is, and its tensors under torchvision's names.

A file is opened without running anything in it (`weights_only=True`), its format is told from its keys alone and the
tensors come back under torchvision's names in float32, together with the file's SHA-256. The failures this guards
against: a pickle that runs code, a momentum encoder taken for the trained one, and a wrapper prefix (`module.`,
`module.encoder_q.`) that makes every key miss while a lenient loader reports success.

Formats (keys as published):
    torchvision          names as in torchvision.models, e.g. `layer1.0.conv1.weight`, `features.0.0.weight`
    segmentation network `backbone.*` with `classifier.*`, as in torchvision.models.segmentation
    MoCo v2              `module.encoder_q.*` (facebookresearch/moco); `encoder_k` is its momentum copy
    PixPro               `module.encoder.*` under `model` (zdaxie/PixPro), with or without an argparse.Namespace
    lookbeyond           this project's own: a dict with `format: lookbeyond`, see `save_checkpoint`
    timm                 the names of the network asked for, behind any prefix (`teacher.backbone.`)
    EfficientNet-PyTorch `_conv_stem.*`, `_blocks.*` (lukemelas)

What wraps them is taken off: torch.compile's `_orig_mod.`, `module.`, Lightning's `model.`, a state dict under any of
the usual names, one with counters beside its tensors; of a teacher and a student (DINO) the teacher. A .safetensors
file is read without its library.
"""

import argparse
import json
import pickle
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from workloads.errors import InputError
from workloads.networks import efficientnet_names
from workloads.networks.plain_files import PLAIN_NUMPY, read_safetensors
from workloads.networks.weight_identity import file_sha256

# Where a file keeps its state dict; the first that holds one counts.
STATE_DICTS = ("state_dict", "model_state_dict", "model", "net", "network", "teacher", "student", "ema")
# What torch.compile and parallel training put before every name, and what the class that was trained may have.
WRAPPERS = ("_orig_mod.", "module.")
HOLDERS = ("model.", "net.", "network.")
_NETWORKS = ("layer1.", "features.", "backbone.", "encoder.", "encoder_q.", "encoder_k.")

FORMATS = "torchvision, torchvision segmentation network, MoCo v2, PixPro, lookbeyond, timm, EfficientNet-PyTorch"
# What a network is the slower or the younger copy of: of two that fit alike the other is taken, but a teacher first.
_COPIES = ("student", "momentum", "encoder_k", "ema")

OWN_FORMAT = "lookbeyond"
OWN_KINDS = ("backbone", "segmentor")
Kind = Literal["backbone", "segmentor"]


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file under torchvision's names, float32 where the file has any floating type.

    Attributes
    ----------
    tensors : dict[str, Tensor]
        Under torchvision's names.
    format : str
        Which of the known formats the file has.
    sha256 : str
        Of the file's bytes, hexadecimal.
    skipped : tuple[str, ...]
        Names, as in the file, of what the format itself skips: a momentum encoder, a queue, projection heads.
    arch : str | None
        Known for this project's own files only, as is `card`.
    card : Mapping[str, Any] | None
        Where the tensors come from, plain JSON values.
    """

    tensors: dict[str, torch.Tensor]
    format: str
    sha256: str
    skipped: tuple[str, ...] = ()
    arch: str | None = None
    card: Mapping[str, Any] | None = None


def save_checkpoint(
    path: Path, arch: str, kind: Kind, state_dict: Mapping[str, torch.Tensor], card: Mapping[str, Any]
) -> str:
    """Write this project's own format and return the file's SHA-256.

    The file is what `torch.save` makes of `{"format": "lookbeyond", "version": 1, "arch", "kind", "state_dict",
    "card"}`: tensors on the CPU under torchvision's names (`backbone.`, `classifier.` for a segmentor), and a card of
    plain JSON values (data, labels, seeds, scores) that says where they come from.

    Raises
    ------
    InputError
        An unknown kind or a card that is not plain JSON.
    """
    if kind not in OWN_KINDS:
        raise InputError(f"kind: {kind!r} is not known; allowed are {list(OWN_KINDS)}")
    try:
        plain_card = json.loads(json.dumps(dict(card), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"card: only plain JSON values can be stored ({error})") from None
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    content = {"format": OWN_FORMAT, "version": 1, "arch": arch, "kind": kind}
    torch.save({**content, "state_dict": tensors, "card": plain_card}, path)
    return file_sha256(path)


def read_checkpoint(path: Path, known: Collection[str] = ()) -> Checkpoint:
    """Read a file of any known format.

    Parameters
    ----------
    path : Path
        The file.
    known : Collection[str]
        Names of the network asked for, where they are no format's: what stands before them in the file is found.

    Raises
    ------
    InputError
        No such file, an empty, corrupt or unsafe one, no tensors in it, or keys of no known format.
    """
    content = _read_safely(path)
    if isinstance(content, dict) and content.get("format") == OWN_FORMAT:
        return _own(content, path)
    return _by_keys(_state_dict(content, path), path, known)


def _read_safely(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"no file {path}", key="weights")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)", key="weights")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    # PixPro's files carry their command line as an argparse.Namespace, which holds plain values and runs no code.
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *PLAIN_NUMPY]), warnings.catch_warnings():
            # A warning about the pickle's protocol would stand beside the message about the file.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            reason = next(line for line in str(error).splitlines() if "GLOBAL" in line).strip()
            raise InputError(
                f"{path} holds more than tensors and plain values, and is refused because "
                f"reading it could run code ({reason})",
                key="weights",
            ) from None
        raise InputError(
            f"{path} is not a checkpoint written by torch.save (other pickles are refused, because reading "
            "one could run code), or is damaged",
            key="weights",
        ) from None
    except Exception as error:
        # torch.load raises many types for a damaged file (RuntimeError, EOFError, KeyError, ValueError, ...).
        first_line = (str(error).splitlines() or [""])[0][:200]
        raise InputError(
            f"{path} is not a checkpoint written by torch.save, or is damaged ({type(error).__name__}: {first_line})",
            key="weights",
        ) from None


def _state_dict(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The mapping of names to tensors in the file: under one of the usual names, or the file itself."""
    if isinstance(content, dict):
        for candidate in (*(content.get(name) for name in STATE_DICTS), content):
            tensors = _tensors_of(candidate)
            if tensors:
                return tensors
    found = f"a dict with keys {_first(content)}" if isinstance(content, dict) else type(content).__name__
    raise InputError(
        f"{path} holds no state dict, neither by itself nor under {', '.join(STATE_DICTS)}; "
        f"found {found}. Known formats: {FORMATS}",
        key="weights",
    )


def _tensors_of(candidate: Any) -> dict[str, torch.Tensor]:
    """The tensors of a state dict without what may stand beside them, such as an epoch; none of anything else."""
    if not isinstance(candidate, dict) or any(isinstance(value, dict) and value for value in candidate.values()):
        return {}
    return {str(name): value for name, value in candidate.items() if isinstance(value, torch.Tensor)}


def _unwrapped(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The tensors without what wrapped the network they were saved from, and the names of what stood beside it."""
    skipped: tuple[str, ...] = ()
    while True:
        prefix = next((one for one in WRAPPERS if _any(list(tensors), one)), None)
        if prefix is None and not any(_any(list(tensors), one) for one in _NETWORKS):
            prefix = next((one for one in HOLDERS if _any(list(tensors), one)), None)
            if prefix is not None:
                skipped += tuple(name for name in tensors if not name.startswith(prefix))
                tensors = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if prefix is None:
            return tensors, skipped
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _all_tensors(candidate: dict[Any, Any]) -> bool:
    return all(isinstance(value, torch.Tensor) for value in candidate.values())


def _own(content: dict[str, Any], path: Path) -> Checkpoint:
    kind, state_dict = content.get("kind"), content.get("state_dict")
    if kind not in OWN_KINDS or content.get("version") != 1:
        raise InputError(
            f"{path} is a lookbeyond file of version {content.get('version')!r} and kind {kind!r}; "
            f"known are version 1 and the kinds {list(OWN_KINDS)}",
            key="weights",
        )
    if not isinstance(state_dict, dict) or not _all_tensors(state_dict):
        raise InputError(f"{path} is a lookbeyond file without a state_dict of tensors", key="weights")
    return Checkpoint(
        tensors=_float32(state_dict, path),
        format=f"lookbeyond {kind}",
        sha256=file_sha256(path),
        arch=str(content.get("arch")),
        card=content.get("card"),
    )


def _by_keys(tensors: dict[str, torch.Tensor], path: Path, known: Collection[str]) -> Checkpoint:
    """Tell the format from the keys, strip its prefix and skip what does not belong to the network."""
    prefix = _prefix_of(tensors, known)
    if prefix is not None:
        beside = tuple(name for name in tensors if not name.startswith(prefix))
        said = f"timm (behind {prefix!r})" if prefix else "timm"
        return Checkpoint(_float32(_under(tensors, prefix), path), said, file_sha256(path), beside)
    plain, beside = _unwrapped(tensors)
    names = list(plain)
    # The dots matter: `encoder.` is PixPro's network and `encoder_k.` its momentum copy.
    if _any(names, "encoder_q."):
        kept = _under(plain, "encoder_q.")
        format_name = "MoCo v2"
        head = tuple(name for name in kept if name.startswith("fc."))
        kept = {name: tensor for name, tensor in kept.items() if name not in head}
        skipped = tuple(name for name in names if name.removeprefix("encoder_q.") not in kept)
    elif _any(names, "encoder."):
        kept = _under(plain, "encoder.")
        format_name = "PixPro"
        skipped = tuple(name for name in names if not name.startswith("encoder."))
    elif _any(names, "encoder_k."):
        raise InputError(
            f"{path} holds only encoder_k, the momentum copy; the trained network is encoder_q "
            "(MoCo v2) or encoder (PixPro)",
            key="weights",
        )
    elif _any(names, "backbone."):
        kept, skipped, format_name = plain, (), "torchvision segmentation network"
    elif efficientnet_names.is_efficientnet_pytorch(names):
        kept, skipped, format_name = plain, (), efficientnet_names.FORMAT
    elif _any(names, "layer1.") or _any(names, "features."):
        kept, skipped, format_name = plain, (), "torchvision"
    else:
        raise InputError(
            f"{path} is of no known format; its first keys are {_first(tensors)}. Known formats: {FORMATS}",
            key="weights",
        )
    return Checkpoint(_float32(kept, path), format_name, file_sha256(path), (*skipped, *beside))


def _prefix_of(tensors: Mapping[str, torch.Tensor], known: Collection[str]) -> str | None:
    """What stands before most of the known names; None where fewer than half of them are there."""
    counts: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in known:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    best = max(counts.values(), default=0)
    if not known or 2 * best < len(known):
        return None
    fitting = sorted(prefix for prefix, count in counts.items() if count == best)
    return min(fitting, key=lambda prefix: ("teacher" not in prefix, any(copy in prefix for copy in _COPIES)))


def _any(names: list[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _float32(tensors: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Dense tensors, float32 where they have any floating type."""
    made = {}
    for name, tensor in tensors.items():
        odd = "meta (no values)" if tensor.is_meta else "quantized" if tensor.is_quantized else None
        if odd or tensor.is_complex():
            raise InputError(
                f"{path} holds a tensor that is {odd or 'complex'}: {name}",
                key="weights",
                allowed="save the network with real, dense tensors",
            )
        dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
        made[name] = dense.to(torch.float32) if dense.is_floating_point() else dense
    return made


def _first(mapping: Mapping[Any, Any]) -> list[str]:
    return [str(name) for name in list(mapping)[:5]]
