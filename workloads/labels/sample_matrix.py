"""The matrix of sampled features, resident once and worked through in chunks of a fixed number of rows.

Every pass (moments, distances, sums) is a map over row chunks. A chunk is computed by single-threaded operations on a
copy that fits the cache, and the chunks' results are combined in chunk order in float64. So the result depends on the
data and the chunk size alone: not on the number of threads, not on the alignment of the caller's memory. Nothing larger
than (rows, few) is allocated beside the features themselves.

Distances are taken about the mean of the features (`origin`), where float32 loses least; the features themselves are
never copied or changed for it, because |x - c|^2 = |x - m|^2 + (|c - m|^2 + 2 m.(c - m)) - 2 x.(c - m).
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from workloads.errors import InputError

ROWS_CPU = 2048  # 2.6 MB at 320 dimensions: the fastest of 256..4096 there; part of the definition of the result
ROWS_CUDA = 65536
POINTS_BLOCK = 4096  # points compared with one chunk at a time

Result = TypeVar("Result")


@dataclass(frozen=True)
class Assignment:
    """Each row's nearest centre, and what the next centres are made of.

    Attributes
    ----------
    inertia : float
        Sum of the squared distances, float64.
    sums : ndarray of float64, shape (K, d)
        On the CPU, the sum of each centre's rows.
    counts : ndarray of int64, shape (K,)
        The number of rows of each centre.
    """

    inertia: float
    sums: np.ndarray
    counts: np.ndarray


class SampleMatrix:
    """Features (n, d) float32 on one device, with the passes that clustering needs. Open it with `sample_matrix`."""

    def __init__(self, features: Tensor, pool: ThreadPoolExecutor | None) -> None:
        self.features = features
        self.rows, self.dims = features.shape
        self.device = features.device
        self._pool = pool
        self._scratch = threading.local()
        self._chunk_rows = ROWS_CPU if self.device.type == "cpu" else ROWS_CUDA
        self._measure()

    def _measure(self) -> None:
        """Mean, mean feature variance, and every row's squared distance to the mean; refuses NaN and infinity."""
        total = _sum(self._map(lambda x, _: x.sum(0)))
        if not torch.isfinite(total).all():
            # A sum that overflows counts like infinity: its squares would overflow as well.
            usable = torch.cat(self._map(lambda x, _: torch.isfinite(x.abs().amax(1).square())))
            bad = (~usable).nonzero()[:, 0]
            raise InputError(
                f"features: {len(bad)} of {self.rows} rows hold NaN or infinity, "
                f"the first is row {int(bad[0])}; every value and its square must be finite"
            )
        self.origin = (total / self.rows).float()
        self.row_square = torch.empty(self.rows, device=self.device)

        def squares(x: Tensor, rows: slice) -> Tensor:
            centred = x.sub_(self.origin).square_()
            self.row_square[rows] = centred.sum(1)
            return centred.sum(0)

        self.mean_variance = float(_sum(self._map(squares)).mean()) / self.rows

    def _map(self, function: Callable[[Tensor, slice], Result]) -> list[Result]:
        """Results of function(chunk, rows) in the order of the chunks; the chunk is the function's to spoil."""

        def work(start: int) -> Result:
            rows = slice(start, min(start + self._chunk_rows, self.rows))
            if not hasattr(self._scratch, "chunk"):
                shape = (min(self._chunk_rows, self.rows), self.dims)
                self._scratch.chunk = torch.empty(shape, device=self.device)
            chunk: Tensor = self._scratch.chunk[: rows.stop - rows.start]
            chunk.copy_(self.features[rows])
            return function(chunk, rows)

        starts = range(0, self.rows, self._chunk_rows)
        if self._pool is None:
            return [work(start) for start in starts]
        return list(self._pool.map(work, starts))

    def _targets(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The points about the origin, transposed (d, p), and the constant of each point's distance (p,)."""
        offset = points.double() - self.origin.double()
        constant = offset.square().sum(1) + 2 * offset @ self.origin.double()
        return offset.float().t().contiguous(), constant.float()

    def assign(self, centers: Tensor) -> Assignment:
        """One Lloyd pass: nearest centre of every row (ties to the smaller index), sums and counts.

        Parameters
        ----------
        centers : Tensor of float32, shape (K, d)
        """
        num_clusters = len(centers)
        transposed, constant = self._targets(centers)

        def chunk(x: Tensor, rows: slice) -> tuple[float, Tensor, Tensor]:
            values, labels = torch.addmm(constant, x, transposed, alpha=-2).min(1)
            inertia = float((values + self.row_square[rows]).sum(dtype=torch.float64))
            if self.device.type == "cpu":
                sums = torch.zeros(num_clusters, self.dims).index_add_(0, labels, x)
            else:  # index_add_ on CUDA adds in no fixed order; a product with the one-hot labels does
                one_hot = torch.zeros(len(x), num_clusters, device=self.device).scatter_(1, labels[:, None], 1.0)
                sums = one_hot.t() @ x
            # bincount on CUDA is not deterministic in general, but sums of ones are exact in any order.
            return inertia, sums, torch.bincount(labels, minlength=num_clusters)

        sums = torch.zeros(num_clusters, self.dims, dtype=torch.float64, device=self.device)
        counts = torch.zeros(num_clusters, dtype=torch.int64, device=self.device)
        inertia = 0.0
        for part_inertia, part_sums, part_counts in self._map(chunk):
            inertia += part_inertia
            sums += part_sums
            counts += part_counts
        return Assignment(inertia, sums.cpu().numpy(), counts.cpu().numpy())

    def nearest(self, points: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The nearest point of every row, ties to the smaller index.

        Parameters
        ----------
        points : Tensor of float32, shape (p, d)

        Returns
        -------
        index : ndarray of int64, shape (n,)
        distance : ndarray of float32, shape (n,)
            Squared, and taken from the difference itself.
        """
        blocks = [
            (start, *self._targets(points[start : start + POINTS_BLOCK]))
            for start in range(0, len(points), POINTS_BLOCK)
        ]

        def chunk(x: Tensor, _: slice) -> tuple[Tensor, Tensor]:
            best, index = torch.addmm(blocks[0][2], x, blocks[0][1], alpha=-2).min(1)
            for start, transposed, constant in blocks[1:]:
                values, labels = torch.addmm(constant, x, transposed, alpha=-2).min(1)
                index = torch.where(values < best, labels + start, index)
                best = torch.minimum(values, best)
            return index, x.sub_(points[index]).square_().sum(1)

        parts = self._map(chunk)
        index = torch.cat([part[0] for part in parts])
        distance = torch.cat([part[1] for part in parts])
        return index.cpu().numpy(), distance.cpu().numpy()

    def nearest_after(self, closest: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """What adding each candidate to a set of centres would make of the rows' distances (for k-means++).

        Parameters
        ----------
        closest : Tensor of float32, shape (n,)
            Squared distance to the nearest centre so far (+inf when there is none).
        candidates : Tensor of float32, shape (t, d)

        Returns
        -------
        distances : Tensor of float32, shape (t, n)
            Squared, to the nearest centre with candidate t.
        sums : Tensor of float64, shape (t,)
            Over the rows.
        """
        transposed, constant = self._targets(candidates)
        offset, constant = transposed.t().contiguous(), constant[:, None]
        after = torch.empty(len(candidates), self.rows, device=self.device)

        def chunk(x: Tensor, rows: slice) -> Tensor:
            distance = torch.addmm(constant, offset, x.t(), alpha=-2).add_(self.row_square[rows]).clamp_(min=0)
            after[:, rows] = torch.minimum(distance, closest[rows], out=distance)
            return distance.sum(1, dtype=torch.float64)

        return after, _sum(self._map(chunk))

    def distances(self) -> Tensor:
        """Squared distances between all rows, float32 (n, n): 4 n^2 bytes, 1.6 GB for 20 000 rows."""
        out = torch.empty(self.rows, self.rows, device=self.device)
        transposed, constant = self._targets(self.features)

        def chunk(x: Tensor, rows: slice) -> None:
            part = torch.addmm(constant, x, transposed, alpha=-2, out=out[rows])
            part.add_(self.row_square[rows, None]).clamp_(min=0)

        self._map(chunk)
        out.fill_diagonal_(0)
        return out


def _sum(parts: list[Tensor]) -> Tensor:
    """The parts added in their order, in float64."""
    total = torch.zeros_like(parts[0], dtype=torch.float64)
    for part in parts:
        total += part
    return total


@contextmanager
def sample_matrix(features: np.ndarray | Tensor, device: str | torch.device = "cpu") -> Iterator[SampleMatrix]:
    """A `SampleMatrix` over the features for the length of a `with` block.

    On the CPU as many chunks are in flight as torch has threads (`torch.set_num_threads`); each is computed by one.

    Parameters
    ----------
    features : ndarray | Tensor of float32, shape (n, d)
        Array or tensor; not copied when it is contiguous and on the device already.
    device : str | torch.device
        Where to compute.

    Raises
    ------
    InputError
        When the features are not a non-empty float32 matrix of finite values.
    """
    if isinstance(features, np.ndarray):
        with warnings.catch_warnings():  # Arrow hands out read-only memory, and nothing here writes to the features
            warnings.filterwarnings("ignore", message=".*not writable.*")
            features = torch.from_numpy(features)
    if features.ndim != 2 or 0 in features.shape or features.dtype != torch.float32:
        raise InputError(
            f"features: shape {tuple(features.shape)}, {features.dtype}; a non-empty float32 (n, d) matrix is needed"
        )
    features = features.detach().to(device).contiguous()
    threads = torch.get_num_threads()
    if features.device.type != "cpu" or threads == 1:
        yield SampleMatrix(features, None)
        return
    with ThreadPoolExecutor(threads) as pool:
        all_started = threading.Barrier(threads + 1)

        def start_single_threaded() -> None:
            torch.set_num_threads(1)
            all_started.wait()

        for _ in range(threads):
            pool.submit(start_single_threaded)
        all_started.wait()
        # In a worker the call also lowered the default of threads yet to come; this restores it.
        torch.set_num_threads(threads)
        yield SampleMatrix(features, pool)
