"""Networks of timm's as extractors: are features timm's own, and are cells where they are said to be?

    python -m benchmarks.studies.timm_extractors [NAME ...]

Of every network with random weights, in a file as timm writes them: the largest difference from timm's own call
(`features_only` of networks with stages, the normalised patch tokens of plain transformers) as a share of the largest
feature; and how far from a bright dot, in pixels, the change of the features has its centre, mean of several weights.
Aim: at most 1e-5,
and at most a quarter of a cell. Ends with 0 when all networks meet it.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from workloads.configs.extraction import ExtractorConfig
from workloads.features.extractors import Extractor, build_extractor
from workloads.labels.auxiliary import assign
from workloads.networks.random_weights import draw_weights

NAMES = (
    "resnet50",
    "convnext_tiny",
    "vit_base_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch16_dinov3",
    "swin_tiny_patch4_window7_224",
    "mobilenetv3_large_100",
    "tf_efficientnet_lite0",
    "regnety_004",
    "hrnet_w18_small",
)
LARGEST_DIFFERENCE = 1e-5
LARGEST_SHARE_OF_A_CELL = 0.25
SIZE = (224, 224)
# Larger, since what lies near a border is cut off on one side.
DOTTED = (352, 352)
# Random weights look to one side or another; several together look nowhere.
WEIGHTS = 2


def main(arguments: list[str] | None = None) -> int:
    """Try each; a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks of timm's; by default ten of several kinds")
    failed = []
    for name in parser.parse_args(arguments).names or NAMES:
        difference, distances = 0.0, []
        for seed in range(WEIGHTS):
            with tempfile.TemporaryDirectory() as folder:
                file = str(Path(folder) / "model.safetensors")
                whole = timm.create_model(name).eval()
                safetensors.torch.save_model(whole, file)
                config = ExtractorConfig(arch=f"timm/{name}", normalize=False)
                if seed == 0:
                    difference = differs(build_extractor(config, file, "cpu"), name, file)
                answering(whole, seed)
                safetensors.torch.save_model(whole, file)
                ours = build_extractor(config, file, "cpu")
            distances.append(distance_from_dots(ours))
        away = float(np.abs(np.mean(distances, axis=0)).max())
        cells = f"{ours.channels} channels, stride {ours.stride}, cell 0 at {ours.grid(DOTTED).origin}"
        good = difference <= LARGEST_DIFFERENCE and away <= LARGEST_SHARE_OF_A_CELL * ours.stride
        print(f"{'met' if good else 'NOT MET':8}{name:32} {cells}: {difference:.1e} apart, {away:.1f} px from dots")
        sys.stdout.flush()
        failed += [] if good else [name]
    return 1 if failed else 0


def answering(network: nn.Module, seed: int) -> None:
    """Other random weights, in place: timm's own leave some blocks without effect, and a dot without an answer.

    Where nothing normalises, those of a convolution are positive and add up to one: others look to one side.
    """
    draw_weights(network, seed)
    if any("LayerNorm" in type(module).__name__ for module in network.modules()):
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.data.abs()
            module.weight.data = weight / weight.sum(dim=(1, 2, 3), keepdim=True)


def differs(ours: Extractor, name: str, file: str) -> float:
    """The largest difference from timm's own features, as a share of the largest."""
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = timms_features(name, file, ours, image)
    found = ours.features([image])
    return float((found - expected).abs().max() / expected.abs().max())


def timms_features(name: str, file: str, ours: Extractor, image: np.ndarray) -> Tensor:
    """What timm's documentation says to call."""
    options: dict[str, Any] = {"pretrained": True, "pretrained_cfg_overlay": {"file": file}}
    plain: Any = timm.create_model(name, **options)
    tokens = getattr(plain, "num_prefix_tokens", None)
    if tokens is not None:
        network: Any = timm.create_model(name, num_classes=0, dynamic_img_size=True, **options)
    elif ours.stride == plain.feature_info[-1]["reduction"]:
        network = timm.create_model(name, features_only=True, out_indices=(-1,), **options)
    else:
        network = timm.create_model(name, features_only=True, out_indices=(-1,), output_stride=ours.stride, **options)
    config: Any = timm.data.resolve_model_data_config(network)
    mean, std = (torch.tensor(config[part]).view(3, 1, 1) for part in ("mean", "std"))
    images = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 - mean) / std
    if tokens is None:
        maps: Tensor = network.eval()(images)[-1]
        # Swin gives the channels last.
        return maps if maps.shape[1] == ours.channels else maps.permute(0, 3, 1, 2)
    patches = network.eval().forward_features(images)[:, tokens:]
    side = SIZE[0] // ours.stride
    features: Tensor = patches.transpose(1, 2).reshape(1, -1, side, side)
    return features


def distance_from_dots(ours: Extractor) -> np.ndarray:
    """How far the centre of what a dot changes lies from it on average: (2,), rows and columns."""
    grid, plain = ours.grid(DOTTED), np.full((*DOTTED, 3), 128, np.uint8)
    base = ours.features([plain])[0]
    origin = grid.origin if isinstance(grid.origin, tuple) else (grid.origin, grid.origin)
    # Around the middle of the cells, so that nothing is cut off on one side alone.
    middle = [round(start + grid.stride * (cells - 1) / 2) for start, cells in zip(origin, base.shape[1:], strict=True)]
    away = []
    for step in range(-ours.stride, ours.stride, ours.stride // 4):
        row, column = middle[0] + step, middle[1] - step
        dotted = plain.copy()
        dotted[row - 3 : row + 4, column - 3 : column + 4] = 255
        answer = (ours.features([dotted])[0] - base).abs().sum(0, keepdim=True)
        answer = (answer / answer.max()).square()
        _, distance = assign(answer - answer.max(), DOTTED, grid)
        weight = (distance.max() - distance) ** 4
        weight /= weight.sum()
        centre = [float((weight.sum(1 - axis) * np.arange(DOTTED[axis])).sum()) for axis in (0, 1)]
        away.append((centre[0] - row, centre[1] - column))
    mean: np.ndarray = np.mean(away, axis=0)
    return mean


if __name__ == "__main__":
    sys.exit(main())
