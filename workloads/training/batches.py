"""Which images a step takes, and their batches made ahead of time.

The images of a run are a stream of seeded permutations, one per epoch, cut into batches. The next batches are made
while a step computes: by a thread where the step computes on the processor itself, by processes of torch's `DataLoader`
beside a device of its own. What a batch holds depends on its step alone, so it is the same whoever makes it.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from workloads.errors import InputError
from workloads.seeding import generator


class Sample(NamedTuple):
    """An image uint8 (H, W, 3) and the map (H, W) that goes with it: labels, superpixels, or None."""

    image: np.ndarray
    labels: np.ndarray | None


def check_labels(image_id: str, sample: Sample, what: str, num_labels: int | None, ignore: int) -> np.ndarray:
    """The map of a sample; refused when it is missing, of another size than the image, or holds other values.

    `what` is the map's name in messages. Values are below `num_labels` (None: any) or `ignore`.
    """
    labels, size = sample.labels, sample.image.shape[:2]
    if labels is None:
        raise InputError(f"{image_id}: no {what}; allowed: one for every image")
    if labels.shape != size:
        raise InputError(f"{image_id}: the image is {size}, its {what} {labels.shape}; allowed: equal")
    if num_labels is None:
        return labels
    wrong = labels[(labels >= num_labels) & (labels != ignore)]
    if wrong.size:
        raise InputError(
            f"{image_id}: label {int(wrong.max())} in the {what}; allowed: 0 to {num_labels - 1}, and {ignore}"
        )
    return labels


class Source(Protocol):
    """The images of a run. `load` is called from background threads and may raise `BrokenImageError`."""

    @property
    def ids(self) -> Sequence[str]:
        """Ids of all images, in an order that is the same everywhere."""

    def load(self, image_id: str) -> Sample:
        """Decode one image and its map."""


class Slot(NamedTuple):
    """One place in a batch: which image, in which epoch, the crop of the batch, and the place in the run's stream."""

    image_id: str
    epoch: int
    crop: tuple[int, int]
    place: int = 0


class Order:
    """Which images a step takes: the stream of one seeded permutation per epoch, cut into batches."""

    def __init__(self, ids: Sequence[str], batch_size: int, seed: int) -> None:
        self.ids = tuple(ids)
        self.batch_size = batch_size
        self.seed = seed
        self._permutation = lru_cache(maxsize=4)(self._draw)

    def _draw(self, epoch: int) -> np.ndarray:
        return generator(self.seed, "order", epoch).permutation(len(self.ids))

    def batch(self, step: int) -> list[tuple[str, int]]:
        """(image id, epoch) of every place of the whole batch."""
        chosen = []
        for place in range(step * self.batch_size, (step + 1) * self.batch_size):
            epoch, position = divmod(place, len(self.ids))
            chosen.append((self.ids[int(self._permutation(epoch)[position])], epoch))
        return chosen


Batch = dict[str, Tensor]


class Batches(Protocol):
    """Batches of consecutive steps; an error in making one is raised at its step."""

    def next(self) -> Batch:
        """The next batch; waits for it."""

    def close(self) -> None:
        """End what makes them; what it prepared is forgotten."""


def stacked(samples: Sequence[Batch]) -> Batch:
    """The batch of some samples, which have no batch dimension."""
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


class Prefetcher:
    """Batches made by a background thread, a few steps ahead."""

    def __init__(self, make: Callable[[int], Batch], steps: range, ahead: int) -> None:
        self._queue: queue.Queue[tuple[Batch | None, BaseException | None]] = queue.Queue(maxsize=max(1, ahead))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(make, steps), name="batches", daemon=True)
        self._thread.start()

    def _fill(self, make: Callable[[int], Any], steps: range) -> None:
        # Each thread has its own team of OpenMP workers. With a second team there are more of these than cores, and
        # those of the training then sleep after every operation instead of waiting for the next.
        torch.set_num_threads(1)
        for step in steps:
            item: tuple[Batch | None, BaseException | None]
            try:
                item = (make(step), None)
            except BaseException as error:  # handed to the thread that waits for the batch
                item = (None, error)
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if self._stop.is_set() or item[1] is not None:
                return

    def next(self) -> Batch:
        """See `Batches.next`."""
        made, error = self._queue.get()
        if error is not None:
            raise error
        assert made is not None
        return made

    def close(self) -> None:
        """See `Batches.close`."""
        self._stop.set()
        self._thread.join(timeout=10)


class LoaderProcesses:
    """Batches made by processes of a `DataLoader`, each a whole batch at a time, `ahead` of them by each process.

    `make` gives the sample at a place of the batch of a step. The processes are forked, since importing torch anew
    takes longer than many a step, and never touch the device.
    """

    def __init__(
        self,
        make: Callable[[int, int], Batch],
        steps: range,
        share: int,
        *,
        processes: int,
        ahead: int,
        pinned: bool,
    ) -> None:
        loader: DataLoader[Any] = DataLoader(
            _Samples(make),
            batch_sampler=_Places(steps, share),
            collate_fn=_stacked_or_error,
            num_workers=processes,
            prefetch_factor=ahead,
            pin_memory=pinned,
            multiprocessing_context="fork",
        )
        self._batches: Any = iter(loader)

    def next(self) -> Batch:
        """See `Batches.next`."""
        made: Batch | BaseException = next(self._batches)
        if isinstance(made, BaseException):
            raise made
        return made

    def close(self) -> None:
        """See `Batches.close`."""
        # A DataLoader has no other way: its processes end when nobody holds its iterator.
        self._batches = None


class _Places:
    """The places of each step's batch, as a sampler of batches gives them."""

    def __init__(self, steps: range, share: int) -> None:
        self._steps, self._share = steps, share

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(step, place) for place in range(self._share)] for step in self._steps)


class _Samples(Dataset[Any]):
    """Samples by (step, place); an error is handed over whole, since a DataLoader would make its type another."""

    def __init__(self, make: Callable[[int, int], Batch]) -> None:
        self._make = make

    def __getitem__(self, place: tuple[int, int]) -> Batch | Exception:
        try:
            return self._make(*place)
        except Exception as error:
            return error


def _stacked_or_error(samples: Sequence[Batch | Exception]) -> Batch | Exception:
    made: list[Batch] = []
    for sample in samples:
        if isinstance(sample, Exception):
            return sample
        made.append(sample)
    return stacked(made)
