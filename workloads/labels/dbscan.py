"""DBSCAN over a small sample of features (Table 1 condition #5), with a choice of eps and labels for all other pixels.

With core distances c(i) (to the min_samples-th nearest sample, itself included) and the mutual reachability max(c(i),
c(j), d(i, j)), DBSCAN's clusters at *any* eps are the connected components of the core samples joined by the edges up
to eps of one minimum spanning tree. So a single pass gives the number of clusters as a function of eps, and choosing
eps costs nothing more. A pixel outside the sample belongs to the cluster of its nearest core sample.

Nothing here is a list of neighbours, which would grow with eps: the memory is 4 n^2 bytes whatever eps is, 1.6 GB for
the 20 000 pixels of the paper's footnote 1.

DBSCAN is [1]_, mutual reachability [2]_; eps, min_samples and what becomes of noise are not in the paper: ours. On
CamVid (MobileNetV2 features, 20 000 pixels, a target of 16) the most even radius of those that give 16 clusters scores
a PmIoU of 17, the largest such radius 4: one cluster holds 97 % of the pixels there.

References
----------
.. [1] Ester, Kriegel, Sander and Xu, "A Density-Based Algorithm for Discovering Clusters in Large Spatial Databases
   with Noise", KDD 1996.
.. [2] Campello, Moulavi and Sander, "Density-Based Clustering Based on Hierarchical Density Estimates", PAKDD 2013.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from workloads.configs.clustering import MAX_CLUSTERS, DbscanConfig
from workloads.errors import InputError
from workloads.formats import counted
from workloads.labels.cluster_model import ClusterModel
from workloads.labels.sample_matrix import SampleMatrix, sample_matrix
from workloads.seeding import generator


@dataclass(frozen=True, eq=False)
class Density:
    """What DBSCAN knows of a sample for every eps at once; all distances squared.

    Attributes
    ----------
    core : ndarray of float32, shape (n,)
        Core distances.
    edges : ndarray of int64, shape (n - 1, 2)
        A minimum spanning tree of the mutual reachability graph.
    weights : ndarray of float32, shape (n - 1,)
        The edges' mutual reachability.
    """

    core: np.ndarray
    edges: np.ndarray
    weights: np.ndarray

    def radii(self) -> tuple[np.ndarray, np.ndarray]:
        """Ascending squared radii at which the number of clusters may change, and that number from there on."""
        radii = np.unique(np.concatenate([self.core, self.weights]))
        cores = np.searchsorted(np.sort(self.core), radii, side="right")
        joins = np.searchsorted(np.sort(self.weights), radii, side="right")
        return radii, cores - joins

    def evenness(self, radii: np.ndarray) -> np.ndarray:
        """Entropy in nats of the core samples' distribution over the clusters at each of the ascending radii.

        At most of the radii that give some number of clusters one of them holds nearly everything; the entropy tells
        those radii from useful ones.
        """
        parent = list(range(len(self.core)))
        size = [0] * len(self.core)

        def root(sample: int) -> int:
            while parent[sample] != sample:
                parent[sample] = parent[parent[sample]]
                sample = parent[sample]
            return sample

        # Samples become core (False) before edges of the same length join them (True).
        events = [(float(radius), False, sample) for sample, radius in enumerate(self.core)]
        events += [(float(radius), True, edge) for edge, radius in enumerate(self.weights)]
        events.sort()
        entropies = np.zeros(len(radii))
        cores, size_log_size, place = 0, 0.0, 0
        for event, (_, joins, index) in enumerate(events):
            if joins:
                first, second = (root(int(sample)) for sample in self.edges[index])
                size_log_size -= size[first] * math.log(size[first]) + size[second] * math.log(size[second])
                parent[second] = first
                size[first] += size[second]
                size_log_size += size[first] * math.log(size[first])
            else:
                size[index] = 1
                cores += 1
            if event + 1 == len(events) or events[event + 1][0] > radii[place]:
                entropies[place] = math.log(cores) - size_log_size / cores
                place += 1
        assert place == len(radii)
        return entropies

    def labels(self, eps_square: float) -> np.ndarray:
        """Cluster of each core sample, numbered by first appearance, -1 for other samples: int64 (n,)."""
        core = self.core <= eps_square
        joined = self.edges[self.weights <= eps_square]
        graph = coo_array((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(len(core), len(core)))
        _, component = connected_components(graph, directed=False)
        labels = np.full(len(core), -1)
        _, first, inverse = np.unique(component[core], return_index=True, return_inverse=True)
        labels[core] = np.argsort(np.argsort(first))[inverse]
        return labels


def density(distances: np.ndarray, min_samples: int) -> Density:
    """Core distances and Prim's minimum spanning tree of squared distances float32 (n, n), left as they are."""
    n = len(distances)
    core = np.empty(n, np.float32)
    for start in range(0, n, 256):
        part = torch.from_numpy(distances[start : start + 256])
        core[start : start + 256] = part.topk(min_samples, largest=False, sorted=True).values[:, -1].numpy()
    reach = np.full(n, np.inf, np.float32)
    source = np.zeros(n, np.int64)
    edges = np.empty((n - 1, 2), np.int64)
    weights = np.empty(n - 1, np.float32)
    in_tree = np.zeros(n, bool)
    current = 0
    for edge in range(n - 1):
        in_tree[current] = True
        candidate = np.maximum(distances[current], core)
        np.maximum(candidate, core[current], out=candidate)
        candidate[in_tree] = np.inf
        nearer = candidate < reach
        source[nearer] = current
        np.minimum(reach, candidate, out=reach)
        reach[current] = np.inf
        current = int(reach.argmin())
        edges[edge], weights[edge] = (source[current], current), reach[current]
    return Density(core, edges, weights)


def choose_eps(dense: Density, config: DbscanConfig, num_clusters: int | None) -> float:
    """The squared radius that `config.eps` stands for."""
    if config.eps == "knee":
        curve = np.sqrt(np.sort(dense.core).astype(np.float64))
        knee = int(np.argmax(np.linspace(curve[0], curve[-1], len(curve)) - curve))
        # Half-way to the next core distance, so that rounding does not decide about the sample at the knee.
        return float(curve[knee : knee + 2].mean() ** 2)
    if config.eps == "target_k":
        assert num_clusters is not None, 'eps "target_k" needs the number to aim at'
        radii, clusters = dense.radii()
        distance = np.where(clusters > 0, np.abs(clusters - num_clusters), np.iinfo(np.int64).max)
        nearest = np.flatnonzero(distance == distance.min())
        best = int(nearest[dense.evenness(radii)[nearest].argmax()])
        # Between two radii nothing changes; the middle keeps clear of rounding at either.
        following = radii[best + 1] if best + 1 < len(radii) else radii[best]
        return (float(radii[best]) + float(following)) / 2
    return float(config.eps) ** 2


def fit_dbscan(
    features: np.ndarray | Tensor,
    config: DbscanConfig,
    seed: int,
    num_clusters: int | None = None,
    device: str | torch.device = "cpu",
) -> ClusterModel:
    """Fit DBSCAN; with more than `max_pixels` rows, on a seeded subset of them.

    Parameters
    ----------
    features : ndarray | Tensor of float32, shape (n, d)
        One row per sampled pixel.
    config : DbscanConfig
        How to fit.
    seed : int
        Of the subset.
    num_clusters : int | None
        The number of clusters to aim at (`config.num_clusters(M)`), needed for eps "target_k" only.
    device : str | torch.device
        Where distances are computed.

    Returns
    -------
    ClusterModel
        A model whose points are the core samples; `sample_label` and `sample_distance` are those of the rows used.

    Raises
    ------
    InputError
        Features that are not a finite float32 matrix; fewer rows than min_samples; no cluster at all.
    """
    rows = np.arange(len(features))
    if len(rows) > config.max_pixels:
        rng = generator(seed, "dbscan-sample")
        rows = np.sort(rng.choice(len(rows), config.max_pixels, replace=False))
        features = features[rows] if isinstance(features, np.ndarray) else features[torch.from_numpy(rows)]
    if len(rows) < max(2, config.min_samples):
        raise InputError(
            f"min_samples {config.min_samples} with {len(rows)} samples; at least as many are needed, and 2"
        )
    with sample_matrix(features, device) as matrix:
        distances = matrix.distances().cpu().numpy()
        dense = density(distances, config.min_samples)
        eps_square = choose_eps(dense, config, num_clusters)
        labels = dense.labels(eps_square)
        found = int(labels.max()) + 1
        eps = math.sqrt(eps_square)
        if not 1 <= found <= MAX_CLUSTERS:
            nearest = math.sqrt(float(dense.core.min()))
            raise InputError(
                f"eps {eps:.6g} with min_samples {config.min_samples} gives {counted(found, 'cluster')}; "
                f"allowed: 1 to {MAX_CLUSTERS} (the first core sample appears at eps {nearest:.6g})"
            )
        return _model(matrix, distances, labels, eps_square, config)


def _model(
    matrix: SampleMatrix, distances: np.ndarray, labels: np.ndarray, eps_square: float, config: DbscanConfig
) -> ClusterModel:
    core = np.flatnonzero(labels >= 0)
    core = core[np.argsort(labels[core], kind="stable")]
    sample_label = np.empty(matrix.rows, np.int32)
    sample_distance = np.empty(matrix.rows, np.float32)
    np.fill_diagonal(distances, np.inf)  # no sample is its own nearest core sample
    for start in range(0, matrix.rows, 1024):
        rows = slice(start, start + 1024)
        to_core = distances[rows][:, core]
        nearest = to_core.argmin(1)
        sample_label[rows] = labels[core[nearest]]
        sample_distance[rows] = np.take_along_axis(to_core, nearest[:, None], 1)[:, 0]
    sample_label[core] = labels[core]
    sample_distance[~np.isfinite(sample_distance)] = 0  # a single core sample in all
    return ClusterModel(
        points=matrix.features[torch.from_numpy(core).to(matrix.device)].cpu().numpy(),
        owner=labels[core].astype(np.int32),
        num_clusters=int(labels.max()) + 1,
        sample_label=sample_label,
        sample_distance=sample_distance,
        inertia=float(sample_distance.sum(dtype=np.float64)),
        iterations=0,
        converged=True,
        emptied=0,
        limit=eps_square if config.noise == "strict" else math.inf,
        eps=math.sqrt(eps_square),
    )
