"""Jobs: what travels to a worker, and what it does there.

A job is small and picklable, reads what it needs through the ledger, computes, and commits its shard itself; only
records and a few numbers go back. A job that is done twice (its worker died after the commit) finds the record and
returns it. The failures this guards against: features or maps passing through the driver, and work that is lost with
the driver.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from orchestrator.ledger.image_sets import ImageSet, ShardRange
from orchestrator.ledger.inputs import leave_contents
from orchestrator.ledger.outcomes import Outcome
from orchestrator.storage.store import Storage
from workloads.datasets import Dataset, DatasetConfig, open_dataset

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

    def leave_contents(self, storage: Storage) -> None:
        """Leave on the storage what this process has read of the data set; before what was made of it is committed."""
        leave_contents(storage, self.open())


@dataclass(frozen=True)
class ImageSlice:
    """Images start to stop (exclusive) of a listing on the storage; `digest` identifies a shard of them."""

    listing: str
    start: int
    stop: int
    digest: str = ""

    @staticmethod
    def of(images: ImageSet, shard: ShardRange | None = None) -> "ImageSlice":
        """A shard of an image set, or all of it."""
        if shard is None:
            return ImageSlice(images.listing, 0, images.count)
        return ImageSlice(images.listing, shard.start, shard.stop, shard.digest)

    def __str__(self) -> str:
        return f"{self.start}-{self.stop}"


class WorkerCache:
    """What a worker process keeps between jobs: one thing per kind, such as a loaded network or a sample matrix.

    `helpers` is how many threads may decode and vote beside a device; 1: none but the process's own.
    """

    def __init__(self, helpers: int = 1) -> None:
        self.helpers = helpers
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


@lru_cache(maxsize=4)
def _open_dataset(config: DatasetConfig, root: str | None) -> Dataset:
    return open_dataset(config, root)
