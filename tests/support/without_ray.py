"""Runs the steps of a plan in this process, one item after the other, as a cluster would in any order."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.execution.execution import Execution, Task
from orchestrator.ledger.image_sets import ShardRange
from orchestrator.ledger.layout import shard_path
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import Quarantined, ShardRecord
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.steps.jobs import WorkerCache
from orchestrator.steps.step import Pool, ShardedStep, Stage, Step
from orchestrator.storage.store import Storage
from workloads.errors import InputError

Perform = Callable[[Task, tuple[Step, ...]], Outcome]


@dataclass
class Ended:
    """How an execution ended: the items that were run, the steps in the order of their ends."""

    plan: Plan
    execution: Execution
    tasks: list[Task] = field(default_factory=list)
    finished: list[Step] = field(default_factory=list)
    failed: list[Step] = field(default_factory=list)

    def kinds(self) -> dict[str, int]:
        """How many items of each kind were run."""
        counts: dict[str, int] = {}
        for task in self.tasks:
            counts[task.kind] = counts.get(task.kind, 0) + 1
        return counts


def execute(plan: Plan, storage: Storage, perform: Perform, *, groups: int = 2) -> Ended:
    """Run the pending steps of a plan with a worker; an exception of the worker is its item's failure."""
    ended: Ended

    def on_step(step: Step, manifest: Manifest | None) -> None:
        (ended.failed if manifest is None else ended.finished).append(step)

    execution = Execution(Ledger(storage), plan.compute, plan.done, on_step)
    ended = Ended(plan, execution)
    execution.begin(plan.pending, groups)
    ended.tasks = drive(execution, perform)
    return ended


def drive(execution: Execution, perform: Perform) -> list[Task]:
    """Run every item of an execution that has begun; returns those that were worth running."""
    tasks = []
    while len(execution.schedule):
        items = [
            item
            for pool in (Pool.PROCESS, Pool.CLUSTER, Pool.EXTRACT, Pool.TRAIN)
            if (item := execution.schedule.take(pool))
        ]
        assert items, "items are left, and none of them may start"
        for item in items:
            steps = execution.live_steps(item)
            if not steps:
                execution.skip(item)
                continue
            execution.started(steps)
            tasks.append(item.payload)
            try:
                outcome = perform(item.payload, steps)
            except Exception as error:
                execution.fail(item, steps, error, user=isinstance(error, InputError))
            else:
                execution.completed(item, outcome)
    return tasks


def run(document: dict[str, Any], storage: Storage, until: Stage = "finetune", helpers: int = 1) -> Ended:
    """Run an experiment for real, without Ray."""
    plan = make_plan(document, storage, write_listings=True, until=until)
    cache = WorkerCache(helpers)

    def perform(task: Task, steps: tuple[Step, ...]) -> Outcome:
        return steps[0].job(storage, steps, task.shard, "cpu").run(cache)

    return execute(plan, storage, perform, groups=1)


class FakeWorker:
    """Does no work: commits empty shards, and fails or quarantines images where it is told to."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.fail_when: Callable[[Task], Exception | None] = lambda task: None
        self.broken: Callable[[Step, int], bool] = lambda step, number: False

    def __call__(self, task: Task, steps: tuple[Step, ...]) -> Outcome:
        error = self.fail_when(task)
        if error is not None:
            raise error
        if task.shard is None:
            results = {step.key: {"num_clusters": 3, "pmiou": 50.0} for step in steps}
            if steps[0].pool is Pool.PROCESS:
                return Outcome(results=results)
            return Outcome(files={"clusters": self._record(steps[0], "models/model.arrow", 0, 0)}, results=results)
        return Outcome({step.stream: self._shard(step, task.shard) for step in steps})

    def _shard(self, step: Step, shard: ShardRange) -> ShardRecord:
        assert isinstance(step, ShardedStep)
        path = shard_path(step.stream, shard.digest)
        record = self._record(step, path, shard.start, shard.stop)
        return Ledger(self.storage).commit_shard(step.stream, shard.digest, record)

    def _record(self, step: Step, path: str, start: int, stop: int) -> ShardRecord:
        self.storage.replace(path, b"shard")
        broken = [
            Quarantined(f"image {number}", "truncated") for number in range(start, stop) if self.broken(step, number)
        ]
        whole = ShardRecord.of(path, b"shard", rows=0, columns=[], images=stop - start - len(broken))
        return ShardRecord(**{**vars(whole), "quarantined": broken, "seconds": 0.5})
