"""A whole segmentation network in a folder that says how it is used: weights, and a description beside them.

The model: ``model.safetensors`` holds the tensors and nothing that could run code; ``model.json`` says what network
they belong to, what its classes are called and how images are prepared. The failure this guards against: weights that
load and predict, with another size, mean or order of classes than they were trained for.
"""

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
from workloads.networks.weight_identity import file_sha256
from workloads.redaction import redacted

DESCRIPTION = "model.json"
WEIGHTS: dict[str, str] = {
    "safetensors": "model.safetensors",
    "onnx": "model.onnx",
    "torch-export": "model.pt2",
    "torchvision": "model.pth",
}
"""The file of each form that a network is written in."""
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
    written_as: Literal["safetensors", "onnx", "torch-export", "torchvision"] = "safetensors"
    input_size: tuple[int, int] | None = Field(
        None, description="height and width of the input, in a form that has one size; images are resized to it"
    )
    sha256: str = Field("", description="of the file of weights")
    made: dict[str, Any] = Field(default_factory=dict, description="where the network comes from")


def write_model(folder: Path, network: Segmentor, description: ModelDescription) -> ModelDescription:
    """Write a network in the form that its description names, and the description, into a folder that is there.

    Returns the description with the digest of the weights.

    Raises
    ------
    InputError
        The network cannot be written in that form, or what writes it is not installed.
    """
    from workloads.networks.model_formats import write_onnx, write_program, write_torchvision

    place = folder / WEIGHTS[description.written_as]
    match description.written_as:
        case "safetensors":
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
            place.write_bytes(safetensors.torch.save(tensors))
        case "torchvision":
            write_torchvision(network, place)
        case "torch-export":
            assert description.input_size is not None
            write_program(network, description.input_size, place)
        case "onnx":
            assert description.input_size is not None
            write_onnx(network, description.input_size, _properties(description), place)
    described = description.model_copy(update={"sha256": file_sha256(place)})
    # Where it comes from may be a URL with a password.
    (folder / DESCRIPTION).write_text(f"{redacted(described.model_dump_json(indent=1))}\n", encoding="utf-8")
    return described


def _properties(description: ModelDescription) -> dict[str, str]:
    """What an ONNX file says of its input and output, as JSON."""
    return {
        "input": "RGB in 0 to 1, less mean, over std, as (batch, 3, height, width)",
        "mean": json.dumps(description.mean),
        "std": json.dumps(description.std),
        "size": json.dumps(description.input_size),
        "classes": json.dumps([one.name for one in description.classes]),
        "colours": json.dumps([one.colour for one in description.classes]),
    }


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
    if described.written_as != "safetensors":
        raise InputError(
            f"{folder} holds a network as {described.written_as}",
            key="path",
            value=str(path),
            allowed="export it as safetensors, or give the file to what reads that format",
        )
    weights = folder / WEIGHTS["safetensors"]
    if not weights.is_file():
        raise InputError(f"{weights} is missing", key="path", value=str(path))
    if file_sha256(weights) != described.sha256:
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
