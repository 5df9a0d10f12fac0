"""What the superpixel vote does to auxiliary labels on CamVid, and why: everything that could decide it, varied.

All figures are over the judged images (every n-th of the pool) and, where clusters take part, means over seeds:

    ceiling   each superpixel is given its commonest true class: what no labelling voted by these superpixels can beat
    coarse    the truth itself, averaged over the feature map's cells and upsampled like scores, before and after the
              vote: a labelling that is wrong nowhere but at borders, so it says whether the vote can sharpen borders
    clusters  PmIoU of K-means labels before and after the vote, per output stride and upsampling; of the pixels that
              the vote changes, the share that was wrong and becomes right, and the reverse, under the matching found
              before it

Choose on train, report on val:

    LOOKBEYOND_DATA=data python -m benchmarks.studies.superpixel_study --pool train
    LOOKBEYOND_DATA=data python -m benchmarks.studies.superpixel_study --pool val --strides 16 --settings 500:10 2000:10
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.measuring import INPUT_SIZE, WEIGHTS, Aim, add_data_option, put, table, verdict
from workloads.configs.clustering import KMeansConfig
from workloads.configs.extraction import ExtractorConfig
from workloads.configs.superpixels import SuperpixelConfig
from workloads.datasets import Dataset, open_dataset
from workloads.datasets.camvid import CamvidConfig
from workloads.features.extractors import Extractor, build_extractor
from workloads.grid import CellGrid
from workloads.ignored import IGNORE_CLASS
from workloads.labels.auxiliary import assign, scorer, vote
from workloads.labels.kmeans import ClusterModel, fit_kmeans
from workloads.labels.superpixels import superpixels
from workloads.scoring.confusion import Confusion
from workloads.scoring.metrics import mean_iou, proxy_mean_iou
from workloads.seeding import generator

# What docs/superpixels.md recommends, and why.
CHOICE = "2000:3"
AIM = Aim(f"gain in PmIoU by the vote with superpixels {CHOICE}, least of all strides and upsamplings", least=0)

CLASSES = 11
PIXELS = 200
THIN = {"pole": 2, "sign": 6, "fence": 7, "pedestrian": 9}
SETTINGS = [f"{number}:{compactness}" for number in (200, 500, 2000) for compactness in (1, 3, 10, 30)]


@dataclass
class Changes:
    """Pixels that the vote changed, and what became of them under the matching found before it."""

    pixels: int = 0
    changed: int = 0
    gained: int = 0
    lost: int = 0

    def add(self, before: np.ndarray, after: np.ndarray, truth: np.ndarray) -> None:
        """Count one image; before and after are classes, or -1 for a label without one."""
        valid = truth != IGNORE_CLASS
        self.pixels += int(valid.sum())
        self.changed += int((valid & (before != after)).sum())
        self.gained += int((valid & (before != truth) & (after == truth)).sum())
        self.lost += int((valid & (before == truth) & (after != truth)).sum())


@dataclass
class Judged:
    """The images that are judged, their truth and their superpixels under every setting, in memory."""

    pictures: list[np.ndarray]
    truths: list[np.ndarray]
    segments: dict[str, list[np.ndarray]] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--pool", choices=("train", "val"), default="train", help="where to judge (default train)")
    parser.add_argument("--images", type=int, default=74, help="images judged (default 74)")
    parser.add_argument("--fit-images", type=int, default=74, help="train images clusters are fitted on (default 74)")
    parser.add_argument("--network", choices=[*WEIGHTS, "filters"], default="voc", help="filters: no network")
    parser.add_argument("--clusters", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--strides", type=int, nargs="+", default=[8, 16, 32], choices=(8, 16, 32))
    parser.add_argument("--upsampling", nargs="+", default=["bilinear", "nearest"], choices=("bilinear", "nearest"))
    parser.add_argument("--settings", nargs="+", default=SETTINGS, metavar="SEGMENTS:COMPACTNESS")
    options = parser.parse_args(arguments)
    dataset = open_dataset(CamvidConfig(), options.data / "camvid")
    names = chosen(dataset, options.pool, options.images)
    judged = Judged(
        [dataset.read_image(options.pool, name) for name in names],
        [dataset.read_ground_truth(options.pool, name) for name in names],
    )
    for setting in options.settings:
        segments, compactness = setting.split(":")
        config = SuperpixelConfig(n_segments=int(segments), compactness=float(compactness))
        judged.segments[setting] = [superpixels(picture, config) for picture in judged.pictures]
    tables = [study_ceiling(judged)]
    for stride in options.strides:
        tables.append(study_coarse(judged, stride))
    gains = []
    for stride in options.strides:
        extractor = load_extractor(options.network, options.data, stride)
        for text, gain in study_clusters(dataset, judged, extractor, options):
            tables.append(text)
            gains += [gain[CHOICE]] if CHOICE in gain else []
    print("", *tables, sep="\n\n")
    return verdict([(AIM, min(gains))] if gains else [])


def chosen(dataset: Dataset, pool: str, count: int) -> list[str]:
    """Every n-th image of a pool."""
    entries = dataset.entries(pool)
    picked = np.linspace(0, len(entries) - 1, min(count, len(entries))).round().astype(int)
    return [entries[index].id for index in picked]


def load_extractor(network: str, data: Path, stride: int) -> Extractor:
    if network == "filters":
        return build_extractor(ExtractorConfig.model_validate({"output_stride": stride}), None, "cpu")
    config = {"arch": "mobilenet_v2", "output_stride": stride, "input_size": json.loads(INPUT_SIZE)}
    return build_extractor(ExtractorConfig.model_validate(config), str(data / WEIGHTS[network]), "cpu")


def study_ceiling(judged: Judged) -> str:
    """The truth voted by superpixels."""
    rows = []
    for setting, maps in judged.segments.items():
        confusion = Confusion(CLASSES)
        for truth, segments in zip(judged.truths, maps, strict=True):
            labels = np.where(truth == IGNORE_CLASS, np.uint16(65535), truth.astype(np.uint16))
            voted = vote(labels, segments, CLASSES)
            confusion.update(voted, truth)
        score = mean_iou(square(confusion))
        thin = {name: float(score.per_class_iou[index]) for name, index in THIN.items()}
        number = statistics.mean(int(segments.max()) + 1 for segments in maps)
        put({"study": "ceiling", "superpixels": setting, "number": number, "miou": score.miou, **thin})
        rows.append(
            [*setting.split(":"), f"{number:.0f}", f"{score.miou:.1f}", *(f"{iou:.1f}" for iou in thin.values())]
        )
    return "Ceiling: every superpixel given its commonest true class\n\n" + table(
        ["n_segments", "compactness", "superpixels", "mIoU", *THIN], rows
    )


def study_coarse(judged: Judged, stride: int) -> str:
    """The truth at the features' resolution, before and after the vote."""
    before, after = Confusion(CLASSES), {setting: Confusion(CLASSES) for setting in judged.segments}
    cells = (-(-353 // stride), -(-481 // stride))
    for index, truth in enumerate(judged.truths):
        one_hot = torch.stack([torch.from_numpy(truth == label) for label in range(CLASSES)]).float()
        grid = CellGrid(stride, (stride - 1) / 2, (cells[0] * stride, cells[1] * stride))
        labels, _ = assign(F.interpolate(one_hot[None], cells, mode="area")[0], truth.shape, grid)
        before.update(labels, truth)
        for setting, confusion in after.items():
            confusion.update(vote(labels, judged.segments[setting][index], CLASSES), truth)
    plain = mean_iou(square(before)).miou
    rows = [["none", "", f"{plain:.1f}", ""]]
    put({"study": "coarse", "stride": stride, "superpixels": None, "miou": plain})
    for setting, confusion in after.items():
        miou = mean_iou(square(confusion)).miou
        put({"study": "coarse", "stride": stride, "superpixels": setting, "miou": miou})
        rows.append([*setting.split(":"), f"{miou:.1f}", f"{miou - plain:+.1f}"])
    return f"Coarse truth, output stride {stride}\n\n" + table(["n_segments", "compactness", "mIoU", "vote"], rows)


def study_clusters(
    dataset: Dataset, judged: Judged, extractor: Extractor, options: argparse.Namespace
) -> Iterator[tuple[str, dict[str, float]]]:
    """K-means labels before and after the vote: a table, and the mean gain of each setting."""
    stride = extractor.stride
    scorers = [scorer(model) for model in fit(dataset, extractor, options)]
    # Scores are small (K x h x w), so the network runs once for everything that follows.
    scores = [[each.maps(features) for each in scorers] for features in forward(extractor, judged.pictures)]
    for upsampling in options.upsampling:
        found: dict[str | None, list[tuple[float, float, np.ndarray, Changes]]] = defaultdict(list)
        for seed in range(len(scorers)):
            labels = [
                upsample(maps[seed], truth.shape, upsampling, extractor.grid(truth.shape))
                for maps, truth in zip(scores, judged.truths, strict=True)
            ]
            confusion = count(labels, judged.truths)
            score = proxy_mean_iou(confusion, CLASSES)
            classes = np.full(options.clusters, -1)
            for label, index in score.matching.items():
                classes[label] = index
            found[None].append((score.pmiou, score.many_to_one, score.per_class_iou, Changes()))
            for setting, maps in judged.segments.items():
                voted = [vote(each, ids, options.clusters) for each, ids in zip(labels, maps, strict=True)]
                changes = Changes()
                for before, after, truth in zip(labels, voted, judged.truths, strict=True):
                    changes.add(classes[before], classes[after], truth)
                score = proxy_mean_iou(count(voted, judged.truths), CLASSES)
                found[setting].append((score.pmiou, score.many_to_one, score.per_class_iou, changes))
        yield clusters_table(f"{options.network}, {options.pool}, output stride {stride}, {upsampling}", found)


def clusters_table(
    title: str, found: dict[str | None, list[tuple[float, float, np.ndarray, Changes]]]
) -> tuple[str, dict[str, float]]:
    plain = found[None]
    rows, mean_gains = [], {}
    for setting, values in found.items():
        pmiou = [value[0] for value in values]
        gains = [value[0] - before[0] for value, before in zip(values, plain, strict=True)]
        if setting:
            mean_gains[setting] = statistics.mean(gains)
        per_class = np.mean([value[2] for value in values], 0)
        changed, gained, lost = (
            100 * statistics.mean(getattr(value[3], name) / max(value[3].pixels, 1) for value in values)
            for name in ("changed", "gained", "lost")
        )
        many = statistics.mean(value[1] for value in values)
        put(
            {"study": title, "superpixels": setting, "pmiou": pmiou, "gains": gains, "many_to_one": many}
            | {"changed": changed, "gained": gained, "lost": lost, "per_class": per_class.round(2).tolist()}
        )
        rows.append(
            [
                *(setting or "none:").split(":"),
                f"{statistics.mean(pmiou):.2f}",
                f"{statistics.mean(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f})" if setting else "",
                f"{many:.2f}",
                *([f"{changed:.1f}", f"{gained:.1f}", f"{lost:.1f}"] if setting else ["", "", ""]),
                *(f"{per_class[index]:.1f}" for index in THIN.values()),
            ]
        )
    headings = ["n_segments", "compactness", "PmIoU", "vote", "many to one", "changed %", "to right %", "to wrong %"]
    return f"Clusters, {title}\n\n" + table([*headings, *THIN], rows), mean_gains


def fit(dataset: Dataset, extractor: Extractor, options: argparse.Namespace) -> list[ClusterModel]:
    """One model per seed, all from one pass over the train images."""
    names = chosen(dataset, "train", options.fit_images)
    samples: list[list[np.ndarray]] = [[] for _ in options.seeds]
    pictures = (dataset.read_image("train", name) for name in names)
    for name, features in zip(names, forward(extractor, pictures), strict=True):
        cells = features.flatten(1).T
        for seed, sample in zip(options.seeds, samples, strict=True):
            picked = generator(seed, "sample", "train", name).permutation(len(cells))[:PIXELS]
            sample.append(cells[torch.from_numpy(picked)].numpy())
    return [
        fit_kmeans(np.concatenate(sample), options.clusters, KMeansConfig(k=options.clusters), seed)
        for seed, sample in zip(options.seeds, samples, strict=True)
    ]


def forward(extractor: Extractor, pictures: Iterator[np.ndarray] | list[np.ndarray]) -> Iterator[torch.Tensor]:
    batch: list[np.ndarray] = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == extractor.config.batch_size:
            yield from extractor.features(batch)
            batch = []
    if batch:
        yield from extractor.features(batch)


def upsample(maps: torch.Tensor, size: tuple[int, int], how: str, grid: CellGrid) -> np.ndarray:
    """Labels uint16 (H, W), upsampled before the argmax (bilinear) or after it (nearest)."""
    if how == "bilinear":
        return assign(maps, size, grid)[0]
    labels = maps.argmax(0).numpy().astype(np.uint16)
    rows, columns = (
        grid.places(axis, cells, pixels).round().astype(int)
        for axis, (cells, pixels) in enumerate(zip(labels.shape, size, strict=True))
    )
    return labels[np.ix_(rows, columns)]


def square(confusion: Confusion) -> np.ndarray:
    """Counts (M, M) where labels are classes."""
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    dense = confusion.dense()
    counts[: len(dense)] = dense
    return counts.T


def count(labels: list[np.ndarray], truths: list[np.ndarray]) -> Confusion:
    confusion = Confusion(CLASSES)
    for each, truth in zip(labels, truths, strict=True):
        confusion.update(each, truth)
    return confusion


if __name__ == "__main__":
    sys.exit(main())
