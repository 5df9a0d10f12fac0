"""Seconds per image of every network's forward pass: memory layout, precision and images per pass.

Networks as a run builds them (batch normalisation folded, no classifier), random weights, one thread. Extractors run
channels-last, on a CPU one image after the other: both are to be the faster way.

    python -m benchmarks.performance.layouts
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Sequence

import torch

from benchmarks.measuring import Aim, put, table, verdict
from workloads.configs.extraction import ExtractorConfig
from workloads.features.extractors import build_extractor

AIM = Aim("channels-last / contiguous, seconds of one image in float32, most of all networks", most=1.05)

LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["mobilenet_v2", "resnet18", "resnet50", "vgg19"])
    parser.add_argument("--size", type=int, nargs=2, default=[353, 481], help="height and width (default 353 481)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="images per forward pass (default 1 4)")
    parser.add_argument("--repeats", type=int, default=5, help="passes; their median counts (default 5)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    rows, ratios = [], []
    for arch, precision, batch in itertools.product(options.arch, ("float32", "bfloat16"), options.batch):
        network = build_extractor(ExtractorConfig(arch=arch, output_stride=32), "random", "cpu").network
        images = torch.rand(batch, 3, *options.size, generator=generator)
        seconds = {name: measure(network, images, layout, precision, options) for name, layout in LAYOUTS.items()}
        put({"arch": arch, "precision": precision, "images": batch} | seconds)
        rows.append([arch, precision, batch, *(f"{seconds[name]:.3f}" for name in LAYOUTS)])
        if (precision, batch) == ("float32", 1):
            ratios.append(seconds["channels-last"] / seconds["contiguous"])
    print()
    print(table(["arch", "precision", "images", *LAYOUTS], rows))
    return verdict([(AIM, max(ratios))] if ratios else [])


@torch.inference_mode()
def measure(
    network: torch.nn.Module,
    images: torch.Tensor,
    layout: torch.memory_format,
    precision: str,
    options: argparse.Namespace,
) -> float:
    """Median seconds per image; the first pass does not count."""
    network.to(memory_format=layout)
    images = images.contiguous(memory_format=layout)
    times = []
    for _ in range(options.repeats + 1):
        begun = time.perf_counter()
        with torch.autocast("cpu", getattr(torch, precision), enabled=precision != "float32"):
            network(images)
        times.append((time.perf_counter() - begun) / len(images))
    return statistics.median(times[1:])


if __name__ == "__main__":
    sys.exit(main())
