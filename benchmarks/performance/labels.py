"""The project against one plain process (plain.py: scikit-learn, scikit-image, SciPy) on CamVid: one cell, and a grid.

Both do the whole job from images to PmIoU: sample features, fit K-means, label train and val, score val. The project
runs as a user would run it, `lookbeyond run` into a fresh storage, start of Ray included (and stated apart); it also
commits every label map with checksums, which the plain script does not. So that their scores can be compared, the
positions of the pixels that the project samples, and the centres that its K-means starts from, are handed to the plain
script, which is thereby spared the time to find its own. Features, clusters, labels and scores are each side's own.

    cell    one cell (K = 16, SLIC 500) on all of train and val
    grid    27 cells (K x outliers x superpixels). On all images the plain script would need hours, so both get a copy
            of a subset, every n-th image (--grid-images, --grid-val-images)

    LOOKBEYOND_DATA=data python -m benchmarks.performance.labels --what cell grid
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import (
    INPUT_SIZE,
    WEIGHTS,
    Aim,
    ProjectRun,
    add_data_option,
    not_measured,
    put,
    run_project,
    table,
    verdict,
)
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.shards import read_samples
from orchestrator.steps.cluster import load_matrix
from orchestrator.storage.store import Storage
from workloads.configs.clustering import KMeansConfig
from workloads.labels.kmeans import greedy_plus_plus
from workloads.labels.sample_matrix import sample_matrix
from workloads.seeding import generator

AIMS = {
    "cell": Aim("cell: seconds of plain / project", least=1.5),
    "grid": Aim("grid: seconds of plain / project", least=8),
}

CLASSES = 11
# Of each grid: clusters per class, outlier shares, superpixels (0: none).
GRIDS: dict[str, tuple[list[float], list[float], list[int]]] = {
    "cell": ([1.5], [0.0], [500]),
    "grid": ([1.0, 1.5, 2.0], [0.0, 0.05, 0.1], [0, 200, 500]),
}
Cell = tuple[int, float, int]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--what", nargs="+", choices=GRIDS, default=list(GRIDS), help="default: cell grid")
    parser.add_argument("--network", choices=WEIGHTS, default="voc", help="which weights (default voc)")
    parser.add_argument("--repeats", type=int, default=1, help="turns that both take; the fastest of each counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid-images", type=int, default=64, help="train images of the grid (default 64)")
    parser.add_argument("--grid-val-images", type=int, default=32, help="val images of the grid (default 32)")
    options = parser.parse_args(arguments)
    tables, ratios = [], []
    for what in options.what:
        with tempfile.TemporaryDirectory() as temporary:
            root = options.data / "camvid"
            if what == "grid":
                root = copy_subset(root, Path(temporary), options.grid_images, options.grid_val_images)
            text, ratio = compare(what, root, options.data / WEIGHTS[options.network], Path(temporary), options)
        tables.append(text)
        ratios.append((AIMS[what], ratio))
    print("", *tables, sep="\n")
    return verdict(ratios)


def copy_subset(root: Path, folder: Path, train: int, val: int) -> Path:
    """Every n-th image of train and val, so that all of the drives are there."""
    for pool, count in (("train", train), ("val", val)):
        images = sorted((root / pool).iterdir())
        chosen = [images[index] for index in np.linspace(0, len(images) - 1, count).round().astype(int)]
        for image in chosen:
            annotation = root / f"{pool}annot" / f"{image.stem}.png"
            for file in (image, annotation):
                target = folder / "camvid" / file.parent.name / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
    return folder / "camvid"


def compare(what: str, root: Path, weights: Path, folder: Path, options: argparse.Namespace) -> tuple[str, float]:
    """Both take turns at one grid; a table of every cell's PmIoU, and how many times as long the plain script took."""
    per_class, outliers, superpixels = GRIDS[what]
    ours: list[ProjectRun] = []
    plain: list[tuple[float, dict[Cell, float]]] = []
    for turn in range(options.repeats):
        storage = folder / f"storage-{turn}"
        overrides = [f"dataset.root={root}", f"labels.extractor.weights={weights}", f"seed={options.seed}"]
        grid = {
            "labels.clustering.k_per_class": per_class,
            "labels.outliers": outliers,
            "labels.superpixels": [
                {"method": "slic", "n_segments": number, "compactness": 10} if number else None
                for number in superpixels
            ],
        }
        ours.append(run_project(write_experiment(folder, grid), overrides, storage))
        put({"what": what, "who": "project", "seconds": ours[-1].seconds, "of it start": ours[-1].start_seconds})
        start = folder / "start"
        write_start(ours[-1], storage, options.seed, start)
        plain.append(run_plain(root, weights, sorted({key[0] for key in scores_of(ours[-1])}), start, options, what))
        put({"what": what, "who": "plain", "seconds": plain[-1][0]})
        shutil.rmtree(storage)
    seconds, plain_seconds = min(run.seconds for run in ours), min(run[0] for run in plain)
    scores, plain_scores = scores_of(ours[-1]), plain[-1][1]
    largest = max(abs(scores[cell] - plain_scores[cell]) for cell in scores)
    ratio = plain_seconds / seconds
    put({"what": what, "cells": len(scores), "plain / project": ratio, "largest difference in PmIoU": largest})
    count = f"{len(list((root / 'train').iterdir()))} train, {len(list((root / 'val').iterdir()))} val images"
    rows = [[*cell, f"{scores[cell]:.2f}", f"{plain_scores[cell]:.2f}"] for cell in scores]
    until_work = min(run.start_seconds for run in ours)
    text = (
        f"\n{what}: {len(scores)} cells, {count}: project {seconds:.1f} s (of it {until_work:.1f} s to start), "
        f"plain {plain_seconds:.1f} s, plain / project {ratio:.2f}; PmIoU differs by {largest:.2f} at most\n\n"
        + table(["K", "outliers", "superpixels", "project", "plain"], rows)
    )
    return text, ratio


def write_experiment(folder: Path, grid: dict[str, Any]) -> Path:
    """The experiment file (JSON is YAML)."""
    extractor = {"arch": "mobilenet_v2", "output_stride": 16, "input_size": json.loads(INPUT_SIZE)}
    document = {
        "name": "against-plain",
        "dataset": {"name": "camvid"},
        "labels": {"extractor": extractor},
        "grid": grid,
    }
    path = folder / "experiment.yaml"
    path.write_text(json.dumps(document))
    return path


def write_start(run: ProjectRun, place: Path, seed: int, folder: Path) -> None:
    """The cells of every image that the project sampled, and the centres it started from: one file per K."""
    folder.mkdir(exist_ok=True)
    config = KMeansConfig()
    storage = Storage(str(place))
    for num_clusters, sample in {(cell.metrics.num_clusters or 0, cell.steps["sample"]) for cell in run.cells}:
        with sample_matrix(load_matrix(storage, ("sample", sample), config.max_pixels)) as matrix:
            centres = greedy_plus_plus(matrix, num_clusters, generator(seed, "kmeans-init", 0))
        np.save(folder / f"{num_clusters}.npy", centres)
        manifest = Ledger(storage).manifest("sample", sample)
        assert manifest is not None
        rows = (row for record in manifest.shards for row in read_samples(storage, record.path))
        arrays: dict[str, Any] = {image: cells for image, cells, _ in rows}
        np.savez(folder / "cells.npz", **arrays)


def run_plain(
    root: Path, weights: Path, clusters: list[int], start: Path, options: argparse.Namespace, what: str
) -> tuple[float, dict[Cell, float]]:
    """Wall time of the plain script and its PmIoU by cell."""
    _, outliers, superpixels = GRIDS[what]
    command = [sys.executable, str(Path(__file__).with_name("plain.py")), f"--root={root}", f"--weights={weights}"]
    command += [f"--seed={options.seed}", f"--start={start}"]
    lists: dict[str, list[Any]] = {"clusters": clusters, "outliers": outliers, "superpixels": superpixels}
    for name, values in lists.items():
        command += [f"--{name}", *map(str, values)]
    begun = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode:
        not_measured(f"the plain script ended with code {done.returncode}")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return seconds, {(cell["num_clusters"], cell["outliers"], cell["superpixels"]): cell["pmiou"] for cell in found}


def scores_of(run: ProjectRun) -> dict[Cell, float]:
    """PmIoU by clusters, outlier share and superpixels (0: none)."""
    found = {}
    for cell in run.cells:
        num_clusters, pmiou = cell.metrics.num_clusters, cell.metrics.pmiou
        assert num_clusters is not None and pmiou is not None, "a run without failures has scored every cell"
        superpixels = (cell.values["labels.superpixels"] or {}).get("n_segments", 0)
        found[num_clusters, cell.values["labels.outliers"], superpixels] = pmiou
    return found


if __name__ == "__main__":
    sys.exit(main())
