"""Peak resident memory of single pieces of work, each in a process of its own, against the rule that a run goes by.

A run starts no more side by side than a machine has memory for. How much work takes says `workloads.costs.memory`,
which the run's own workers correct: the rule should be too much rather than too little.

    python -m benchmarks.performance.memory_of_work
    python -m benchmarks.performance.memory_of_work --only "extract resnet50" superpixels
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np

# What computes is imported by who computes: a process that makes superpixels has no torch.
from benchmarks.measuring import Aim, put, table, verdict
from workloads.configs.extraction import ExtractorConfig
from workloads.configs.recipes import finetuning_recipe
from workloads.configs.superpixels import SuperpixelConfig
from workloads.costs.memory import peak_resident_bytes, worker_bytes
from workloads.costs.work import Size, Work, extraction, steps_of

TOO_LITTLE = Aim("peak / what the rule says, largest of all work", most=1.0)

LARGE = (1024, 2048)
SMALL = (360, 480)
EXTRACTORS = {
    "mobilenet_v2": ExtractorConfig(arch="mobilenet_v2", output_stride=16),
    "resnet50": ExtractorConfig(arch="resnet50", output_stride=16),
    "resnet50, stride 8": ExtractorConfig(arch="resnet50", output_stride=8),
    "vgg19": ExtractorConfig(arch="vgg19", output_stride=16),
    "filters": ExtractorConfig(arch="filters", output_stride=16),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*CASES], default=[*CASES], help="default: all")
    options = parser.parse_args(arguments)
    rows = []
    for name in options.only:
        size, work, make = CASES[name]
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            peak = pool.submit(measured, make).result()
        rule = worker_bytes(work, size, uses_gpu=False)
        put({"work": name, "size": size, "peak_bytes": peak, "rule_bytes": round(rule)})
        rows.append([name, f"{size[0]}x{size[1]}", f"{peak / 1e6:.0f}", f"{rule / 1e6:.0f}", peak / rule])
    shown = [[*row[:4], f"{row[4]:.2f}"] for row in rows]
    print("\n" + table(["work", "images", "peak MB", "rule MB", "peak / rule"], shown))
    return verdict([(TOO_LITTLE, max(row[4] for row in rows))])


def measured(make: Callable[[], object]) -> int:
    """The most bytes that this process held, once it has done the work."""
    os.environ["OMP_NUM_THREADS"] = "1"
    make()
    return peak_resident_bytes()


def extracted(config: ExtractorConfig, size: Size) -> None:
    """Features of an image of noise, twice."""
    from workloads.features.extractors import build_extractor

    weights = None if config.arch == "filters" else "random"
    extractor = build_extractor(config, weights, "cpu")
    for _ in range(2):
        extractor.features([noise(size)])


def segmented(size: Size) -> None:
    """Superpixels of an image of noise."""
    from workloads.labels.superpixels import superpixels

    superpixels(noise(size), SuperpixelConfig(n_segments=500))


def trained() -> None:
    """Three steps of recipe small on drawn scenes."""
    from orchestrator.steps.jobs import Source
    from orchestrator.steps.true_labels import TrueLabels
    from workloads.datasets.scenes import ScenesConfig
    from workloads.networks.segmentors import build_segmentor
    from workloads.training.finetuning import finetuning_loop

    config = finetuning_recipe("small")
    scenes = ScenesConfig(image_size=SMALL, num_train=8, num_val=1)
    source = Source(scenes, None, "train")
    dataset = source.open()
    network = build_segmentor(config.segmentor, len(dataset.classes), 0)
    loop = finetuning_loop(network, TrueLabels(source, [entry.id for entry in dataset.entries("train")]), config)
    for _ in loop.run(until=3):
        pass


def noise(size: Size) -> np.ndarray:
    """An image of noise, uint8 (H, W, 3)."""
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


_RECIPE = finetuning_recipe("small")
CASES: dict[str, tuple[Size, Work | None, Callable[[], object]]] = {
    **{
        f"extract {name}": (LARGE, extraction(config, LARGE, 1), partial(extracted, config, LARGE))
        for name, config in EXTRACTORS.items()
    },
    "superpixels": (LARGE, None, partial(segmented, LARGE)),
    "train, recipe small": (SMALL, steps_of(_RECIPE, _RECIPE.augmentation, SMALL, 8), trained),
}


if __name__ == "__main__":
    sys.exit(main())
