"""The loop that hands out work, on a simulated cluster with a clock of its own: what starts when, and beside what."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions
from support.training_on_ray import EXPERIMENT
from support.without_ray import FakeWorker

from orchestrator.cluster import actors, runner
from orchestrator.cluster.actors import Actors
from orchestrator.cluster.metrics import RunMetrics
from orchestrator.cluster.room import Claim, Room
from orchestrator.cluster.run import RunReport, run_pending
from orchestrator.cluster.runner import Runner
from orchestrator.cluster.sharing import Sharing
from orchestrator.cluster.waiting import Waiting
from orchestrator.execution.execution import Execution, Task
from orchestrator.execution.progress import Progress
from orchestrator.execution.retries import Retries
from orchestrator.execution.schedule import Item
from orchestrator.ledger.leases import Fence, Leases
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.outcomes import Outcome
from orchestrator.planning.capacity import Capacity, Machines
from orchestrator.planning.memory import MemoryNeeds
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.spec.merging import merged
from orchestrator.steps.kinds import KINDS
from orchestrator.steps.step import Pool, Step
from orchestrator.storage.store import Storage

SECONDS = {Pool.EXTRACT: 10.0, Pool.PROCESS: 5.0, Pool.CLUSTER: 20.0, Pool.TRAIN: 1000.0}
NODES = {"gpu 1": (8.0, 1.0), "gpu 2": (8.0, 1.0), "plain": (4.0, 0.0)}
SMALL_MEMORY = {"plain": (16.0, 0.0, 8e9)}


@dataclass
class Ran:
    """Work that ran: what, where, from when to when."""

    name: str
    pool: str
    node: str | None
    begin: float
    end: float


@dataclass
class Simulation:
    """Stands for Ray: work takes its time, one after the other on an actor."""

    storage: Storage
    clock: float = 0.0
    ran: list[Ran] = field(default_factory=list)
    errors: dict[str, list[Exception]] = field(default_factory=dict)
    killed: int = 0
    peaks: dict[Pool, int] = field(default_factory=dict)
    _ends: dict[Any, Ran] = field(default_factory=dict)
    _free: dict[Any, float] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)

    def actor(self, node: str | None) -> Any:
        handle = SimpleNamespace(node=node)
        handle.run = SimpleNamespace(
            options=lambda name: SimpleNamespace(remote=lambda job: self.begin(job, node, handle))
        )
        self._free[id(handle)] = self.clock
        return handle

    def begin(self, job: Any, node: str | None, actor: Any = None) -> int:
        begin = self.clock if actor is None else max(self.clock, self._free[id(actor)])
        ran = Ran(job.name, job.pool, node, begin, begin + SECONDS[job.pool])
        if actor is not None:
            self._free[id(actor)] = ran.end
        number: int = next(self._numbers)
        self._ends[number] = ran
        return number

    def wait(self, references: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        if num_returns == 1 and timeout:
            end = min(self._ends[one].end for one in references)
            self.clock = max(self.clock, min(end, self.clock + timeout))
        over = [one for one in references if self._ends[one].end <= self.clock]
        return over[:num_returns], []

    def get(self, reference: Any) -> Any:
        ran = self._ends[reference]
        if self.errors.get(ran.name):
            raise self.errors[ran.name].pop()
        self.ran.append(ran)
        return SimpleNamespace(process=1, peak_bytes=self.peaks.get(Pool(ran.pool), 1), outcome=Outcome())

    def kill(self, handle: Any) -> None:
        self.killed += 1


@dataclass
class Granted:
    """Stands for Tune and Train."""

    simulation: Simulation
    room: Room
    folders: dict[str, str] = field(default_factory=dict)
    alone: set[str] = field(default_factory=set)
    _running: list[tuple[Item[Task], Claim, Ran]] = field(default_factory=list)

    @property
    def active(self) -> int:
        return len(self._running)

    def grant(self, item: Item[Task], step: Step, claim: Claim, fence: Fence) -> None:
        fence.require()
        now = self.simulation.clock
        ran = Ran(item.name, item.pool, claim.machine.node, now, now + SECONDS[Pool.TRAIN])
        self._running.append((item, claim, ran))

    def expect_no_more(self) -> None:
        pass

    def reasons(self) -> dict[str, str]:
        return {}

    def follow(self, execution: Execution) -> None:
        for one in list(self._running):
            item, claim, ran = one
            if ran.end <= self.simulation.clock:
                self._running.remove(one)
                self.room.release(claim)
                self.simulation.ran.append(ran)
                execution.completed(item, None)  # type: ignore[arg-type]

    def close(self) -> None:
        pass


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


@pytest.fixture
def simulation(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Simulation:
    made = Simulation(storage)
    for kind in KINDS:
        monkeypatch.setattr(kind, "job", staticmethod(_named))
    for module in (runner, actors):
        monkeypatch.setattr(module.ray, "wait", made.wait)
        monkeypatch.setattr(module.ray, "get", made.get)
        monkeypatch.setattr(module.ray, "kill", made.kill)
    monkeypatch.setattr(runner, "start_task", lambda job, share, node: made.begin(job, node))
    monkeypatch.setattr(runner, "start_alone", lambda job, cores, gpus, node: made.begin(job, f"{node}, alone"))
    monkeypatch.setattr(actors, "start_extraction", lambda gpus, node, helpers: made.actor(node))
    monkeypatch.setattr(actors, "start_clustering", lambda gpus, threads, node: made.actor(node))
    monkeypatch.setattr(runner.session, "nodes", lambda: NODES)
    monkeypatch.setattr(runner.session, "own_machine_is_up", lambda: True)
    monkeypatch.setattr(runner.session, "head_answers", lambda: True)

    def sleep(seconds: float) -> None:
        made.clock += seconds

    monkeypatch.setattr(runner.time, "sleep", sleep)
    worker = FakeWorker(storage)
    completed = Execution.completed

    def complete(execution: Execution, item: Item[Task], outcome: Any) -> None:
        done = worker(item.payload, execution.live_steps(item))
        if item.pool == Pool.TRAIN:
            done = Outcome(files={"network": done.files["clusters"]}, results=done.results)
        completed(execution, item, done)

    monkeypatch.setattr(Execution, "completed", complete)
    return made


def _named(storage: Storage, steps: tuple[Step, ...], shard: Any, device: str) -> Any:
    return SimpleNamespace(name=f"{steps[0].kind} {shard.start if shard else ''}", pool=steps[0].pool)


def run(document: dict[str, Any], simulation: Simulation, memory: MemoryNeeds | None = None) -> tuple[Plan, RunReport]:
    storage = simulation.storage
    plan = make_plan(document, storage, write_listings=True)
    nodes = runner.session.nodes()
    room = Room(Capacity.fixed([Machines(1, cores, gpus) for cores, gpus, *_ in nodes.values()]))
    room.update(nodes)
    memory = memory or MemoryNeeds()
    uses_gpus = any(one.gpus for one in room.machines)
    leases = Leases(storage, 60)
    progress = Progress()
    trainings: Any = Granted(simulation, room)
    made = Runner(
        storage=storage,
        compute=plan.compute,
        progress=progress,
        uses_gpus=uses_gpus,
        metrics=RunMetrics(dashboard=False),
        room=room,
        actors=Actors(room, plan.compute, uses_gpus, memory),
        sharing=Sharing(leases, Ledger(storage), progress),
        retries=Retries(plan.compute),
        waiting=Waiting(progress),
        trainings=trainings,
        memory=memory,
    )
    report = RunReport()
    try:
        with made:
            run_pending(plan, made, report)
    finally:
        leases.close()
    assert not any(one.is_used for one in room.machines), "all that was claimed is given back"
    return plan, report


def of(simulation: Simulation, kind: str) -> list[Ran]:
    return [one for one in simulation.ran if one.name.startswith(kind)]


def test_trainings_and_other_work_run_side_by_side_each_where_it_belongs(simulation: Simulation) -> None:
    """Three labellings of which each is pre-trained on twice; scores and superpixels keep off the GPUs."""
    grid = {"labels.clustering.k_per_class": [1.0, 1.2, 1.4], "pretrain.seed": [0, 1]}
    document = merged(EXPERIMENT, {"compute": {"train_cores": None, "shard_images": 2}})
    plan, report = run({**document, "grid": grid}, simulation)
    assert (report.failed, plan.pending) == ({}, [])
    trainings = of(simulation, "pretrain") + of(simulation, "finetune")
    assert len(trainings) == 12
    assert {one.node for one in trainings} == {"gpu 1", "gpu 2"}
    assert {one.node for one in simulation.ran if one.pool == Pool.PROCESS} == {"plain"}
    assert {one.node for one in simulation.ran if one.pool == Pool.EXTRACT} <= {"gpu 1", "gpu 2"}
    # A device has one user at a time, and hardly a moment without one until the last round of trainings.
    for node in ("gpu 1", "gpu 2"):
        used = sorted((one.begin, one.end) for one in simulation.ran if one.node == node)
        assert all(end <= begin + 1e-6 for (_, end), (begin, _) in itertools.pairwise(used))
    work = sum(one.end - one.begin for one in simulation.ran if one.pool != Pool.PROCESS)
    assert simulation.clock < 1.05 * work / 2
    # Trainings begin while labels are still scored, the longest paths first.
    begins = {kind: [one.begin for one in of(simulation, kind)] for kind in ("pretrain", "finetune", "score")}
    assert min(begins["pretrain"]) < max(begins["score"])
    assert max(begins["pretrain"]) < min(begins["finetune"])
    assert max(begins["score"]) < min(one.end for one in trainings)


def test_work_that_is_ended_for_memory_gets_a_machine_to_itself_and_then_is_an_error(simulation: Simulation) -> None:
    document = merged(EXPERIMENT, {"compute": {"shard_images": 2}, "finetune": None, "pretrain": None})
    simulation.errors["superpixels 2"] = [ray.exceptions.OutOfMemoryError("low on memory")]
    _, report = run(document, simulation)
    assert report.failed == {}
    (again,) = of(simulation, "superpixels 2")
    assert again.node is not None
    assert again.node.endswith("alone")
    node = again.node.removesuffix(", alone")
    beside = [one for one in simulation.ran if one.node == node and again.begin < one.end and one.begin < again.end]
    assert beside == []

    simulation.errors["sample 0"] = [ray.exceptions.OutOfMemoryError("low on memory") for _ in range(2)]
    _, report = run(merged(document, {"labels": {"sampling": {"pixels_per_image": 41}}}), simulation)
    assert all("images 0 to 1 of pool train) was ended for memory" in error for error in report.failed.values())
    assert report.failed


def test_no_more_runs_side_by_side_than_there_is_memory_for(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is memory for four actors with a task beside each, and for one training."""
    monkeypatch.setattr(runner.session, "nodes", lambda: SMALL_MEMORY)
    document = merged(EXPERIMENT, {"compute": {"shard_images": 2, "train_cores": 1}, "finetune": None})
    document["dataset"] = document["dataset"] | {"num_train": 16}
    needs = MemoryNeeds({Pool.EXTRACT: 1.5e9, Pool.PROCESS: 0.5e9, Pool.TRAIN: 6e9})
    simulation.peaks = {Pool.PROCESS: 10**8, Pool.EXTRACT: 3 * 10**9}
    plan, report = run({**document, "grid": {"pretrain.seed": [0, 1, 2]}}, simulation, needs)
    assert (report.failed, plan.pending) == ({}, [])
    assert at_once(simulation, Pool.EXTRACT) == 4
    assert at_once(simulation, Pool.PROCESS) >= 4
    sample = next(step for step in plan.steps.values() if step.kind == "sample")
    assert needs.of(Pool.EXTRACT) == pytest.approx(1.5e9 * 3.3e9 / needs.rule(sample))
    # Trainings, of which two do not fit, run one after the other though there are cores for sixteen.
    assert at_once(simulation, Pool.TRAIN) == 1


def at_once(simulation: Simulation, pool: Pool) -> int:
    """How much work of a pool ran at the same time, at most."""
    ran = [one for one in simulation.ran if one.pool == pool]
    return max(sum(one.begin <= moment.begin < one.end for one in ran) for moment in ran)
