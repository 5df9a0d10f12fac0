"""Jobs that do nothing, for what it costs to hand them out.

The model: an empty job carries all that the real one would and returns what it would return; a module of its own, so
that its name and not its code travels with every job.
"""

import time
from dataclasses import dataclass
from typing import Any

from ray import cloudpickle

from orchestrator.ledger.layout import attempt_path
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import ShardRecord
from orchestrator.steps.jobs import Job, WorkerCache
from orchestrator.steps.making import make_job
from orchestrator.steps.steps import Step, StepKind
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
        paths = [attempt_path(stream, self.digest) for stream in self.streams]
        return Outcome([empty_record(path, self.images) for path in paths], {key: {} for key in self.keys})


def empty_record(path: str, images: int) -> ShardRecord:
    """The record of a shard of so many images that nobody wrote."""
    return ShardRecord.of(path, b"", rows=images, columns=[], images=images)


class Messages:
    """Makes the jobs empty, and weighs what goes to the workers."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.largest = 0
        self.first = 0.0

    def make(self, storage: Storage, kind: StepKind, steps: tuple[Step, ...], shard: Any, device: str) -> EmptyJob:
        """What `make_job` is to the runner."""
        self.first = self.first or time.perf_counter()
        job = make_job(storage, kind, steps, shard, device)
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
