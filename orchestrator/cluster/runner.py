"""Hands the jobs of an execution to Ray and brings their ends back.

The model: three pools (extraction actors, plain tasks, one clustering actor), each with a bound on what is in flight;
when nothing of theirs is left to do or under way, the trainings that are ready run as one wave of trials.
A job whose worker or machine was lost goes back to the front of its queue, up to a high budget; one that failed in
its own work is tried again a low number of times; what the user has to mend is not tried again. Work in flight holds
no data in the driver.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import LocalRayletDiedError, RayActorError, RayError, RayTaskError

from orchestrator.cluster import ray_private, session
from orchestrator.cluster.metrics import RunMetrics
from orchestrator.cluster.workers import (
    SHARE,
    Report,
    run_job,
    start_clustering,
    start_extraction,
)
from orchestrator.execution.errors import OwnMachineLostError
from orchestrator.execution.execution import Execution, Task
from orchestrator.execution.progress import Progress
from orchestrator.execution.schedule import Item, Schedule
from orchestrator.planning.capacity import Capacity
from orchestrator.spec.experiment import Compute
from orchestrator.steps.step import Pool, Step
from orchestrator.storage.store import Storage
from workloads.devices import MPS
from workloads.errors import InputError

if TYPE_CHECKING:
    from orchestrator.cluster.trials import Trainings

# One job runs on an actor while the next one waits at its door, so that no actor idles for a round trip.
_QUEUED_PER_ACTOR = 2


# A machine that is full at one moment may have room at the next; one that is too small never has.
_MEMORY_RETRIES = 3
_LESS = (
    "less is needed with fewer workers at once (compute.workers), fewer images a pass (labels.extractor.batch_size) or "
    "a smaller sample (labels.clustering.max_pixels)"
)


@dataclass
class _InFlight:
    item: Item[Task]
    steps: tuple[Step, ...]
    actor: Any


@dataclass
class Runner:
    """Runs one execution after the other on the connected cluster; `trainings` runs their training steps, if any."""

    storage: Storage
    compute: Compute
    progress: Progress
    capacity: Capacity
    uses_gpus: bool
    metrics: RunMetrics
    trainings: "Trainings | None" = None
    peak_bytes: dict[int, int] = field(default_factory=dict)
    retries: Counter[str] = field(default_factory=Counter)
    _running: dict[Any, _InFlight] = field(default_factory=dict)
    _extractors: list[Any] = field(default_factory=list)
    _clusterer: Any = None
    _lost: Counter[str] = field(default_factory=Counter)
    _erred: Counter[str] = field(default_factory=Counter)

    @property
    def cores(self) -> int:
        """Cores that work may be handed out for: those that are up, or that a cluster can grow to when it is asked."""
        return max(session.cores(), int(self.capacity.most_cores) if self.capacity.scales else 0)

    @property
    def _gpus(self) -> float:
        return max(session.gpus(), self.capacity.most_gpus if self.capacity.scales else 0)

    def run(self, execution: Execution) -> None:
        """Run until every item is settled."""
        try:
            while len(execution.schedule) or self._running:
                self._launch(execution)
                if self._running:
                    self._land(execution)
                elif execution.schedule.ready(Pool.TRAIN):
                    # Last of all: the workers of a training start together or not at all, so nothing else may hold
                    # the cores.
                    self.close()
                    assert self.trainings is not None, "a run with training steps has someone to run them"
                    self.trainings.run_wave(execution)
                else:
                    ready = any(execution.schedule.ready(pool) for pool in (Pool.EXTRACT, Pool.PROCESS, Pool.CLUSTER))
                    assert ready or not len(execution.schedule), "items are left that wait for nothing in flight"
        finally:
            self._running.clear()

    def close(self) -> None:
        """End all actors."""
        for actor in [*self._extractors, *([self._clusterer] if self._clusterer else [])]:
            ray.kill(actor)
        self._extractors.clear()
        self._clusterer = None

    def _launch(self, execution: Execution) -> None:
        schedule = execution.schedule
        self._end_idle(schedule)
        workers = self._wanted_extractors(schedule.ready(Pool.EXTRACT))
        while len(self._extractors) < workers:
            self._extractors.append(start_extraction(self.compute.gpus_per_worker if self.uses_gpus else 0))
        for depth in range(_QUEUED_PER_ACTOR):
            for actor in self._extractors:
                if self._load(actor) <= depth and (item := self._next(execution, Pool.EXTRACT)):
                    self._send(execution, item, actor)
        # Tasks share the cores with the extraction actors; without any of those each has a core to itself.
        share = SHARE if self._extractors else 1.0
        room = 2 * self.cores - self._in_flight(Pool.PROCESS)
        while room > 0 and (item := self._next(execution, Pool.PROCESS)):
            self._send(execution, item, None, share)
            room -= 1
        # Started while the last samples are taken: everything after them waits for the clusters.
        last = self._in_flight(Pool.EXTRACT) and not schedule.ready(Pool.EXTRACT)
        soon = schedule.ready(Pool.CLUSTER) or (schedule.unsettled(Pool.CLUSTER) and last)
        if soon and self._clusterer is None:
            self._clusterer = start_clustering(1 if self.uses_gpus else 0, threads=os.cpu_count() or 1)
        if self._clusterer is not None:
            while self._load(self._clusterer) < _QUEUED_PER_ACTOR and (item := self._next(execution, Pool.CLUSTER)):
                self._send(execution, item, self._clusterer)

    def _end_idle(self, schedule: Schedule[Task]) -> None:
        """End the actors of a pool that has nothing left to do: what they hold is what the tasks after them need."""
        # Where GPUs are few, extraction actors that wait for clusters would hold the one that the clusters wait for.
        waiting = (self.uses_gpus and schedule.ready(Pool.CLUSTER)) or schedule.ready(Pool.TRAIN)
        if self._extractors and self._is_idle(schedule, Pool.EXTRACT, waiting):
            for actor in self._extractors:
                ray.kill(actor)
            self._extractors = []
        if self._clusterer is not None and self._is_idle(schedule, Pool.CLUSTER, schedule.ready(Pool.TRAIN)):
            ray.kill(self._clusterer)
            self._clusterer = None

    def _is_idle(self, schedule: Schedule[Task], pool: str, others_waiting: int) -> bool:
        """Whether a pool has nothing left, or nothing now while others wait for what its actors hold."""
        if not schedule.unsettled(pool):
            return True
        return bool(others_waiting) and not schedule.ready(pool) and not self._in_flight(pool)

    def _next(self, execution: Execution, pool: str) -> Item[Task] | None:
        """The next item that still serves a step; those whose steps have all failed are settled on the way."""
        while (item := execution.schedule.take(pool)) is not None:
            if execution.live_steps(item.payload):
                return item
            execution.skip(item)
        return None

    def _wanted_extractors(self, ready: int) -> int:
        """Actors that there is work and room for: one that could not be placed would hold its share of the items."""
        room = int(self._gpus / self.compute.gpus_per_worker) if self.uses_gpus else self.cores
        if self.compute.device == MPS:
            # Ray counts no GPU of Apple's; there is one, and a network on it for each worker.
            room = 1
        limit = max(1, room)
        if self.compute.workers is not None:
            limit = min(limit, self.compute.workers) if self.uses_gpus else self.compute.workers
        return min(limit, len(self._extractors) + ready)

    def _load(self, actor: Any) -> int:
        return sum(running.actor is actor for running in self._running.values())

    def _in_flight(self, pool: str) -> int:
        return sum(running.item.pool == pool for running in self._running.values())

    def _send(self, execution: Execution, item: Item[Task], actor: Any, share: float = SHARE) -> None:
        steps = execution.live_steps(item.payload)
        execution.started(steps)
        job = steps[0].job(self.storage, steps, item.payload.shard, self.compute.device)
        # Few names: Ray keeps figures for each of them for as long as the driver lives.
        if actor is None:
            reference = run_job.options(num_cpus=share, name=job.name).remote(job)
        else:
            reference = actor.run.options(name=job.name).remote(job)
        self._running[reference] = _InFlight(item, steps, actor)

    def _land(self, execution: Execution) -> None:
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=1.0)
        if ready:
            more, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
            ready = list(dict.fromkeys([*ready, *more]))
        elif not session.own_machine_is_up():
            # What is in flight waits for machines that Ray will not find any more.
            raise OwnMachineLostError
        for reference in ready:
            running = self._running.pop(reference)
            try:
                report: Report = ray.get(reference)
            except RayTaskError as error:
                self._erred_in_its_work(execution, running, error)
            except RayError as error:
                self._lost_its_worker(execution, running, error)
            else:
                self.peak_bytes[report.process] = max(report.peak_bytes, self.peak_bytes.get(report.process, 0))
                outcome = report.outcome
                execution.completed(running.item, outcome)
                task = running.item.payload
                self.progress.advance(task.steps[0].title, task.images)
                self.metrics.add("images", task.images, kind=task.kind)
                self.metrics.add("shards", len(outcome.shards), kind=task.kind)
                broken = sum(len(record.quarantined) for record in outcome.shards.values())
                self.metrics.add("quarantined", broken, kind=task.kind)

    def _erred_in_its_work(self, execution: Execution, running: _InFlight, error: RayTaskError) -> None:
        cause = error.cause if isinstance(error.cause, BaseException) else error
        name = running.item.name
        if isinstance(cause, InputError):
            execution.fail(running.item, running.steps, cause, user=True)
            return
        self._erred[name] += 1
        self.retries["error"] += 1
        self.metrics.add("retries", cause="error")
        if self._erred[name] <= self.compute.error_retries:
            self.progress.note(f"{name} failed ({type(cause).__name__}: {cause}); trying again")
            execution.schedule.put_back(running.item)
            return
        execution.fail(running.item, running.steps, f"{type(cause).__name__}: {cause}", user=False)

    def _lost_its_worker(self, execution: Execution, running: _InFlight, error: RayError) -> None:
        if isinstance(error, LocalRayletDiedError):
            raise OwnMachineLostError from None
        name = running.item.name
        shortage = ray_private.memory_shortage(error)
        if isinstance(error, RayActorError) or shortage:
            self._forget(running.actor)
        self._lost[name] += 1
        self.retries["lost"] += 1
        self.metrics.add("retries", cause="lost")
        retries = self.compute.lost_worker_retries
        if self._lost[name] <= (min(retries, _MEMORY_RETRIES) if shortage else retries):
            self.progress.note(f"lost the worker of {name} ({shortage or type(error).__name__}); it is computed again")
            execution.schedule.put_back(running.item)
            return
        if shortage:
            execution.fail(running.item, running.steps, f"{name} was ended for memory: {shortage}; {_LESS}", user=False)
            return
        message = f"lost its worker {self._lost[name]} times (compute.lost_worker_retries), the last time by {error}"
        execution.fail(running.item, running.steps, message, user=False)

    def _forget(self, actor: Any) -> None:
        if actor is self._clusterer:
            self._clusterer = None
        self._extractors = [other for other in self._extractors if other is not actor]
