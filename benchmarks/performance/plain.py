"""The same job in one plain process: scikit-learn, scikit-image, SciPy and torchvision, no line of this project.

It labels a folder in CamVid's layout (train to cluster and to label, val to score) and prints PmIoU and wall time as
JSON. Written as one would write it for one experiment: every cell is computed from scratch. It is what the project is
measured against, so it is kept fast: channels-last, all cores for torch, scikit-learn and BLAS.

    python -m benchmarks.performance.plain --root CamVid --weights mobilenet_v2.pth --clusters 11 16 22
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from scipy.optimize import linear_sum_assignment
from skimage.segmentation import slic
from sklearn.cluster import KMeans
from torch import nn
from torch.nn import functional as F

CLASSES = 11
UNLABELLED = 11
SIZE = (353, 481)
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
IGNORE = 65535
# The fastest of 1, 2 and 4 on a CPU of two cores.
BATCH = 1


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    network = load_network(options.weights)
    train = sorted((options.root / "train").iterdir())[: options.images]
    val = sorted((options.root / "val").iterdir())[: options.val_images]
    cells = []
    for num_clusters in options.clusters:
        for share in options.outliers:
            for segments in options.superpixels:
                begun = time.perf_counter()
                pmiou = run_cell(
                    network,
                    train,
                    val,
                    num_clusters=num_clusters,
                    share=share,
                    segments=segments,
                    options=options,
                )
                cell = {
                    "num_clusters": num_clusters,
                    "outliers": share,
                    "superpixels": segments,
                    "pmiou": round(pmiou, 3),
                }
                cells.append(cell | {"seconds": round(time.perf_counter() - begun, 2)})
                print(json.dumps(cells[-1]), flush=True)
    return 0


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="holds train, val and valannot")
    parser.add_argument("--weights", type=Path, required=True, help="a MobileNetV2 in torchvision's names")
    parser.add_argument("--images", type=int, default=None, help="train images (default all)")
    parser.add_argument("--val-images", type=int, default=None, help="val images (default all)")
    parser.add_argument("--pixels", type=int, default=200, help="feature pixels sampled of an image")
    parser.add_argument("--clusters", type=int, nargs="+", default=[16], help="cells: numbers of clusters")
    parser.add_argument("--outliers", type=float, nargs="+", default=[0.0], help="cells: outlier shares")
    parser.add_argument("--superpixels", type=int, nargs="+", default=[500], help="cells: SLIC segments, 0 for none")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and the first centres")
    parser.add_argument("--start", type=Path, help="a folder with cells.npz (by image) and K.npy: what to start from")
    return parser.parse_args(arguments)


def run_cell(
    network: nn.Module,
    train: list[Path],
    val: list[Path],
    *,
    num_clusters: int,
    share: float,
    segments: int,
    options: argparse.Namespace,
) -> float:
    random = np.random.default_rng(options.seed)
    sample = []
    given = np.load(options.start / "cells.npz") if options.start else None
    for features, path in extract(network, train):
        flat = features.reshape(features.shape[0], -1).T
        cells = given[path.stem] if given else random.permutation(len(flat))[: options.pixels]
        sample.append(flat[cells])
    matrix = np.concatenate(sample)
    initial = np.load(options.start / f"{num_clusters}.npy") if options.start else "k-means++"
    model = KMeans(num_clusters, init=initial, n_init=1, max_iter=100, tol=1e-4, random_state=options.seed).fit(matrix)
    distance = np.square(matrix - model.cluster_centers_[model.labels_]).sum(1)
    thresholds = np.full(num_clusters, np.inf)
    for cluster in range(num_clusters):
        own = np.sort(distance[model.labels_ == cluster])
        dropped = int(share * len(own))
        if dropped:
            thresholds[cluster] = own[-dropped - 1]
    for features, path in extract(network, train):
        label_image(features, path, model.cluster_centers_, thresholds, segments)  # as a user would keep them
    confusion = np.zeros((num_clusters, CLASSES), dtype=np.int64)
    truth_count = np.zeros(CLASSES, dtype=np.int64)
    label_count = np.zeros(num_clusters, dtype=np.int64)
    for features, path in extract(network, val):
        labels, former = label_image(features, path, model.cluster_centers_, thresholds, segments)
        truth = np.array(Image.open(path.parents[1] / "valannot" / f"{path.stem}.png"))
        valid = truth != UNLABELLED
        truth_count += np.bincount(truth[valid], minlength=CLASSES)
        # A pixel taken out as an outlier is right for no class, but still part of the label it had: no removal can
        # raise an IoU.
        counted = np.where(labels == IGNORE, former, labels)
        label_count += np.bincount(counted[valid], minlength=num_clusters)
        valid &= labels != IGNORE
        pairs = labels[valid].astype(np.int64) * CLASSES + truth[valid]
        confusion += np.bincount(pairs, minlength=num_clusters * CLASSES).reshape(num_clusters, CLASSES)
    iou = confusion / np.maximum(label_count[:, None] + truth_count[None] - confusion, 1)
    rows, columns = linear_sum_assignment(iou, maximize=True)
    return 100 * iou[rows, columns].sum() / CLASSES


def load_network(path: Path) -> torch.nn.Module:
    """MobileNetV2 up to features.17 at output stride 16."""
    network = torchvision.models.mobilenet_v2(weights=None).features[:18]
    state = torch.load(path, weights_only=True)
    own = {name.removeprefix("features."): tensor.float() for name, tensor in state.items() if name[:9] == "features."}
    network.load_state_dict({name: own[name] for name in network.state_dict() if name in own}, strict=False)
    network[14].conv[1][0].stride = (1, 1)
    for block in network[15:]:
        block.conv[1][0].dilation = block.conv[1][0].padding = (2, 2)
    return network.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def extract(network: nn.Module, paths: list[Path]) -> Iterator[tuple[np.ndarray, Path]]:
    """Features (320, 23, 31), L2-normalised, and the path of every image."""
    for first in range(0, len(paths), BATCH):
        group = paths[first : first + BATCH]
        images = torch.stack([torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path in group])
        pictures = images.permute(0, 3, 1, 2).float() / 255
        pictures = F.interpolate(pictures, SIZE, mode="bilinear", antialias=True)
        pictures = ((pictures - MEAN) / STD).contiguous(memory_format=torch.channels_last)
        for features, path in zip(F.normalize(network(pictures), dim=1), group, strict=True):
            yield features.numpy(), path


def label_image(
    features: np.ndarray, path: Path, centres: np.ndarray, thresholds: np.ndarray, segments: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (H, W), IGNORE where outliers were taken out, and the labels there would be without taking any out."""
    image = np.array(Image.open(path).convert("RGB"))
    flat = torch.from_numpy(features).reshape(features.shape[0], -1)
    weights = torch.from_numpy(centres.astype(np.float32))
    distance = flat.square().sum(0) - 2 * weights @ flat + weights.square().sum(1)[:, None]
    maps = F.interpolate(
        distance.reshape(1, len(centres), *features.shape[1:]), image.shape[:2], mode="bilinear", align_corners=True
    )[0]
    nearest, labels = (tensor.numpy() for tensor in maps.min(0))
    outlier = nearest > thresholds[labels]
    if not segments:
        return np.where(outlier, IGNORE, labels), labels
    superpixels = slic(image, n_segments=segments, compactness=10, start_label=0)
    voted = vote(superpixels, labels, ~outlier, len(centres))
    return voted, vote(superpixels, labels, np.ones_like(outlier), len(centres)) if outlier.any() else voted


def vote(superpixels: np.ndarray, labels: np.ndarray, valid: np.ndarray, num_clusters: int) -> np.ndarray:
    count = superpixels.max() + 1
    votes = np.bincount(superpixels[valid] * num_clusters + labels[valid], minlength=count * num_clusters)
    votes = votes.reshape(count, num_clusters)
    return np.where(votes.sum(1) > 0, votes.argmax(1), IGNORE)[superpixels]


if __name__ == "__main__":
    sys.exit(main())
