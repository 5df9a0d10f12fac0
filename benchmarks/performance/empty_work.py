"""Jobs that do nothing, for what it costs to hand them out.

The model: an empty job carries all that the real one would and returns what it would return; a module of its own, so
that its name and not its code travels with every job.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray import cloudpickle

from orchestrator.ledger.layout import shard_path
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import ShardRecord
from orchestrator.steps.jobs import Job, WorkerCache
from orchestrator.steps.kinds import KINDS
from orchestrator.steps.step import Step
from orchestrator.storage.store import Storage


@dataclass(frozen=True)
class EmptyJob:
    """Travels with all that the real job would carry, and returns what it would return, without the work."""

    job: Job
    name: str
    title: str
    streams: tuple[str, ...]
    keys: tuple[str, ...]
    digest: str
    images: int

    def run(self, cache: WorkerCache) -> Outcome:
        """Nothing."""
        paths = [shard_path(stream, self.digest) for stream in self.streams]
        shards = {stream: empty_record(path, self.images) for stream, path in zip(self.streams, paths, strict=True)}
        return Outcome(shards, results={key: {} for key in self.keys})


def empty_record(path: str, images: int) -> ShardRecord:
    """The record of a shard of so many images that nobody wrote."""
    return ShardRecord.of(path, b"", rows=images, columns=[], images=images)


@contextmanager
def in_place_of_jobs(make: Callable[..., EmptyJob]) -> Iterator[None]:
    """The steps' own jobs are left out: `make` gets what makes the original, and what that would get."""
    originals = {kind: kind.job for kind in KINDS}
    for kind, original in originals.items():
        kind.job = partial(make, original)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for kind, original in originals.items():
            kind.job = original  # type: ignore[method-assign]


class Messages:
    """Makes the jobs empty, and weighs what goes to the workers."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.largest = 0
        self.first = 0.0

    def make(self, original: Any, storage: Storage, steps: tuple[Step, ...], shard: Any, device: str) -> EmptyJob:
        """The job that stands for one of the steps."""
        self.first = self.first or time.perf_counter()
        job = original(storage, steps, shard, device)
        streams = tuple(step.stream for step in steps if step.stream)
        keys = tuple(step.key for step in steps if not step.stream)
        images = shard.stop - shard.start if shard else 0
        empty = EmptyJob(job, job.name, job.title, streams, keys, shard.digest if shard else "", images)
        self.count += 1
        # Weighing costs driver time; one in a hundred tells the mean.
        if self.count % 100 == 1:
            self._weigh(empty)
        return empty

    def _weigh(self, job: EmptyJob) -> None:
        size = len(cloudpickle.dumps(job)) + len(cloudpickle.dumps(job.run(WorkerCache())))
        self.bytes += size
        self.largest = max(self.largest, size)

    @property
    def mean(self) -> float:
        """Bytes of a message and its answer."""
        return self.bytes / (1 + (self.count - 1) // 100)
