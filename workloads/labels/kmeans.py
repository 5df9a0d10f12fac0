"""K-means over sampled features: Lloyd's iterations whose result does not depend on threads, restarts or interruptions.

A fit is a sequence of `KMeansState`s; each follows from the one before and the features alone, so a fit taken up again
from a stored state ends in the same bits as one that was never interrupted. Sums are float64 in a fixed order (see
sample_matrix).

Empty clusters: a cluster that lost all its points is moved to the point farthest from its centre (ties to the smaller
index; a point that is all its cluster has stays), which leaves its old cluster; `emptied` counts such moves.

The paper names K-means and K = 1.5 x M (Tables 1 and 2) and nothing else about it; initialisation, stopping rule and
empty-cluster rule are ours, the first two after scikit-learn's.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from workloads.configs.clustering import KMeansConfig
from workloads.errors import InputError
from workloads.labels.cluster_model import ClusterModel
from workloads.labels.sample_matrix import Assignment, SampleMatrix, sample_matrix
from workloads.seeding import generator


@dataclass(frozen=True, eq=False)
class KMeansState:
    """All that a fit needs to go on after an iteration, beside the features.

    Attributes
    ----------
    restart : int
        Which restart, from 0.
    iteration : int
        Iterations done in it.
    centers : ndarray of float32, shape (K, d)
        After them.
    inertia : float
        Sum of squared distances to the centres *before* the last iteration (what that iteration lowered).
    shift : float
        Summed squared shift of the centres in the last iteration.
    emptied : int
        Moves of empty clusters in this restart so far.
    converged : bool
        Whether `shift` met the stopping rule.
    best_restart : int
        The finished restart with the lowest inertia so far, -1 when none has finished.
    best_inertia : float
        Its inertia.
    best_centers : ndarray
        Its centres, (0, d) when none has finished.
    best_iterations, best_emptied, best_converged : int
        Of that restart.
    """

    restart: int
    iteration: int
    centers: np.ndarray
    inertia: float
    shift: float
    emptied: int
    converged: bool
    best_restart: int
    best_inertia: float
    best_centers: np.ndarray
    best_iterations: int = 0
    best_emptied: int = 0
    best_converged: bool = False

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays only; numbers become arrays of one element."""
        return {
            name: value
            if isinstance(value, np.ndarray)
            else np.array([value], np.float64 if isinstance(value, float) else np.int64)
            for name, value in vars(self).items()
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "KMeansState":
        """The inverse of `to_arrays`, bit for bit."""
        return cls(
            restart=int(arrays["restart"][0]),
            iteration=int(arrays["iteration"][0]),
            inertia=float(arrays["inertia"][0]),
            shift=float(arrays["shift"][0]),
            emptied=int(arrays["emptied"][0]),
            best_restart=int(arrays["best_restart"][0]),
            best_inertia=float(arrays["best_inertia"][0]),
            best_iterations=int(arrays["best_iterations"][0]),
            best_emptied=int(arrays["best_emptied"][0]),
            centers=np.asarray(arrays["centers"], np.float32),
            best_centers=np.asarray(arrays["best_centers"], np.float32),
            converged=bool(arrays["converged"][0]),
            best_converged=bool(arrays["best_converged"][0]),
        )


def fit_kmeans(
    features: np.ndarray | Tensor,
    num_clusters: int,
    config: KMeansConfig,
    seed: int,
    device: str | torch.device = "cpu",
    *,
    resume: KMeansState | None = None,
    on_iteration: Callable[[KMeansState], None] | None = None,
    initial_centers: np.ndarray | None = None,
) -> ClusterModel:
    """Fit K-means.

    Parameters
    ----------
    features : ndarray | Tensor of float32, shape (n, d)
        One row per sampled pixel.
    num_clusters : int
        Number of clusters; `config.k` and `config.k_per_class` are the caller's to turn into it.
    config : KMeansConfig
        How to fit. `max_pixels` is the caller's to respect when sampling.
    seed : int
        Of the first centres.
    device : str | torch.device
        Where to compute.
    resume : KMeansState | None
        Go on from this state of the same fit; the result has the same bits as without interruption.
    on_iteration : Callable[[KMeansState], None] | None
        Called with the state after every iteration.
    initial_centers : ndarray of float32, shape (num_clusters, d), or None
        Instead of `config.init`; every restart would be the same, so it takes only one.

    Returns
    -------
    ClusterModel
        The model of the restart with the lowest inertia, ties to the earlier one.

    Raises
    ------
    InputError
        Features that are not a finite float32 matrix; more clusters than (distinct) samples; initial centres or a
        state of another shape.
    """
    shape = (num_clusters, features.shape[-1])
    if initial_centers is not None and initial_centers.shape != shape:
        raise InputError(f"initial_centers: shape {initial_centers.shape}, {shape} is needed")
    if resume is not None and resume.centers.shape != shape:
        raise InputError(f"resume: centres of shape {resume.centers.shape}, this fit has {shape}")
    with sample_matrix(features, device) as matrix:
        require_distinct(matrix, num_clusters)
        fit = _Fit(matrix, num_clusters, config, seed, on_iteration or (lambda state: None), initial_centers)
        return fit.run(resume)


def require_distinct(matrix: SampleMatrix, num_clusters: int) -> None:
    """InputError unless the rows hold at least k distinct samples; looks at no more rows than it takes to know."""
    if num_clusters > matrix.rows:
        raise InputError(
            f"k {num_clusters} is larger than the number of samples {matrix.rows}; allowed: 1 to {matrix.rows}"
        )
    distinct: set[bytes] = set()
    for start in range(0, matrix.rows, 4096):
        block = (matrix.features[start : start + 4096] + 0.0).cpu().numpy()  # + 0.0 turns -0.0 into 0.0
        distinct.update(row.tobytes() for row in block)
        if len(distinct) >= num_clusters:
            return
    raise InputError(
        f"k {num_clusters} is larger than the number of distinct samples {len(distinct)} (of {matrix.rows}); "
        f"allowed: 1 to {len(distinct)}"
    )


@dataclass(frozen=True)
class _Fit:
    """One fit: what does not change over its iterations."""

    matrix: SampleMatrix
    num_clusters: int
    config: KMeansConfig
    seed: int
    on_iteration: Callable[[KMeansState], None]
    initial_centers: np.ndarray | None

    def run(self, resume: KMeansState | None) -> ClusterModel:
        restarts = 1 if self.initial_centers is not None else self.config.num_restarts
        state = resume or self._first(0, None)
        while True:
            state = self._iterate(state)
            index, distance = self.matrix.nearest(self._on_device(state.centers))
            inertia = float(distance.sum(dtype=np.float64))
            if inertia < state.best_inertia:
                state = replace(
                    state,
                    best_restart=state.restart,
                    best_inertia=inertia,
                    best_centers=state.centers,
                    best_iterations=state.iteration,
                    best_emptied=state.emptied,
                    best_converged=state.converged,
                )
            if state.restart + 1 >= restarts:
                break
            state = self._first(state.restart + 1, state)
        if state.best_restart != state.restart:
            index, distance = self.matrix.nearest(self._on_device(state.best_centers))
        return ClusterModel(
            points=state.best_centers,
            owner=np.arange(self.num_clusters, dtype=np.int32),
            num_clusters=self.num_clusters,
            sample_label=index.astype(np.int32),
            sample_distance=distance,
            inertia=state.best_inertia,
            iterations=state.best_iterations,
            converged=state.best_converged,
            emptied=state.best_emptied,
        )

    def _on_device(self, centers: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(centers)).to(self.matrix.device)

    def _first(self, restart: int, before: KMeansState | None) -> KMeansState:
        """The state before the first iteration of a restart."""
        rng = generator(self.seed, "kmeans-init", restart)
        if self.initial_centers is not None:
            centers = np.asarray(self.initial_centers, np.float32)
        elif self.config.init == "random":
            centers = random_centers(self.matrix, self.num_clusters, rng)
        else:
            centers = greedy_plus_plus(self.matrix, self.num_clusters, rng)
        fresh = KMeansState(
            restart=restart,
            iteration=0,
            centers=centers,
            inertia=math.inf,
            shift=math.inf,
            emptied=0,
            converged=False,
            best_restart=-1,
            best_inertia=math.inf,
            best_centers=centers[:0],
        )
        if before is None:
            return fresh
        return replace(fresh, **{name: value for name, value in vars(before).items() if name.startswith("best_")})

    def _iterate(self, state: KMeansState) -> KMeansState:
        limit = self.config.tolerance * self.matrix.mean_variance
        while not state.converged and state.iteration < self.config.max_iterations:
            assignment = self.matrix.assign(self._on_device(state.centers))
            sums, counts, moves = self._fill_empty(state.centers, assignment)
            centers = (sums / counts[:, None]).astype(np.float32)
            shift = float(np.square(centers.astype(np.float64) - state.centers).sum())
            state = replace(
                state,
                iteration=state.iteration + 1,
                centers=centers,
                inertia=assignment.inertia,
                shift=shift,
                emptied=state.emptied + moves,
                converged=shift <= limit,
            )
            self.on_iteration(state)
        return state

    def _fill_empty(self, centers: np.ndarray, assignment: Assignment) -> tuple[np.ndarray, np.ndarray, int]:
        """Sums and counts after every empty cluster took the farthest point that its own cluster can spare."""
        sums, counts = assignment.sums, assignment.counts
        empty = np.flatnonzero(counts == 0)
        if len(empty) == 0:
            return sums, counts, 0
        index, distance = self.matrix.nearest(self._on_device(centers))
        farthest = iter(np.argsort(-distance, kind="stable"))
        for cluster in empty:
            row = next(row for row in farthest if counts[index[row]] > 1)
            point = self.matrix.features[int(row)].double().cpu().numpy()
            sums[index[row]] -= point
            counts[index[row]] -= 1
            sums[cluster], counts[cluster] = point, 1
        return sums, counts, len(empty)


def random_centers(matrix: SampleMatrix, num_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Draw k random rows, no two of them equal: float32 (k, d)."""
    seen: dict[bytes, np.ndarray] = {}
    order = rng.permutation(matrix.rows)
    for start in range(0, matrix.rows, 4096):
        block = matrix.features[torch.from_numpy(order[start : start + 4096]).to(matrix.device)].cpu().numpy()
        for row in block:
            seen.setdefault((row + 0.0).tobytes(), row)
            if len(seen) == num_clusters:
                return np.stack(list(seen.values()))
    raise AssertionError("require_distinct has made sure of enough distinct rows")


def greedy_plus_plus(matrix: SampleMatrix, num_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Greedy k-means++ with 2 + ln k candidates a step: float32 (k, d).

    Each step draws candidates with probability proportional to the squared distance to the nearest centre so far and
    keeps the one that leaves the smallest sum of distances, ties to the candidate drawn first.

    References
    ----------
    Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007.
    """
    trials = 2 + int(math.log(num_clusters))
    closest = torch.full((matrix.rows,), math.inf, device=matrix.device)
    chosen = [int(rng.integers(matrix.rows))]
    after, _ = matrix.nearest_after(closest, matrix.features[chosen])
    closest = after[0]
    while len(chosen) < num_clusters:
        # A chosen row's distance may come out as rounding error; it must not be drawn again.
        closest[chosen] = 0
        cumulative = np.cumsum(closest.cpu().numpy(), dtype=np.float64)
        if cumulative[-1] > 0:
            drawn = np.searchsorted(cumulative, rng.random(trials) * cumulative[-1], side="right")
            candidates = np.minimum(drawn, np.flatnonzero(closest.cpu().numpy())[-1])
        else:  # distinct rows so close that float32 sees no distance between them
            candidates = np.setdiff1d(np.arange(matrix.rows), chosen)[:1]
        after, sums = matrix.nearest_after(closest, matrix.features[torch.from_numpy(candidates).to(matrix.device)])
        best = int(sums.argmin())
        closest = after[best].clone()
        chosen.append(int(candidates[best]))
    return matrix.features[chosen].cpu().numpy()
