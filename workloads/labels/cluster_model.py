"""The result of a clustering fit: points in feature space, each owned by a cluster, and the sample they were fitted on.

K-means gives one point (the centre) per cluster, DBSCAN one point per core sample; a pixel belongs to the cluster that
owns the point nearest to it. Labelling code therefore never asks which algorithm made the model. Outlier thresholds are
measured as the distances are that they are later compared with.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from workloads.errors import InputError


@dataclass(frozen=True, eq=False)
class ClusterModel:
    """Clusters in feature space.

    Attributes
    ----------
    points : ndarray of float32, shape (p, d)
        Centres (K-means, p = K) or core samples (DBSCAN), sorted by owner.
    owner : ndarray of int32, shape (p,)
        The cluster of each point, 0..K-1.
    num_clusters : int
        K.
    sample_label : ndarray of int32, shape (n,)
        The cluster of each fitted sample pixel.
    sample_distance : ndarray of float32, shape (n,)
        Squared distance to the own centre (K-means) or to the nearest *other* core sample (DBSCAN; to itself it would
        always be 0 and say nothing about how far pixels lie from cores).
    inertia : float
        Sum of `sample_distance`.
    iterations : int
        How many iterations the fit took (0 for DBSCAN).
    converged : bool
        Whether the stopping rule was met before the iteration limit.
    emptied : int
        How often a cluster lost all its points and was moved.
    limit : float
        Squared distance beyond which a pixel belongs to no cluster (DBSCAN with noise "strict": eps squared).
    eps : float
        DBSCAN's radius that was used; 0 for K-means.
    """

    points: np.ndarray
    owner: np.ndarray
    num_clusters: int
    sample_label: np.ndarray
    sample_distance: np.ndarray
    inertia: float
    iterations: int
    converged: bool
    emptied: int
    limit: float = float("inf")
    eps: float = 0.0

    def outlier_thresholds(self, share: float) -> np.ndarray:
        """Squared distances beyond which a pixel of each cluster is an outlier.

        Per cluster the floor(share x n_c) farthest of its n_c sample pixels are dropped; the threshold is the distance
        of the farthest one kept. Where nothing is dropped the threshold is `limit`: +inf, or eps squared with strict
        noise (samples beyond `limit` are noise already and are not counted in n_c). Position and scope of outlier
        removal are not in the paper: ours.

        Parameters
        ----------
        share : float
            Share of the pixels to drop, 0 <= share < 1 (Table 4: 0, 0.05, 0.10).

        Returns
        -------
        ndarray of float32, shape (K,)
            A pixel is an outlier when its distance is *greater* than its cluster's threshold.

        Raises
        ------
        InputError
            When share is outside [0, 1).
        """
        if not 0 <= share < 1:
            raise InputError(f"outliers {share} is not a share; allowed: 0 <= outliers < 1")
        thresholds = np.full(self.num_clusters, self.limit, np.float32)
        inside = self.sample_distance <= self.limit
        labels, distances = self.sample_label[inside], self.sample_distance[inside]
        by_cluster = np.lexsort((distances, labels))
        ends = np.cumsum(np.bincount(labels, minlength=self.num_clusters))
        for cluster, (start, end) in enumerate(zip(np.append(0, ends[:-1]), ends, strict=True)):
            # The tiny addend keeps 0.29 x 100 = 28.999999999999996 from losing one.
            dropped = int(np.floor(share * (end - start) + 1e-9))
            if dropped:
                thresholds[cluster] = distances[by_cluster[end - dropped - 1]]
        return thresholds

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays only, for storage without pickles; scalars become arrays of one element."""
        return {
            "points": self.points,
            "owner": self.owner,
            "num_clusters": np.array([self.num_clusters], np.int64),
            "sample_label": self.sample_label,
            "sample_distance": self.sample_distance,
            "inertia": np.array([self.inertia], np.float64),
            "iterations": np.array([self.iterations], np.int64),
            "converged": np.array([self.converged], np.int64),
            "emptied": np.array([self.emptied], np.int64),
            "limit": np.array([self.limit], np.float64),
            "eps": np.array([self.eps], np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "ClusterModel":
        """The inverse of `to_arrays`, bit for bit."""
        return cls(
            points=np.asarray(arrays["points"], np.float32),
            owner=np.asarray(arrays["owner"], np.int32),
            num_clusters=int(arrays["num_clusters"][0]),
            sample_label=np.asarray(arrays["sample_label"], np.int32),
            sample_distance=np.asarray(arrays["sample_distance"], np.float32),
            inertia=float(arrays["inertia"][0]),
            iterations=int(arrays["iterations"][0]),
            converged=bool(arrays["converged"][0]),
            emptied=int(arrays["emptied"][0]),
            limit=float(arrays["limit"][0]),
            eps=float(arrays["eps"][0]),
        )
