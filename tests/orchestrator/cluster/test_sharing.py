"""A run beside another run: nobody is waited for in vain, and both have work. This process plays the cluster."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.without_ray import FakeWorker

from orchestrator.cluster.room import Room
from orchestrator.cluster.run import RunReport, run_pending
from orchestrator.cluster.sharing import Sharing
from orchestrator.execution.execution import Execution
from orchestrator.execution.progress import Progress
from orchestrator.ledger.layout import lease_path
from orchestrator.ledger.leases import Holder, Leases
from orchestrator.ledger.manifests import Ledger
from orchestrator.planning.capacity import Capacity, Machines
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.steps.step import Pool, ShardedStep, Step
from orchestrator.storage.store import Storage
from workloads.errors import InputError

SILENCE = 0.6


class FakeRunner:
    """Stands for the cluster: one slot a pool."""

    def __init__(self, storage: Storage, worker: FakeWorker) -> None:
        self.storage = storage
        self.progress = Progress()
        self.room = Room(Capacity.fixed([Machines(1, 2)]))
        self.sharing = Sharing(Leases(storage, SILENCE), Ledger(storage), self.progress)
        self.worker = worker
        self.tasks: list[str] = []
        self.idle = 0.0
        self.between: Callable[[], None] = lambda: None

    def run(self, execution: Execution) -> None:
        while execution.steps:
            taken = [self._one(execution, pool) for pool in Pool]
            if not any(taken):
                begun = time.monotonic()
                time.sleep(0.05)
                self.sharing.look(execution)
                self.idle += time.monotonic() - begun

    def _one(self, execution: Execution, pool: Pool) -> bool:
        item = execution.schedule.peek(pool)
        if item is None:
            return False
        steps = self.sharing.lease(execution, item)
        assert execution.schedule.take(pool) is item
        if not steps:
            execution.skip(item)
            return True
        self.between()
        self.tasks.append(item.name)
        try:
            outcome = self.worker(item.payload, steps)
        except InputError as error:
            execution.fail(item, steps, error, user=True)
        else:
            execution.completed(item, outcome)
        return True


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


@pytest.fixture
def made(tiny: dict[str, Any], storage: Storage) -> Plan:
    return make_plan(tiny, storage, write_listings=True)


def lease_elsewhere(storage: Storage, steps: list[Step]) -> None:
    """Leases of a run on another machine that will never write again."""
    holder = Holder("elsewhere", 1, 1, "another boot")
    for step in steps:
        content = json.dumps({"holder": vars(holder), "beat": 1, "seconds": SILENCE})
        storage.replace(lease_path(step.key, 0), content.encode())


def run(made: Plan, runner: FakeRunner) -> RunReport:
    report = RunReport()
    runner_of_any_kind: Any = runner
    try:
        run_pending(made, runner_of_any_kind, report)
    finally:
        runner.sharing.leases.close()
    return report


def test_alone_a_run_leases_a_step_when_its_first_piece_finds_a_slot(made: Plan, storage: Storage) -> None:
    runner = FakeRunner(storage, FakeWorker(storage))
    leased: list[int] = []
    runner.between = lambda: leased.append(len(runner.sharing.leases.leased(made.steps)))
    report = run(made, runner)
    assert made.pending == []
    assert sorted(report.executed) == sorted(made.steps)
    assert leased[0] == 1
    assert max(leased) < len(made.steps)
    assert list(storage.files("leases", deep=True)) == []


def test_a_second_run_of_the_same_experiment_has_work_too(made: Plan, storage: Storage) -> None:
    """The second begins in the middle of the first, and takes what the first has no slot for yet."""
    first, second = FakeRunner(storage, FakeWorker(storage)), FakeRunner(storage, FakeWorker(storage))
    again = make_plan(made.document, storage, write_listings=False)
    reports = []

    def begin_second() -> None:
        first.between = lambda: None
        second.between = lambda: None
        other = RunReport()
        runner_of_any_kind: Any = second
        # As far as it comes without the first, which stands still meanwhile.
        second_steps = [step for step in again.steps.values() if not first.sharing.leases.holds(step.key)]
        part = Plan(again.name, again.document, again.compute, again.cells, {}, again.done)
        part.steps = {step.key: step for step in second_steps if step.kind == "superpixels"}
        run_pending(part, runner_of_any_kind, other)
        reports.append(other)

    first.between = begin_second
    report = run(made, first)
    second.sharing.leases.close()
    assert reports[0].executed
    assert sorted([*report.executed, *reports[0].executed]) == sorted(made.steps)
    assert not set(first.tasks) & set(second.tasks)
    assert made.pending == []


@pytest.mark.timeout(30)
def test_the_followers_of_a_failed_step_fail_though_another_run_holds_them(made: Plan, storage: Storage) -> None:
    """A dead run on another machine held the clusters; here the sample fails before their silence is over."""
    lease_elsewhere(storage, [step for step in made.steps.values() if step.kind == "cluster"])
    worker = FakeWorker(storage)
    worker.fail_when = lambda task: InputError("weights do not fit") if task.kind == "sample" else None
    report = run(made, FakeRunner(storage, worker))
    failed = {step.kind for step in made.steps.values() if step.key in report.failed}
    assert failed == {"sample", "cluster", "label", "score"}
    assert report.input_errors == set(report.failed)


@pytest.mark.timeout(30)
def test_a_chain_of_steps_of_the_dead_costs_one_silence_and_not_one_each(made: Plan, storage: Storage) -> None:
    """What the dead had finished of a step is not done again."""
    worker = FakeWorker(storage)
    sample = next(step for step in made.steps.values() if step.kind == "sample")
    assert isinstance(sample, ShardedStep)
    runner = FakeRunner(storage, worker)
    lease_elsewhere(storage, list(made.steps.values()))
    for shard in sample.images.shards[:4]:
        worker._shard(sample, shard)
    report = run(made, runner)
    # The chain is four steps long: one silence each would be four of them.
    assert runner.idle < 3 * SILENCE
    assert report.failed == {}
    assert made.pending == []
    assert sum(name.startswith("sample") for name in runner.tasks) == len(sample.images.shards) - 4


@pytest.mark.timeout(30)
def test_what_another_run_finishes_meanwhile_is_taken_as_it_is(made: Plan, storage: Storage) -> None:
    sample = next(step for step in made.steps.values() if step.kind == "sample")
    again = make_plan(made.document, storage, write_listings=False)
    run(again, FakeRunner(storage, FakeWorker(storage)))
    runner = FakeRunner(storage, FakeWorker(storage))
    report = run(made, runner)
    assert (report.executed, runner.tasks) == ([], [])
    assert sample.key in made.done
