"""What all jobs share: where images come from, what a worker keeps between jobs, and what goes back."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from orchestrator.ledger.outcomes import Outcome
from workloads.datasets import Dataset, DatasetConfig, open_dataset
from workloads.errors import InputError

# Maps compress by a factor of ten or more at several GB/s; features are noise to a compressor.
MAP_COMPRESSION = "lz4"

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Source:
    """A pool of a data set, and where the data set lies."""

    config: DatasetConfig
    root: str | None
    pool: str

    def open(self) -> Dataset:
        """The data set; opened once per process."""
        return _open_dataset(self.config, self.root)


@dataclass(frozen=True)
class ImageSlice:
    """Images start to stop (exclusive) of a listing on the storage."""

    listing: str
    start: int
    stop: int


class WorkerCache:
    """What a worker process keeps between jobs: one thing per kind, such as a loaded network or a sample matrix."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, Any]] = {}

    def keep(self, kind: str, name: Any, make: Callable[[], Kept]) -> Kept:
        """The thing of this name, made when another one of its kind (or none) was there."""
        if kind not in self._kept or self._kept[kind][0] != name:
            # The old one goes before the new one comes: two networks or matrices may not fit.
            self._kept.pop(kind, None)
            self._kept[kind] = (name, make())
        kept: Kept = self._kept[kind][1]
        return kept


class Job(Protocol):
    """What is handed to a worker: picklable, and small."""

    @property
    def name(self) -> str:
        """Its kind, as the dashboard groups tasks by it."""

    @property
    def title(self) -> str:
        """Its kind and what it works on, as fault injection names it."""

    def run(self, cache: WorkerCache) -> Outcome:
        """Do the work and commit it, or find it committed."""


def below(place: str, error: InputError) -> InputError:
    """The error with the place in the experiment file of the key that its message begins with."""
    return InputError(f"{place}.{error}")


@lru_cache(maxsize=4)
def _open_dataset(config: DatasetConfig, root: str | None) -> Dataset:
    return open_dataset(config, root)
