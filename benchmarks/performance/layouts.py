"""Seconds per image of every network's forward pass: memory layout, precision and images per pass.

Networks as a run builds them (batch normalisation folded, no classifier), random weights, one thread.

    python -m benchmarks.performance.layouts
"""

import argparse
import itertools
import statistics
import time

import torch

from benchmarks.measuring import put, table
from workloads.configs.extraction import ExtractorConfig
from workloads.features.extractors import build_extractor

LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["mobilenet_v2", "resnet18", "resnet50", "vgg19"])
    parser.add_argument("--size", type=int, nargs=2, default=[353, 481], help="height and width (default 353 481)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="images per forward pass (default 1 4)")
    parser.add_argument("--repeats", type=int, default=5, help="passes; their median counts (default 5)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for arch, precision, batch in itertools.product(options.arch, ("float32", "bfloat16"), options.batch):
        network = build_extractor(ExtractorConfig(arch=arch, output_stride=32), "random", "cpu").network
        images = torch.rand(batch, 3, *options.size, generator=generator)
        seconds = {name: measure(network, images, layout, precision, options) for name, layout in LAYOUTS.items()}
        put({"arch": arch, "precision": precision, "images": batch} | seconds)
        rows.append([arch, precision, batch, *(f"{seconds[name]:.3f}" for name in LAYOUTS)])
    print()
    print(table(["arch", "precision", "images", *LAYOUTS], rows))


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
    main()
