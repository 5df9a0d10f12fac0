"""Runs the steps of a plan in this process, one item after the other, as a cluster would in any order."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.execution.execution import CLUSTER, EXTRACT, PROCESS, TRAIN, Execution, Task
from orchestrator.ledger.layout import attempt_path
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import Quarantined, ShardRecord
from orchestrator.planning.plan import Plan, Stage, make_plan
from orchestrator.steps.jobs import WorkerCache
from orchestrator.steps.making import make_job, make_training_job
from orchestrator.steps.steps import Step, StepKind
from orchestrator.steps.training_runs import DistributedContext, train
from orchestrator.storage.store import Storage
from workloads.errors import InputError
from workloads.training.collectives import SingleProcess
from workloads.training.loop import Machine

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
            counts[task.kind.value] = counts.get(task.kind.value, 0) + 1
        return counts


def execute(plan: Plan, storage: Storage, perform: Perform, *, score_groups: int = 2) -> Ended:
    """Run the pending steps of a plan with a worker; an exception of the worker is its item's failure."""
    ended: Ended

    def on_step(step: Step, manifest: Manifest | None) -> None:
        (ended.failed if manifest is None else ended.finished).append(step)

    execution = Execution(Ledger(storage), plan.compute, plan.done, on_step)
    ended = Ended(plan, execution)
    execution.begin(plan.pending, score_groups)
    ended.tasks = drive(execution, perform)
    return ended


def drive(execution: Execution, perform: Perform) -> list[Task]:
    """Run every item of an execution that has begun; returns those that were worth running."""
    tasks = []
    while len(execution.schedule):
        items = [item for pool in (PROCESS, CLUSTER, EXTRACT, TRAIN) if (item := execution.schedule.take(pool))]
        assert items, "items are left, and none of them may start"
        for item in items:
            steps = execution.live_steps(item.payload)
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
                execution.completed(item, steps, outcome.records, outcome.device, outcome.results)
    return tasks


def run(document: dict[str, Any], storage: Storage, until: Stage = "finetune") -> Ended:
    """Run an experiment for real, without Ray."""
    plan = make_plan(document, storage, write_listings=True, until=until)
    cache = WorkerCache()

    def perform(task: Task, steps: tuple[Step, ...]) -> Outcome:
        if task.kind in (StepKind.PRETRAIN, StepKind.FINETUNE):
            outcome = train(
                make_training_job(storage, steps[0]),
                DistributedContext(Machine(), SingleProcess(), None),
                lambda report: True,
                20.0,
            )
            assert outcome is not None, "the only worker has rank 0"
            return outcome
        return make_job(storage, task.kind, steps, task.shard, "cpu").run(cache)

    return execute(plan, storage, perform, score_groups=1)


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
        match task.kind:
            case StepKind.CLUSTER:
                return Outcome([self._record(steps[0], "models/model.arrow", 0, 0)], {steps[0].key: {"clusters": 3}})
            case StepKind.SCORE:
                return Outcome([], {step.key: {"pmiou": 50.0} for step in steps})
        assert task.shard is not None
        return Outcome([self._shard(step, task) for step in (steps if task.kind is StepKind.LABEL else steps[:1])])

    def _shard(self, step: Step, task: Task) -> ShardRecord:
        assert task.shard is not None
        path = attempt_path(step.stream, task.shard.digest)
        record = self._record(step, path, task.shard.start, task.shard.stop)
        return Ledger(self.storage).commit_shard(step.stream, task.shard.digest, record)

    def _record(self, step: Step, path: str, start: int, stop: int) -> ShardRecord:
        self.storage.replace(path, b"shard")
        broken = [
            Quarantined(f"image {number}", "truncated") for number in range(start, stop) if self.broken(step, number)
        ]
        whole = ShardRecord.of(path, b"shard", rows=0, columns=[], images=stop - start - len(broken))
        return ShardRecord(**{**vars(whole), "quarantined": broken, "seconds": 0.5})
