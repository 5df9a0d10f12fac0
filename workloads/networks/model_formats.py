"""A segmentation network in the formats of others: ONNX, torch.export, torchvision's DeepLabV3.

ONNX files and exported programs take normalised images of one size, any number at once, and give the scores of all
classes at that size; what was written is run and compared with the network before it is kept.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from workloads.errors import InputError
from workloads.networks.segmentors import Segmentor

_BATCH = 2
# Rounding differs between runtimes; where two classes are as likely, so may the class.
LARGEST_SHARE = 1e-3
_TORCHVISION_RATES = (12, 24, 36)


class _Scores(nn.Module):
    """The main head's scores alone."""

    def __init__(self, network: Segmentor) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, M, H, W) of normalised images (B, 3, H, W)."""
        scores: Tensor = self.network(images).main
        return scores


def write_program(network: Segmentor, size: tuple[int, int], place: Path) -> None:
    """Write what `torch.export.load` reads; its module takes images (B, 3, H, W) of the size."""
    scores = _Scores(network).eval()
    program = torch.export.export(scores, (_example(size),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, place)
    _require_same(scores, torch.export.load(place).module(), size, place)


def write_onnx(network: Segmentor, size: tuple[int, int], properties: Mapping[str, str], place: Path) -> None:
    """Write an ONNX file with input `images` and output `scores`; the properties become its metadata.

    Raises
    ------
    InputError
        The extra `onnx` is not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch writes by it
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed", key="--format", value="onnx", allowed="pip install 'lookbeyond[onnx]'"
        ) from None
    scores = _Scores(network).eval()
    torch.onnx.export(
        scores,
        (_example(size),),
        place,
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=["images"],
        output_names=["scores"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    model = onnx.load(place)
    onnx.helper.set_model_props(model, dict(properties))
    onnx.save(model, place)
    session = onnxruntime.InferenceSession(place, providers=["CPUExecutionProvider"])
    _require_same(
        scores, lambda images: torch.from_numpy(session.run(["scores"], {"images": images.numpy()})[0]), size, place
    )


def write_torchvision(network: Segmentor, place: Path) -> None:
    """Write a state dict that loads strictly into torchvision's network of the same layers.

    Raises
    ------
    InputError
        torchvision has no such network.
    """
    config = network.config
    asked = (config.head, config.backbone, config.channels, config.output_stride, config.rates)
    if asked != ("deeplabv3", "resnet50", 256, 8, _TORCHVISION_RATES):
        raise InputError(
            f"torchvision has no {config.head} on {config.backbone} with {config.channels} channels, output stride "
            f"{config.output_stride} and rates {list(config.rates)}",
            key="--format",
            value="torchvision",
            allowed=f"deeplabv3 on resnet50, 256 channels, output stride 8, rates {list(_TORCHVISION_RATES)}",
        )
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with torch.device("meta"):
        theirs = torchvision.models.segmentation.deeplabv3_resnet50(
            weights=None, weights_backbone=None, num_classes=network.num_classes, aux_loss=config.auxiliary_head
        )
    theirs.load_state_dict(state, strict=True, assign=True)
    torch.save(state, place)


def _example(size: tuple[int, int]) -> Tensor:
    return torch.rand(_BATCH, 3, *size, generator=torch.Generator().manual_seed(0)) * 4 - 2


@torch.inference_mode()
def _require_same(ours: nn.Module, written: Callable[[Tensor], Tensor], size: tuple[int, int], place: Path) -> None:
    images = _example(size)
    expected, found = ours(images).argmax(1), written(images).argmax(1)
    share = float((expected != found).float().mean())
    if share >= LARGEST_SHARE:
        place.unlink()
        raise RuntimeError(f"{place.name} gives other classes at {share:.2%} of the pixels of a random image")
