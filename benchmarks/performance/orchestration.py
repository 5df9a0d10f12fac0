"""What Ray, the ledger and the shards cost, against nothing but processes.

    extract   images/s of feature sampling on CamVid in the project, against a multiprocessing pool of as many processes
              (one per core, one thread each) that calls the same functions on the same images in the same batches and
              throws the result away
    slic      the same for superpixels
    grid      wall time of a grid of 9 (K x outliers, SLIC 500) against one cell of it, both whole commands, after a
              warm-up, in turns whose order is swapped

Rates are measured while running, from the moment when as many shards as there are cores are finished to the last: the
start of processes, Ray and networks is not in them but stated beside. Shards are written, hashed and committed within
the project's rate.

    LOOKBEYOND_DATA=data python -m benchmarks.performance.orchestration --what extract slic grid --repeats 2
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import INPUT_SIZE, WEIGHTS, Aim, add_data_option, put, run_project, table, verdict
from workloads.configs.extraction import ExtractorConfig
from workloads.configs.superpixels import SuperpixelConfig
from workloads.datasets import Dataset, open_dataset
from workloads.datasets.camvid import CamvidConfig
from workloads.features.extractors import Extractor, build_extractor
from workloads.labels.superpixels import superpixels
from workloads.seeding import generator

AIMS = {
    "extract": Aim("extract: images/s of project / pool", least=0.95),
    "slic": Aim("slic: images/s of project / pool", least=0.95),
    "grid": Aim("grid: seconds of nine cells / one", most=1.3),
}

SHARD = 16
PIXELS = 200
EXTRACTOR = {"arch": "mobilenet_v2", "output_stride": 16, "input_size": json.loads(INPUT_SIZE)}
SLIC = {"n_segments": 500, "compactness": 10}
GRID = {"labels.clustering.k_per_class": [1.0, 1.5, 2.0], "labels.outliers": [0.0, 0.05, 0.1]}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    measures: dict[str, Callable[[argparse.Namespace], tuple[str, float]]] = {
        "extract": measure_extraction,
        "slic": measure_slic,
        "grid": measure_grid,
    }
    parser.add_argument("--what", nargs="+", choices=measures, default=list(measures), help="default: all three")
    parser.add_argument("--repeats", type=int, default=2, help="turns; the best of each side counts (default 2)")
    parser.add_argument("--images", type=int, default=367, help="train images (default 367, all)")
    options = parser.parse_args(arguments)
    seen = {what: measures[what](options) for what in options.what}
    print("", *(text for text, _ in seen.values()), sep="\n\n")
    return verdict([(AIMS[what], ratio) for what, (_, ratio) in seen.items()])


def measure_extraction(options: argparse.Namespace) -> tuple[str, float]:
    def project(storage: Path) -> tuple[float, float]:
        return run_labels({"superpixels": None}, {}, options, storage, "sample")

    def pool() -> tuple[float, float]:
        weights = str(options.data / WEIGHTS["voc"])
        return run_pool(options, ["train"], (prepare_extraction, (options.data, weights)), extract_slice)

    return compare_rates("extract", project, pool, options)


def measure_slic(options: argparse.Namespace) -> tuple[str, float]:
    def project(storage: Path) -> tuple[float, float]:
        return run_labels({"source": "superpixel", "superpixels": SLIC}, {}, options, storage, "superpixels")

    def pool() -> tuple[float, float]:
        return run_pool(options, ["train", "val"], (prepare_slic, (options.data,)), slic_slice)

    return compare_rates("slic", project, pool, options)


def compare_rates(
    what: str,
    project: Callable[[Path], tuple[float, float]],
    pool: Callable[[], tuple[float, float]],
    options: argparse.Namespace,
) -> tuple[str, float]:
    """Both take turns, each turn in the other order; a rate is images/s and the seconds before it began."""
    rates: dict[str, list[float]] = {"project": [], "pool": []}
    for turn in range(options.repeats):
        for who in ("project", "pool") if turn % 2 == 0 else ("pool", "project"):
            with tempfile.TemporaryDirectory() as folder:
                rate, start = project(Path(folder)) if who == "project" else pool()
            rates[who].append(rate)
            put({"what": what, "who": who, "images/s": rate, "seconds before": start})
    ratio = max(rates["project"]) / max(rates["pool"])
    put({"what": what, "project / pool": ratio})
    rows = [[who, *(f"{rate:.2f}" for rate in found)] for who, found in rates.items()]
    headings = ["images/s", *(f"turn {turn + 1}" for turn in range(options.repeats))]
    return f"{what}: project / pool {ratio:.3f}\n\n" + table(headings, rows), ratio


def measure_grid(options: argparse.Namespace) -> tuple[str, float]:
    seconds: dict[str, list[float]] = {"one": [], "nine": []}
    grids: dict[str, dict[str, Any]] = {"one": {}, "nine": GRID}
    order = ["one", *(["one", "nine", "nine", "one"] * options.repeats)[: 2 * options.repeats]]
    for turn, which in enumerate(order):
        with tempfile.TemporaryDirectory() as folder:
            write_experiment({"superpixels": SLIC}, grids[which], Path(folder))
            run = run_project(Path(folder, "experiment.yaml"), places(options), Path(folder, "storage"))
        put(
            {
                "what": "grid",
                "cells": which,
                "seconds": run.seconds,
                "of it start": run.start_seconds,
                "warm-up": not turn,
            }
        )
        if turn:
            seconds[which].append(run.seconds)
    ratio = min(seconds["nine"]) / min(seconds["one"])
    put({"what": "grid", "nine / one": ratio})
    rows = [[which, *(f"{value:.1f}" for value in found)] for which, found in seconds.items()]
    headings = ["seconds", *(f"turn {turn + 1}" for turn in range(options.repeats))]
    return f"grid: nine / one {ratio:.2f} (without the first run, a warm-up)\n\n" + table(headings, rows), ratio


def places(options: argparse.Namespace) -> list[str]:
    root, weights = options.data / "camvid", options.data / WEIGHTS["voc"]
    return [f"dataset.root={root}", f"labels.extractor.weights={weights}", f"labels.images={options.images}"]


def write_experiment(labels: dict[str, Any], grid: dict[str, Any], folder: Path) -> None:
    """The experiment file (JSON is YAML)."""
    labels = {"extractor": EXTRACTOR, "sampling": {"pixels_per_image": PIXELS}} | labels
    document = {"name": "cost", "dataset": {"name": "camvid"}, "labels": labels, "compute": {"shard_images": SHARD}}
    Path(folder, "experiment.yaml").write_text(json.dumps(document | {"grid": grid}))


def run_labels(
    labels: dict[str, Any], grid: dict[str, Any], options: argparse.Namespace, folder: Path, kind: str
) -> tuple[float, float]:
    """A run of the project; the rate of one kind of step is read from the times at which its shards were written."""
    write_experiment(labels, grid, folder)
    begun = time.time()
    run_project(folder / "experiment.yaml", places(options), folder / "storage")
    ends: list[tuple[float, int]] = []
    for manifest in (folder / "storage" / "steps" / kind).glob("*.json"):
        for shard in json.loads(manifest.read_text())["shards"]:
            ends.append(((folder / "storage" / shard["path"]).stat().st_mtime, shard["images"]))
    return rate_of(ends, begun)


def rate_of(ends: list[tuple[float, int]], begun: float) -> tuple[float, float]:
    """Images/s after the first shard of every process, and when the first of all was finished."""
    ends = sorted(ends)
    cores = process_count()
    images = sum(count for _, count in ends[cores:])
    return images / (ends[-1][0] - ends[cores - 1][0]), ends[0][0] - begun


def process_count() -> int:
    return os.cpu_count() or 1


# What the processes of the bare pool hold.
_dataset: Dataset
_extractor: Extractor


def run_pool(
    options: argparse.Namespace,
    pools: list[str],
    prepare: tuple[Callable[..., None], tuple[Any, ...]],
    work: Callable[[tuple[str, list[str]]], tuple[float, int]],
) -> tuple[float, float]:
    """The same images in slices of a shard's size through a pool of processes."""
    dataset = open_dataset(CamvidConfig(), options.data / "camvid")
    slices = []
    for pool in pools:
        names = [entry.id for entry in dataset.entries(pool)][: options.images if pool == "train" else None]
        slices += [(pool, names[start : start + SHARD]) for start in range(0, len(names), SHARD)]
    begun = time.time()
    with multiprocessing.get_context("spawn").Pool(process_count(), *prepare) as processes:
        return rate_of(list(processes.imap_unordered(work, slices)), begun)


def prepare_extraction(data: Path, weights: str) -> None:
    global _extractor  # noqa: PLW0603 - a process of the pool has no other place to keep it
    prepare_slic(data)
    _extractor = build_extractor(ExtractorConfig.model_validate(EXTRACTOR), weights, "cpu")


def prepare_slic(data: Path) -> None:
    global _dataset  # noqa: PLW0603 - as above
    torch.set_num_threads(1)
    _dataset = open_dataset(CamvidConfig(), data / "camvid")


def extract_slice(task: tuple[str, list[str]]) -> tuple[float, int]:
    pool, names = task
    batch = _extractor.config.batch_size
    for start in range(0, len(names), batch):
        group = names[start : start + batch]
        found = _extractor.features([_dataset.read_image(pool, name) for name in group])
        for name, features_DHW in zip(group, found, strict=True):
            cells = features_DHW.flatten(1)
            picked = generator(0, "sample", pool, name).permutation(cells.shape[1])[:PIXELS]
            cells[:, torch.from_numpy(picked)].T.contiguous()
    return time.time(), len(names)


def slic_slice(task: tuple[str, list[str]]) -> tuple[float, int]:
    pool, names = task
    for name in names:
        superpixels(_dataset.read_image(pool, name), SuperpixelConfig.model_validate(SLIC))
    return time.time(), len(names)


if __name__ == "__main__":
    sys.exit(main())
