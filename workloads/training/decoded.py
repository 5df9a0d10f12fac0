"""A cache of decoded images on the disk of the machine that trains: an epoch decodes the same files as the one before.

The model: pixels lie one after the other in a file that has no name, so that nothing is left of it however the process
ends, and are read through the page cache. Images come as they are until the file is as large as it may be, or the disk
nearly full; those beyond are decoded each time. What is read is what was decoded, so a training is the same with it and
without. The failure this guards against: a cache, which only saves time, that ends the training.
"""

import logging
import os
import tempfile
import threading
from collections.abc import Sequence
from typing import IO, NamedTuple

import numpy as np

from workloads.training.batches import Sample, Source

logger = logging.getLogger(__name__)

_GIGABYTE = 10**9
# Share of the disk that is left to states and logs, and to whoever else trains there.
_LEFT_FREE = 0.05


class _Place(NamedTuple):
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


class DecodedCache:
    """The file, shared by the sources of a training; it holds at most `gigabytes`."""

    def __init__(self, gigabytes: float) -> None:
        self._most = int(gigabytes * _GIGABYTE)
        self._lock = threading.Lock()
        self._end = 0
        # Of no length and open for as long as this is.
        self._file: IO[bytes] | None = None
        try:
            self._file = tempfile.TemporaryFile(prefix="lookbeyond-decoded-")  # noqa: SIM115
        except OSError as error:
            self._give_up(error)

    def of(self, source: Source) -> "DecodedSource":
        """The same images, each decoded once as long as there is room."""
        return DecodedSource(source, self)

    def put(self, *arrays: np.ndarray) -> tuple[_Place, ...] | None:
        """Keep some arrays; None if there is no room for all of them."""
        size = sum(array.nbytes for array in arrays)
        if self._file is None or not size:
            return None
        file = self._file.fileno()
        disk = os.fstatvfs(file)
        if disk.f_frsize * (disk.f_bavail - _LEFT_FREE * disk.f_blocks) < size:
            return None
        with self._lock:
            offset = self._end
            if offset + size > self._most:
                return None
            self._end += size
        places = []
        for array in arrays:
            places.append(_Place(offset, array.shape, array.dtype))
            data = np.ascontiguousarray(array).data.cast("B")
            try:
                while data:
                    written = os.pwrite(file, data, offset)
                    data, offset = data[written:], offset + written
            except OSError as error:
                self._give_up(error)
                return None
        return tuple(places)

    def _give_up(self, error: OSError) -> None:
        with self._lock:
            if self._most:
                logger.warning("no more decoded images are kept (compute.decoded_cache_gb): %s", error.strerror)
            self._most = 0

    def get(self, place: _Place) -> np.ndarray:
        """An array that was kept, read-only and mapped into memory."""
        assert self._file is not None
        return np.memmap(self._file, place.dtype, "r", place.offset, place.shape)


class DecodedSource:
    """A source whose images and maps are kept; see `workloads.training.batches.Source`."""

    def __init__(self, source: Source, cache: DecodedCache) -> None:
        self._source, self._cache = source, cache
        self._kept: dict[str, tuple[_Place, ...]] = {}

    @property
    def ids(self) -> Sequence[str]:
        """Ids of all images."""
        return self._source.ids

    def load(self, image_id: str) -> Sample:
        """The image and its map, from the cache where they are kept."""
        if image_id in self._kept:
            image, *labels = map(self._cache.get, self._kept[image_id])
            return Sample(image, labels[0] if labels else None)
        sample = self._source.load(image_id)
        places = self._cache.put(*(array for array in sample if array is not None))
        if places is not None:
            self._kept[image_id] = places
        return sample
