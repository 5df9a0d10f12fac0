"""Which images a step takes, and their batches made ahead of time.

The images of a run are a stream of seeded permutations, one per epoch, cut into batches. The next batches are made
while a step computes: by one thread where the step computes on the processor itself, by several beside a device of its
own. What a batch holds depends on its step alone, so it is the same whoever makes it.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from workloads.ahead import made_ahead
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
    """Batches made by a background thread, a few steps ahead; `close_makers` ends what it has them from."""

    def __init__(
        self,
        make: Callable[[int], Batch],
        steps: range,
        ahead: int,
        close_makers: Callable[[], None] = lambda: None,
    ) -> None:
        self._close_makers = close_makers
        self._queue: queue.Queue[tuple[Batch | None, BaseException | None]] = queue.Queue(maxsize=max(1, ahead))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(make, steps), name="batches", daemon=True)
        self._thread.start()

    def _fill(self, make: Callable[[int], Batch], steps: range) -> None:
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
        self._close_makers()
        self._thread.join(timeout=10)


class LoaderThreads:
    """Batches whose samples are made by several threads, those of the next `ahead` batches at once.

    `make` gives the sample at a place of the batch of a step. Threads and not the processes of torch's `DataLoader`:
    decoding and augmenting leave the interpreter's lock, a forked process hangs on the first read from a bucket, and
    what it notes of the content of files is lost with it.
    """

    def __init__(
        self, make: Callable[[tuple[int, int]], Batch], steps: range, share: int, *, threads: int, ahead: int
    ) -> None:
        self._share = share
        self._pool = ThreadPoolExecutor(threads, "samples", lambda: torch.set_num_threads(1))
        asked = ((step, place) for step in steps for place in range(share))
        self._samples = made_ahead(self._pool, make, asked, ahead * share)

    def next(self) -> Batch:
        """See `Batches.next`."""
        return stacked(list(islice(self._samples, self._share)))

    def close(self) -> None:
        """See `Batches.close`."""
        self._pool.shutdown(cancel_futures=True)
