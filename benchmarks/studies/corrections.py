"""PmIoU of experiments/camvid-k.yaml before and after the corrections of upsampling, outliers and superpixels.

From the same features and the same clusters come both: labels upsampled corner to corner, with every pixel an outlier
whose interpolated distance is beyond its cluster's threshold (before), and labels upsampled from where the extractor's
cells lie, with the pixels of outlying cells taken out (after). So a difference is the correction's and no seed's.
Figures are kept as they come, a JSON line each: the same command goes on where it was ended, and `--report` prints what
is there.

    LOOKBEYOND_DATA=data python -m benchmarks.studies.corrections --figures corrections.jsonl
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import INPUT_SIZE, WEIGHTS, Aim, add_data_option, put, table, verdict
from orchestrator.results.statistics import Spread
from workloads.configs.clustering import KMeansConfig
from workloads.configs.extraction import ExtractorConfig
from workloads.configs.superpixels import SuperpixelConfig
from workloads.datasets import Dataset, open_dataset, seeded_order
from workloads.datasets.camvid import CamvidConfig
from workloads.features.extractors import Extractor, build_extractor
from workloads.grid import CellGrid
from workloads.ignored import IGNORE_LABEL
from workloads.labels.auxiliary import assign, outliers, scorer, vote
from workloads.labels.cluster_model import ClusterModel
from workloads.labels.kmeans import fit_kmeans
from workloads.labels.superpixels import superpixels
from workloads.scoring.confusion import Confusion
from workloads.scoring.metrics import proxy_mean_iou
from workloads.seeding import generator

AIM = Aim("PmIoU after less before without outliers and superpixels, points, mean of all networks and K", least=-0.3)
CLASSES, PIXELS, SHARE = 11, 200, 0.05
# Of the experiment, and the default of before.
SUPERPIXELS = {"none": None, "200:10": (200, 10), "500:10": (500, 10), "2000:3": (2000, 3)}
# Share of outliers and superpixels: the cells of the experiment, and the defaults of before and after.
CASES = [(0.0, "none"), (0.0, "200:10"), (0.0, "500:10"), (SHARE, "none"), (SHARE, "500:10"), (SHARE, "2000:3")]


@dataclass(frozen=True)
class Corners(CellGrid):
    """Where cells were taken to lie before: the outer ones on the image's corners."""

    def places(self, axis: int, cells: int, pixels: int) -> np.ndarray:
        """The place among the cells of every pixel along an axis."""
        del axis
        return np.linspace(0, cells - 1, pixels)


@dataclass
class Pictures:
    """The judged images: truth and superpixels, in memory."""

    truths: list[np.ndarray]
    segments: dict[str, list[np.ndarray]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--figures", type=Path, required=True, help="keep the figures there, features beside it")
    parser.add_argument("--networks", nargs="+", choices=WEIGHTS, default=[*WEIGHTS], help="default: both")
    parser.add_argument("--clusters", type=int, nargs="+", default=[17, 11, 22], help="default: 17 11 22")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    parser.add_argument("--report", action="store_true", help="print what is there and compute nothing")
    options = parser.parse_args(arguments)
    if not options.report:
        compute(options)
    found: dict[tuple[str, int, float, str], list[tuple[float, float]]] = defaultdict(list)
    for line in _lines(options.figures):
        name = (line["network"], line["num_clusters"], line["outliers"], line["superpixels"])
        found[name].append((line["before"], line["after"]))
    rows, gains = [], []
    for (network, num_clusters, share, segments), pairs in sorted(found.items()):
        before, after = (Spread.of([pair[side] for pair in pairs]) for side in (0, 1))
        difference = Spread.of([pair[1] - pair[0] for pair in pairs])
        assert before and after and difference
        rows.append(
            [
                *(network, num_clusters, f"{100 * share:g} %", segments, len(pairs)),
                *(before.text(2), after.text(2), f"{difference.mean:+.2f}"),
            ]
        )
        gains += [difference.mean] if (share, segments) == CASES[0] else []
    print("\n" + table(["network", "K", "outliers", "superpixels", "seeds", "before", "after", "difference"], rows))
    return verdict([(AIM, sum(gains) / len(gains))] if gains else [])


def compute(options: argparse.Namespace) -> None:
    """Every figure that is not there yet: all K of a seed, seed by seed."""
    torch.set_num_threads(1)
    dataset = open_dataset(CamvidConfig(), options.data / "camvid")
    done = {(line["network"], line["num_clusters"], line["seed"]) for line in _lines(options.figures)}
    pictures: Pictures | None = None
    for num_clusters in options.clusters:
        for seed in options.seeds:
            for network in options.networks:
                if (network, num_clusters, seed) in done:
                    continue
                pictures = pictures or _pictures(dataset)
                extractor = _extractor(str(options.data / WEIGHTS[network]))
                kept = options.figures.with_name(f"{options.figures.stem}-{network}")
                train, val = (_features(dataset, extractor, kept, pool) for pool in ("train", "val"))
                model = _fit(dataset, train, num_clusters, seed)
                scored = _scored(model, val, pictures, extractor)
                with options.figures.open("a") as file:
                    for (share, segments), (before, after) in scored.items():
                        figure = {"network": network, "num_clusters": num_clusters, "seed": seed, "outliers": share}
                        figure |= {"superpixels": segments, "before": before, "after": after}
                        put(figure)
                        file.write(json.dumps(figure) + "\n")


def _scored(
    model: ClusterModel, val: np.ndarray, pictures: Pictures, extractor: Extractor
) -> dict[tuple[float, str], tuple[float, float]]:
    """PmIoU of every case, before and after."""
    maps_of, thresholds = scorer(model).maps, model.outlier_thresholds(SHARE)
    counts = {(case, side): Confusion(CLASSES) for case in CASES for side in (0, 1)}
    for index, truth in enumerate(pictures.truths):
        size = (truth.shape[0], truth.shape[1])
        scores = maps_of(torch.from_numpy(np.array(val[index])))
        grid = extractor.grid(size)
        labels, distance = assign(scores, size, Corners(grid.stride, grid.origin, grid.input_size))
        old = (labels, distance > thresholds[labels])
        new = (assign(scores, size, grid)[0], outliers(scores, thresholds, size, grid))
        for ((share, name), side), confusion in counts.items():
            former, outlying = (old, new)[side]
            kept = np.where(outlying, np.uint16(IGNORE_LABEL), former) if share else former
            if name != "none":
                ids = pictures.segments[name][index]
                kept, former = (vote(each, ids, model.num_clusters) for each in (kept, former))
            confusion.update(kept, truth, former)
    return {case: (_pmiou(counts[case, 0]), _pmiou(counts[case, 1])) for case in CASES}


def _pmiou(confusion: Confusion) -> float:
    return proxy_mean_iou(confusion, CLASSES).pmiou


def _pictures(dataset: Dataset) -> Pictures:
    names = _names(dataset, "val")
    images = [dataset.read_image("val", name) for name in names]
    segments = {
        name: [superpixels(image, SuperpixelConfig(n_segments=given[0], compactness=given[1])) for image in images]
        for name, given in SUPERPIXELS.items()
        if given is not None
    }
    return Pictures([dataset.read_ground_truth("val", name) for name in names], segments)


def _extractor(weights: str) -> Extractor:
    config = {"arch": "mobilenet_v2", "output_stride": 16, "input_size": json.loads(INPUT_SIZE)}
    return build_extractor(ExtractorConfig.model_validate(config), weights, "cpu")


def _features(dataset: Dataset, extractor: Extractor, kept: Path, pool: str) -> np.ndarray:
    """Features of a pool in its order, float32 (images, D, h, w), from the file beside the figures where it is."""
    path = kept.with_name(f"{kept.name}-{pool}.npy")
    if not path.exists():
        made = [extractor.features([dataset.read_image(pool, name)])[0].numpy() for name in _names(dataset, pool)]
        partial = path.with_suffix(".partial.npy")
        np.save(partial, np.stack(made))
        partial.rename(path)
    return np.load(path, mmap_mode="r")


def _fit(dataset: Dataset, features: np.ndarray, num_clusters: int, seed: int) -> ClusterModel:
    """The clusters that the experiment fits: the same sample in the same order."""
    rows = []
    for name, image in zip(_names(dataset, "train"), features, strict=True):
        cells = image.reshape(image.shape[0], -1)
        chosen = generator(seed, "sample", "train", name).permutation(cells.shape[1])[:PIXELS]
        rows.append(cells[:, chosen].T)
    sample = np.ascontiguousarray(np.concatenate(rows))
    return fit_kmeans(sample, num_clusters, KMeansConfig(k=num_clusters), seed)


def _names(dataset: Dataset, pool: str) -> list[str]:
    return [entry.id for entry in seeded_order(dataset.entries(pool), 0)]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)


if __name__ == "__main__":
    sys.exit(main())
