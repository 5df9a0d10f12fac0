"""A whole segmentation network in a folder that says how it is used: weights, and a description beside them.

The model: ``model.safetensors`` holds the tensors and nothing that could run code; ``model.json`` says what network
they belong to, what its classes are called and how images are prepared. The failure this guards against: weights that
load and predict, with another size, mean or order of classes than they were trained for.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
from pydantic import Field, ValidationError

from workloads.configs.base import Config
from workloads.configs.networks import SegmentorConfig
from workloads.configs.training import EvaluationConfig
from workloads.errors import InputError
from workloads.imagenet import IMAGENET_MEAN, IMAGENET_STD
from workloads.networks.plain_files import read_safetensors
from workloads.networks.segmentors import Segmentor, build_segmentor
from workloads.redaction import redacted

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
Colour = tuple[int, int, int]


class NamedClass(Config):
    """A class of a network."""

    name: str
    colour: Colour = Field(description="RGB, for pictures of predictions")


class ModelDescription(Config):
    """What must be known of a network beside its weights."""

    format: Literal["lookbeyond-model"] = "lookbeyond-model"
    version: Literal[1] = 1
    network: SegmentorConfig
    classes: tuple[NamedClass, ...] = Field(min_length=1, description="in the order of the network's outputs")
    evaluation: EvaluationConfig = Field(description="how images are prepared and predicted")
    mean: tuple[float, float, float] = Field(IMAGENET_MEAN, description="subtracted from RGB in 0 to 1")
    std: tuple[float, float, float] = Field(IMAGENET_STD, description="what the difference is divided by")
    sha256: str = Field("", description="of the file of weights")
    made: dict[str, Any] = Field(default_factory=dict, description="where the network comes from")


def write_model(folder: Path, network: Segmentor, description: ModelDescription) -> ModelDescription:
    """Write both files into a folder that is there; returns the description with the digest of the weights."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    data = safetensors.torch.save(tensors)
    described = description.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
    (folder / WEIGHTS).write_bytes(data)
    # Where it comes from may be a URL with a password.
    (folder / DESCRIPTION).write_text(f"{redacted(described.model_dump_json(indent=1))}\n", encoding="utf-8")
    return described


def read_model(path: Path) -> tuple[Segmentor, ModelDescription]:
    """The network, in evaluation mode on the CPU, and its description.

    Parameters
    ----------
    path : Path
        The folder, or one of its two files.

    Raises
    ------
    InputError
        A file is missing, is no such file, or is not the one that was written with the other.
    """
    folder = path if path.is_dir() else path.parent
    described = _described(folder / DESCRIPTION)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InputError(f"{weights} is missing", key="path", value=str(path))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != described.sha256:
        raise InputError(f"{weights} is not the file that {DESCRIPTION} was written with", key="path", value=str(path))
    network = build_segmentor(described.network, len(described.classes))
    state, own = read_safetensors(weights), network.state_dict()
    misfits = {name for name in own if name not in state or state[name].shape != own[name].shape}
    wrong = sorted(misfits | (state.keys() - own.keys()))
    if wrong:
        raise InputError(f"{weights} does not fit its description: {', '.join(wrong[:3])}", key="path", value=str(path))
    network.load_state_dict(state)
    return network.eval(), described


def _described(place: Path) -> ModelDescription:
    if not place.is_file():
        raise InputError(
            f"{place} is missing",
            key="path",
            allowed="give the folder that `lookbeyond export model` wrote",
        )
    try:
        return ModelDescription.model_validate(json.loads(place.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{place} describes no network: {key}: {first['msg']}", key="path") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} cannot be read ({error})", key="path") from None
