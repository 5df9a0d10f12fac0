"""K-means against faiss and scikit-learn: one run, one matrix, the same first centres, the same number of
iterations.

Prints seconds, the ratio of our time to each of theirs, and the ratio of inertias (below 1: ours is lower). Aim: no
slower than either, at an inertia that is no higher by more than 0.1 %.

    python -m benchmarks.performance.kmeans
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.cluster import KMeans

from benchmarks.measuring import Aim, verdict
from workloads.configs.clustering import KMeansConfig
from workloads.labels.kmeans import fit_kmeans

TIME = Aim("ours / the faster of the others, seconds", most=1.0)
INERTIA = Aim("ours / the lower of the others, inertia", most=1.001)

Fit = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def ours(features: np.ndarray, first: np.ndarray, iterations: int) -> np.ndarray:
    config = KMeansConfig(k=len(first), max_iterations=iterations, tolerance=0)
    return fit_kmeans(features, len(first), config, seed=0, initial_centers=first).points


def scikit_learn(features: np.ndarray, first: np.ndarray, iterations: int) -> np.ndarray:
    model = KMeans(len(first), init=first, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd", copy_x=False)
    return model.fit(features).cluster_centers_


def faiss(features: np.ndarray, first: np.ndarray, iterations: int) -> np.ndarray:
    import faiss as library

    library.omp_set_num_threads(torch.get_num_threads())
    model = library.Kmeans(
        features.shape[1],
        len(first),
        niter=iterations,
        min_points_per_centroid=1,
        max_points_per_centroid=len(features),
    )
    model.train(features, init_centroids=first)
    assert model.centroids is not None
    return np.asarray(model.centroids)


def inertia(features: np.ndarray, centers: np.ndarray) -> float:
    total = 0.0
    for start in range(0, len(features), 8192):
        block = features[start : start + 8192].astype(np.float64)
        squares = (
            (block**2).sum(1)[:, None]
            - 2 * block @ centers.T.astype(np.float64)
            + (centers.astype(np.float64) ** 2).sum(1)
        )
        total += squares.min(1).sum()
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dims", type=int, default=320)
    parser.add_argument("--clusters", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    # Overlapping blobs on the unit sphere: like normalised features, and Lloyd's algorithm is not done after
    # 20 steps.
    blobs = rng.standard_normal((4 * options.clusters, options.dims), dtype=np.float32)
    features = blobs[rng.integers(len(blobs), size=options.rows)]
    features += rng.standard_normal(features.shape, dtype=np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    first = features[rng.choice(options.rows, options.clusters, replace=False)].copy()

    fits: dict[str, Fit] = {"ours": ours, "scikit-learn": scikit_learn, "faiss": faiss}
    seconds: dict[str, list[float]] = {name: [] for name in fits}
    inertias: dict[str, float] = {}
    for _ in range(options.repeats):  # turn by turn, so that a noisy machine is noisy for all
        for name, fit in list(fits.items()):
            started = time.perf_counter()
            try:
                centers = fit(features, first, options.iterations)
            except ImportError:
                print(f"{name:<14} not installed")
                del fits[name]
                continue
            seconds[name].append(time.perf_counter() - started)
            inertias[name] = inertia(features, centers)
    best = {name: min(seconds[name]) for name in fits}
    for name in fits:
        print(
            f"{name:<14} {best[name]:7.2f} s (best of {options.repeats}), inertia {inertias[name]:.1f}; "
            f"ours/this: time {best['ours'] / best[name]:.2f}, "
            f"inertia {inertias['ours'] / inertias[name]:.6f}"
        )
    others = [name for name in fits if name != "ours"]
    return verdict(
        [
            (TIME, best["ours"] / min(best[name] for name in others)),
            (INERTIA, inertias["ours"] / min(inertias[name] for name in others)),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
