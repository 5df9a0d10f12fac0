"""Rounds of a run beside another run: nobody is waited for in vain. A worker in this process plays the cluster."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from support.without_ray import FakeWorker, drive

from orchestrator.cluster import rounds
from orchestrator.execution.execution import Execution
from orchestrator.execution.progress import Progress
from orchestrator.ledger.layout import lease_path
from orchestrator.ledger.leases import Holder, Leases
from orchestrator.ledger.manifests import Ledger
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.steps.step import Step
from orchestrator.storage.store import Storage
from workloads.errors import InputError

SILENCE = 0.6


class FakeRunner:
    """Stands for the cluster."""

    cores = 2

    def __init__(self, worker: FakeWorker) -> None:
        self.worker = worker
        self.rounds = 0

    def run(self, execution: Execution) -> None:
        self.rounds += 1
        drive(execution, self.worker)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds.session, "cores", lambda: 2)
    monkeypatch.setattr(rounds, "_POLL_SECONDS", 0.05)


def lease_elsewhere(storage: Storage, steps: list[Step]) -> None:
    """Leases of a run on another machine that will never write again."""
    holder = Holder("elsewhere", 1, 1, "another boot")
    for step in steps:
        content = json.dumps({"holder": vars(holder), "beat": 1, "seconds": SILENCE})
        storage.replace(lease_path(step.key, 0), content.encode())


def run(made: Plan, storage: Storage, worker: FakeWorker) -> tuple[rounds.RunReport, FakeRunner]:
    report, runner, leases = rounds.RunReport(), FakeRunner(worker), Leases(storage, SILENCE)
    runner_of_any_kind: Any = runner
    with Progress() as progress:
        try:
            rounds._run_rounds(made, runner_of_any_kind, Ledger(storage), leases, progress, report)
        finally:
            leases.close()
    return report, runner


@pytest.fixture
def made(tiny: dict[str, Any], storage: Storage) -> Plan:
    return make_plan(tiny, storage, write_listings=True)


def test_alone_a_run_takes_one_round(made: Plan, storage: Storage) -> None:
    report, runner = run(made, storage, FakeWorker(storage))
    assert runner.rounds == 1
    assert made.pending == []
    assert sorted(report.executed) == sorted(made.steps)
    assert list(storage.files("leases", deep=True)) == []


@pytest.mark.timeout(30)
def test_the_followers_of_a_failed_step_fail_though_another_run_holds_them(made: Plan, storage: Storage) -> None:
    """A dead run on another machine held the clusters; here the sample fails before their silence is over."""
    lease_elsewhere(storage, [step for step in made.steps.values() if step.kind == "cluster"])
    worker = FakeWorker(storage)
    worker.fail_when = lambda task: InputError("weights do not fit") if task.kind == "sample" else None
    report, _ = run(made, storage, worker)
    failed = {step.kind for step in made.steps.values() if step.key in report.failed}
    assert failed == {"sample", "cluster", "label", "score"}
    assert report.input_errors == set(report.failed)


@pytest.mark.timeout(30)
def test_a_chain_of_steps_of_the_dead_costs_one_silence_and_not_one_each(made: Plan, storage: Storage) -> None:
    lease_elsewhere(storage, list(made.steps.values()))
    started = time.monotonic()
    report, _ = run(made, storage, FakeWorker(storage))
    # The chain is four steps long: one silence each would be four of them.
    assert time.monotonic() - started < 3 * SILENCE
    assert report.failed == {}
    assert made.pending == []


@pytest.mark.timeout(30)
def test_what_another_run_finishes_meanwhile_is_taken_as_it_is(made: Plan, storage: Storage) -> None:
    sample = next(step for step in made.steps.values() if step.kind == "sample")
    again = make_plan(made.document, storage, write_listings=False)
    run(again, storage, FakeWorker(storage))
    report, runner = run(made, storage, FakeWorker(storage))
    assert runner.rounds == 0
    assert report.executed == []
    assert sample.key in made.done
