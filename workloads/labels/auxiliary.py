"""From features to auxiliary labels: scores, labels at the image's size, outliers, and the superpixel vote.

Per image one pass gives feature maps; each set of clusters turns them into K score maps by one product, from which one
assignment (label and squared distance per pixel) follows; every outlier share and superpixel setting is then a
threshold and a vote over that assignment, about a millisecond each. Order as in Table 1: cluster, drop outliers, vote.

The failures this guards against: labels that depend, in their last bits, on which other cluster sets were computed
beside them (each set has its own product), K maps at the image's full size at once (300 x 1024 x 2048 floats are 2.5
GB; here it is done tile by tile), and an ignore value that is also a class (labels are uint16, 65535 ignores).

Upsampling is bilinear between the centres of cells, where the extractor says that they are; beyond the outer ones it
repeats them. Outliers are cells: their distances are those that the thresholds were taken from, while between two cells
an interpolated distance is larger than at either, and more pixels than asked would be taken out.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from workloads.errors import InputError
from workloads.grid import CellGrid
from workloads.ignored import IGNORE_LABEL
from workloads.labels.cluster_model import ClusterModel

POINTS_CHUNK = 4096  # points per product; part of the definition of the result
TILE = (64, 512)  # rows and columns of pixels; the result does not depend on it


@dataclass(frozen=True, eq=False)
class Scorer:
    """A cluster model on a device, ready to score many images; made by `scorer`.

    Attributes
    ----------
    origin : Tensor of float32, shape (d,)
        The mean of the model's points; distances are taken about it, where float32 loses least.
    points : Tensor of float32, shape (p, d)
        About the origin, sorted by owner.
    constant : Tensor of float32, shape (p, 1)
        The squared length of each.
    segments : tuple[tuple[tuple[int, int, int], ...], ...]
        Per chunk of points, the (cluster, start, end) of each owner's rows in it.
    num_clusters : int
        K.
    """

    origin: Tensor
    points: Tensor
    constant: Tensor
    segments: tuple[tuple[tuple[int, int, int], ...], ...]
    num_clusters: int

    def maps(self, features_DHW: Tensor) -> Tensor:
        """Score maps of one image: see `score_maps`."""
        dims, height, width = features_DHW.shape
        if dims != len(self.origin):
            raise InputError(f"features: {dims} channels, the cluster model was fitted on {len(self.origin)}")
        # One memory layout, whatever the network's was: the product's last bits depend on it.
        cells_ND = features_DHW.detach().permute(1, 2, 0).reshape(height * width, dims).contiguous()
        cells_ND = cells_ND - self.origin
        square_N = cells_ND.square().sum(1)
        scores_KN = torch.full((self.num_clusters, len(cells_ND)), -torch.inf, device=cells_ND.device)
        for number, segments in enumerate(self.segments):
            rows = slice(number * POINTS_CHUNK, (number + 1) * POINTS_CHUNK)
            closeness_PN = torch.addmm(self.constant[rows], self.points[rows], cells_ND.t(), beta=-1, alpha=2)
            if len(segments) == len(closeness_PN) == self.num_clusters:
                scores_KN = closeness_PN
                continue
            for cluster, start, end in segments:
                best = closeness_PN[start:end].amax(0)
                torch.maximum(scores_KN[cluster], best, out=scores_KN[cluster])
        return scores_KN.sub_(square_N).reshape(self.num_clusters, height, width)


def scorer(model: ClusterModel, device: str | torch.device = "cpu") -> Scorer:
    """Bring a cluster model to a device, once for many images."""
    assert (np.diff(model.owner) >= 0).all(), "points are sorted by owner"
    origin = model.points.mean(0, dtype=np.float64).astype(np.float32)
    points = (model.points.astype(np.float64) - origin).astype(np.float32)
    constant = np.square(points.astype(np.float64)).sum(1, keepdims=True).astype(np.float32)
    segments = []
    for first in range(0, len(points), POINTS_CHUNK):
        owner = model.owner[first : first + POINTS_CHUNK]
        starts = np.append(0, np.flatnonzero(np.diff(owner)) + 1)
        ends = np.append(starts[1:], len(owner))
        segments.append(tuple((int(owner[a]), int(a), int(b)) for a, b in zip(starts, ends, strict=True)))
    to = torch.device(device)
    return Scorer(
        torch.from_numpy(origin).to(to),
        torch.from_numpy(points).to(to),
        torch.from_numpy(constant).to(to),
        tuple(segments),
        model.num_clusters,
    )


def score_maps(features_DHW: Tensor, model: ClusterModel) -> Tensor:
    """How near each feature pixel is to each cluster.

    Parameters
    ----------
    features_DHW : Tensor of float32, shape (D, h, w)
        An extractor's features of one image, in any memory layout.
    model : ClusterModel
        Clusters in the same feature space. For many images bring it to the device once: `scorer(model).maps`.

    Returns
    -------
    Tensor of float32, shape (K, h, w)
        Minus the squared distance to the cluster's nearest point.

    Raises
    ------
    InputError
        When D differs from the model's.
    """
    return scorer(model, features_DHW.device).maps(features_DHW)


def _axis(cells: int, position: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each place along an axis of `cells`: the cell before, the cell after, the latter's weight."""
    before = np.minimum(position.astype(np.int64), max(cells - 2, 0))
    after = np.minimum(before + 1, cells - 1)
    weight = (position - before).astype(np.float32)
    return (
        torch.from_numpy(before).to(device),
        torch.from_numpy(after).to(device),
        torch.from_numpy(weight).to(device),
    )


def _between(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Interpolate in `second`, first + (second - first) x weight: three roundings, equal in any vector lane."""
    return second.sub_(first).mul_(weight).add_(first)


def assign(
    scores: Tensor, size: tuple[int, int], grid: CellGrid, tile: tuple[int, int] = TILE
) -> tuple[np.ndarray, np.ndarray]:
    """Upsample score maps bilinearly to the image's size; each pixel takes its best cluster.

    Per tile, clusters are left out that cannot be best anywhere in it: interpolated values lie between those of the
    cells around, so a cluster whose largest is below the smallest of another's is beaten everywhere.

    Parameters
    ----------
    scores : Tensor of float32, shape (K, h, w)
        From `score_maps`.
    size : tuple[int, int]
        (H, W) of the image.
    grid : CellGrid
        Where the cells lie, as the extractor has it.
    tile : tuple[int, int]
        Rows and columns in pixels done at a time; no bit of the result depends on it.

    Returns
    -------
    labels : ndarray of uint16, shape (H, W)
        Ties go to the smaller label.
    distance : ndarray of float32, shape (H, W)
        Interpolated squared distances, at least 0.

    Raises
    ------
    InputError
        When a score is not finite (the features held NaN or infinity).
    """
    if not torch.isfinite(scores).all():
        raise InputError("scores: NaN or infinity among them; the features must be finite")
    height, width = size
    device = scores.device
    above, below, down = _axis(scores.shape[1], grid.places(0, scores.shape[1], height), device)
    left, right, along = _axis(scores.shape[2], grid.places(1, scores.shape[2], width), device)
    # Rounding can push an interpolated value past its cells' by a few units in the last place of the largest.
    margin = 1e-5 * scores.abs().max()
    labels = torch.empty(height, width, dtype=torch.int32, device=device)
    best = torch.empty(height, width, device=device)
    for top, start in product(range(0, height, tile[0]), range(0, width, tile[1])):
        rows, columns = slice(top, top + tile[0]), slice(start, start + tile[1])
        offset = int(above[rows][0])
        first, second, weight = above[rows] - offset, below[rows] - offset, down[rows, None]
        cells = scores[:, offset : int(below[rows][-1]) + 1]
        lines = _between(cells.index_select(2, left[columns]), cells.index_select(2, right[columns]), along[columns])
        floor = lines.amin(1).amax(0) - margin
        contenders = (lines.amax(1) >= floor).any(1).nonzero()[:, 0].tolist()
        tile_best = torch.full((len(first), lines.shape[2]), -torch.inf, device=device)
        tile_labels = torch.zeros(tile_best.shape, dtype=torch.int32, device=device)
        for label in contenders:
            line = lines[label]
            values = _between(line.index_select(0, first), line.index_select(0, second), weight)
            tile_labels.masked_fill_(values > tile_best, label)
            torch.maximum(tile_best, values, out=tile_best)
        best[rows, columns], labels[rows, columns] = tile_best, tile_labels
    return labels.cpu().numpy().astype(np.uint16), best.neg_().clamp_(min=0).cpu().numpy()


def outliers(scores: Tensor, thresholds: np.ndarray, size: tuple[int, int], grid: CellGrid) -> np.ndarray:
    """Which pixels are outliers: those whose nearest cell is farther from its own cluster than its threshold.

    Parameters
    ----------
    scores : Tensor of float32, shape (K, h, w)
        From `score_maps`.
    thresholds : ndarray of float32, shape (K,)
        From `ClusterModel.outlier_thresholds`.
    size : tuple[int, int]
        (H, W) of the image.
    grid : CellGrid
        Where the cells lie.

    Returns
    -------
    ndarray of bool, shape (H, W)
    """
    best, label = (each.cpu().numpy() for each in scores.max(dim=0))
    beyond = -best > thresholds[label]
    rows, columns = (
        np.floor(grid.places(axis, cells, pixels) + 0.5).astype(np.intp)
        for axis, (cells, pixels) in enumerate(zip(beyond.shape, size, strict=True))
    )
    return beyond[rows[:, None], columns]


def vote(labels: np.ndarray, superpixels: np.ndarray, num_clusters: int) -> np.ndarray:
    """Give every superpixel the label that most of its labelled pixels have.

    Parameters
    ----------
    labels : ndarray of uint16, shape (H, W)
        0..num_clusters-1, or 65535 for pixels that have no vote.
    superpixels : ndarray of uint16, shape (H, W)
        Ids 0..n-1.
    num_clusters : int
        Number of labels.

    Returns
    -------
    ndarray of uint16, shape (H, W)
        Ties go to the smaller label, a superpixel without votes is 65535.

    Raises
    ------
    InputError
        When the maps differ in size.
    """
    if labels.shape != superpixels.shape:
        raise InputError(f"superpixels: {superpixels.shape}, the labels are {labels.shape}; one size is needed")
    # Column k counts the pixels without a vote.
    bins = superpixels.astype(np.intp)
    bins *= num_clusters + 1
    bins += np.minimum(labels, np.uint16(num_clusters))
    number = int(superpixels.max()) + 1
    counts = np.bincount(bins.ravel(), minlength=number * (num_clusters + 1)).reshape(number, num_clusters + 1)
    abstained = counts[:, num_clusters].sum()
    assert abstained == np.count_nonzero(labels == IGNORE_LABEL), "a label is neither below num_clusters nor 65535"
    votes = counts[:, :num_clusters]
    winner = votes.argmax(1).astype(np.uint16)
    winner[votes.max(1) == 0] = IGNORE_LABEL
    return winner[superpixels]
