"""Hands the work of a run to Ray and brings its ends back.

The model: one loop. Each turn gives out what is ready and has room, the longest path to the end first, and takes in
what has ended. Extraction actors, plain tasks, the one clustering actor and trainings run side by side; the room says
what fits where. A training that finds no room has the brief work on its machines come to an end: actors give their
device back between two shards. A step is leased when its first piece finds a slot, so that several runs share a plan;
what others hold is left to them until they are done with it, or dead. Work in flight holds no data in the driver.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import ray
from ray.exceptions import LocalRayletDiedError, RayActorError, RayError, RayTaskError

from orchestrator.cluster import ray_private, session
from orchestrator.cluster.actors import Actor, Actors
from orchestrator.cluster.metrics import RunMetrics
from orchestrator.cluster.room import Claim, Room, Workers
from orchestrator.cluster.sharing import Sharing
from orchestrator.cluster.waiting import Waiting
from orchestrator.cluster.workers import SHARE, Report, start_alone, start_task
from orchestrator.execution.errors import HeadLostError, OwnMachineLostError
from orchestrator.execution.execution import Execution, Task
from orchestrator.execution.progress import Progress
from orchestrator.execution.retries import Cause, Retries
from orchestrator.execution.schedule import Item
from orchestrator.planning.memory import MemoryNeeds
from orchestrator.spec.experiment import Compute
from orchestrator.steps.step import Pool, Step
from orchestrator.storage.store import Storage
from workloads.errors import InputError

if TYPE_CHECKING:
    from orchestrator.cluster.trainings import Trainings

# How often machines, leases and the work of other runs are looked at.
_LOOK_SECONDS = 1.0
# A head that keeps its state elsewhere may come back; Ray waits for a minute and then ends this process.
_HEAD_SECONDS = 20.0
# How long the loop waits for work to end: where trainings run, what they tell waits for no longer.
_TURN_SECONDS = 1.0
_TURN_SECONDS_WHEN_TRAINING = 0.2

_LESS = (
    "less is needed with fewer workers at once (compute.workers), fewer images a pass (labels.extractor.batch_size) or "
    "a smaller sample (labels.clustering.max_pixels)"
)


@dataclass
class _InFlight:
    item: Item[Task]
    steps: tuple[Step, ...]
    actor: Actor | None
    claim: Claim | None
    since: float = field(default_factory=time.monotonic)


@dataclass(kw_only=True)
class Runner:
    """Runs executions on the connected cluster; `trainings` is None where there are none."""

    storage: Storage
    compute: Compute
    progress: Progress
    uses_gpus: bool
    metrics: RunMetrics
    room: Room
    actors: Actors
    sharing: Sharing
    retries: Retries
    trainings: "Trainings | None"
    waiting: Waiting
    memory: MemoryNeeds = field(default_factory=MemoryNeeds)
    peak_bytes: dict[int, int] = field(default_factory=dict)
    _running: dict[Any, _InFlight] = field(default_factory=dict)
    _looked: float = 0.0
    # Work that was ended for memory: it gets a machine to itself.
    _alone: set[str] = field(default_factory=set)
    # The pools that had something ready and no place for it at the last turn.
    _blocked: set[Pool] = field(default_factory=set)

    def run(self, execution: Execution) -> None:
        """Run until every step has ended."""
        while execution.steps:
            self._look_around(execution)
            self._hand_out(execution)
            self._land(execution)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """End all that runs."""
        if isinstance(error, HeadLostError):
            # What is asked of Ray without a head does not come back, and the leases would go unreturned.
            return
        if isinstance(error, KeyboardInterrupt):
            self.progress.note("interrupted: what is done is kept; ending what runs")
        try:
            if self.trainings is not None:
                self.trainings.close()
        finally:
            if session.head_answers():
                self.actors.close()
            self._running.clear()

    def _look_around(self, execution: Execution) -> None:
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        self._await_head()
        if not session.own_machine_is_up():
            # What is in flight waits for machines that Ray will not find any more.
            raise OwnMachineLostError
        self.room.update(session.nodes())
        self.sharing.look(execution)
        self.waiting.look(self._reasons() | self.sharing.reasons(execution))

    def _await_head(self) -> None:
        since = time.monotonic()
        while not session.head_answers():
            if time.monotonic() - since > _HEAD_SECONDS:
                raise HeadLostError
            time.sleep(_LOOK_SECONDS)

    def _reasons(self) -> dict[str, str]:
        """What waits at the moment, and what for."""
        reasons = {}
        now = time.monotonic()
        # Where work of this run is under way, that is what has the room.
        is_idle = not self._running and not (self.trainings is not None and self.trainings.active)
        for pool in self._blocked:
            if is_idle:
                reasons[f"{pool} steps"] = f"nothing runs, and no machine has room; {self.room.free()}"
        for running in self._running.values():
            if self.waiting.is_late(running.item.payload.kind, now - running.since):
                how_long = "much longer than others of its kind"
                reasons[running.item.name] = f"it was handed out and takes {how_long}; {self.room.free()}"
        return reasons | (self.trainings.reasons() if self.trainings is not None else {})

    def _hand_out(self, execution: Execution) -> None:
        schedule = execution.schedule
        self.room.reserved.clear()
        self.actors.end_idle(schedule)
        start: dict[Pool, Callable[[Execution, Item[Task]], bool]] = {
            Pool.TRAIN: self._start_training,
            Pool.CLUSTER: self._start_clustering,
            Pool.EXTRACT: self._start_extraction,
            Pool.PROCESS: self._start_task,
        }
        while start:
            ready = {pool: item for pool in start if (item := schedule.peek(pool)) is not None}
            if not ready:
                break
            pool = max(ready, key=lambda one: ready[one].priority)
            if not self._take_part(execution, ready[pool]):
                continue
            begin = self._start_alone if ready[pool].name in self._alone else start[pool]
            if not begin(execution, ready[pool]):
                del start[pool]
        # What is left was not started: it waits for room.
        self._blocked = {pool for pool in Pool if schedule.ready(pool)}
        self.actors.give_way()
        # Started while the last samples are taken: everything after them waits for the clusters.
        last = self._in_flight(Pool.EXTRACT) and not schedule.ready(Pool.EXTRACT) and not schedule.ready(Pool.TRAIN)
        if last and schedule.unsettled(Pool.CLUSTER):
            self.actors.for_clustering(waits=False)
        if self.trainings is not None and schedule.unsettled(Pool.TRAIN) == self.trainings.active:
            self.trainings.expect_no_more()

    def _take_part(self, execution: Execution, item: Item[Task]) -> bool:
        """Whether an item is worth working for here; one that is not is taken off the schedule."""
        if execution.live_steps(item):
            return True
        self._take(execution, item)
        execution.skip(item)
        return False

    def _take(self, execution: Execution, item: Item[Task]) -> None:
        taken = execution.schedule.take(item.pool)
        assert taken is item, "nothing that is released meanwhile is more urgent than what releases it"

    def _start_training(self, execution: Execution, item: Item[Task]) -> bool:
        assert self.trainings is not None, "a run with training steps has someone to run them"
        workers = Workers(
            self.compute.train_workers,
            self.uses_gpus,
            self.compute.train_cores,
            memory=self.memory.of(Pool.TRAIN),
            insists=not self.trainings.active,
            alone=item.name in self.trainings.alone,
        )
        claim = self.room.place(workers)
        if claim is None:
            self.room.reserve_for(workers)
            return False
        steps = self.sharing.lease(execution, item)
        if not steps:
            self.room.release(claim)
            return True
        self._take(execution, item)
        (step,) = steps
        self.trainings.grant(item, step, claim, self.sharing.leases.fence(step.key))
        return True

    def _start_clustering(self, execution: Execution, item: Item[Task]) -> bool:
        return self._start_on(self.actors.for_clustering(waits=True), execution, item)

    def _start_extraction(self, execution: Execution, item: Item[Task]) -> bool:
        return self._start_on(self.actors.for_extraction(execution.schedule.ready(item.pool)), execution, item)

    def _start_on(self, actor: Actor | None, execution: Execution, item: Item[Task]) -> bool:
        if actor is None:
            return False
        steps = self.sharing.lease(execution, item)
        if steps:
            self._send(execution, item, steps, actor)
        return True

    def _start_task(self, execution: Execution, item: Item[Task]) -> bool:
        # Tasks share cores with the extraction actors beside them; without any of those each has a core to itself.
        apart = self.uses_gpus and self.room.has_plain_machines
        share = SHARE if self.actors.extractors and not apart else 1.0
        # Some wait at each core, so that none idles for a round trip; a training that is ready waits for none of them.
        queue = 0.0 if execution.schedule.ready(Pool.TRAIN) else 1.0
        # As many as there are actors have their memory with these.
        in_flight = self._in_flight(Pool.PROCESS)
        claim = self.room.claim(
            share,
            0.0,
            memory=0.0 if in_flight < len(self.actors.extractors) else self.memory.of(Pool.PROCESS),
            insists=not in_flight,
            off_gpus=self.uses_gpus,
            queue=queue,
        )
        if claim is None and self.trainings is not None and self.trainings.active:
            claim, share = self.room.squeeze(), 0.0
        return self._start_in(claim, execution, item, share=share)

    def _start_alone(self, execution: Execution, item: Item[Task]) -> bool:
        gpus = 1.0 if self.uses_gpus and item.pool in (Pool.EXTRACT, Pool.CLUSTER) else 0.0
        return self._start_in(self.room.claim_whole(gpus), execution, item, gpus=gpus)

    def _start_in(
        self,
        claim: Claim | None,
        execution: Execution,
        item: Item[Task],
        *,
        share: float = SHARE,
        gpus: float | None = None,
    ) -> bool:
        if claim is None:
            return False
        steps = self.sharing.lease(execution, item)
        if steps:
            self._send(execution, item, steps, claim=claim, share=share, gpus=gpus)
        else:
            self.room.release(claim)
        return True

    def _send(
        self,
        execution: Execution,
        item: Item[Task],
        steps: tuple[Step, ...],
        actor: Actor | None = None,
        *,
        claim: Claim | None = None,
        share: float = SHARE,
        gpus: float | None = None,
    ) -> None:
        self._take(execution, item)
        execution.started(steps)
        job = steps[0].job(self.storage, steps, item.payload.shard, self.compute.device)
        if actor is not None:
            actor.load += 1
            # Few names: Ray keeps figures for each of them for as long as the driver lives.
            reference = actor.handle.run.options(name=job.name).remote(job)
        else:
            assert claim is not None, "a task has its place"
            node = None if self.room.has_one_machine else claim.machine.node
            if gpus is None:
                reference = start_task(job, share, node)
            else:
                reference = start_alone(job, claim.machine.cores, gpus, node)
        self._running[reference] = _InFlight(item, steps, actor, claim)

    def _in_flight(self, pool: str) -> int:
        return sum(running.item.pool == pool for running in self._running.values())

    def _land(self, execution: Execution) -> None:
        active = self.trainings is not None and self.trainings.active
        turn = _TURN_SECONDS_WHEN_TRAINING if active else _TURN_SECONDS
        ready: list[Any] = []
        if self._running:
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=turn)
            if ready:
                more, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
                ready = list(dict.fromkeys([*ready, *more]))
        elif execution.steps:
            if not active:
                self.sharing.announce(execution)
            time.sleep(turn if active or execution.elsewhere else _TURN_SECONDS_WHEN_TRAINING)
        for reference in ready:
            self._take_in(execution, reference)
        if self.trainings is not None:
            self.trainings.follow(execution)

    def _take_in(self, execution: Execution, reference: Any) -> None:
        running = self._running.pop(reference)
        if running.actor is not None:
            running.actor.load -= 1
        if running.claim is not None:
            self.room.release(running.claim)
        try:
            report: Report = ray.get(reference)
        except RayTaskError as error:
            self._erred_in_its_work(execution, running, error)
        except RayError as error:
            self._lost_its_worker(execution, running, error)
        else:
            self.peak_bytes[report.process] = max(report.peak_bytes, self.peak_bytes.get(report.process, 0))
            # What was alone may have run in a process of another pool; a peak is of all that the process ever did.
            if running.item.name not in self._alone:
                self.memory.saw(running.steps[0], report.peak_bytes)
            outcome = report.outcome
            execution.completed(running.item, outcome)
            task = running.item.payload
            self.waiting.took(task.kind, time.monotonic() - running.since)
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
        elif self.retries.again(name, Cause.ERROR):
            self.progress.note(f"{name} failed ({type(cause).__name__}: {cause}); trying again")
            execution.schedule.put_back(running.item)
        else:
            execution.fail(running.item, running.steps, f"{type(cause).__name__}: {cause}", user=False)

    def _lost_its_worker(self, execution: Execution, running: _InFlight, error: RayError) -> None:
        if isinstance(error, LocalRayletDiedError):
            raise OwnMachineLostError from None
        name, task = running.item.name, running.item.payload
        shortage = ray_private.memory_shortage(error)
        if running.actor is not None and (isinstance(error, RayActorError) or shortage):
            self.actors.end(running.actor)
        cause = Cause.MEMORY if shortage else Cause.LOST
        if self.retries.again(name, cause):
            self.progress.note(f"lost the worker of {name} ({shortage or type(error).__name__}); it is computed again")
            if shortage:
                self._alone.add(name)
                self.memory.fell_short(running.steps[0].pool)
            execution.schedule.put_back(running.item)
            return
        message = f"lost its worker {self.retries.used(name, cause)} times (compute.lost_worker_retries), the last time"
        message += f" by {error}"
        if shortage:
            message = f"{task} was ended for memory, also with a machine to itself: {shortage}; {_LESS}"
        execution.fail(running.item, running.steps, message, user=False)
