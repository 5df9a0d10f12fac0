"""A run: the pending steps of a plan on a cluster, until nothing is pending."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.cluster import session
from orchestrator.cluster.actors import Actors
from orchestrator.cluster.interruption import Interruption
from orchestrator.cluster.metrics import RunMetrics
from orchestrator.cluster.room import Room
from orchestrator.cluster.runner import Runner
from orchestrator.cluster.sharing import Sharing
from orchestrator.cluster.waiting import Waiting
from orchestrator.cluster.workers import extraction_request
from orchestrator.execution.early_stopping import SuccessiveHalving
from orchestrator.execution.execution import Execution
from orchestrator.execution.progress import Progress
from orchestrator.execution.retries import Retries
from orchestrator.execution.trial_info import trial_info
from orchestrator.ledger.leases import Leases
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.planning.capacity import Capacity, ResourceRequest, judge
from orchestrator.planning.cluster_config import cluster_capacity
from orchestrator.planning.memory import MemoryNeeds
from orchestrator.planning.plan import Plan, may_be_stopped, skip_stopped
from orchestrator.planning.priorities import longest_paths
from orchestrator.steps.step import Pool, Step
from orchestrator.storage.store import Storage
from workloads.devices import MPS, torch_device
from workloads.errors import GroupedInputError, InputError

if TYPE_CHECKING:
    from orchestrator.cluster.training import Scale
    from orchestrator.cluster.trainings import Trainings


@dataclass
class RunReport:
    """How a run ended: errors by step key, which of them the user has to mend, and what it ran on.

    `trials` are the folders of what is shown of the trainings, by experiment.
    """

    failed: dict[str, str] = field(default_factory=dict)
    input_errors: set[str] = field(default_factory=set)
    executed: list[str] = field(default_factory=list)
    machines: list[dict[str, Any]] = field(default_factory=list)
    retries: dict[str, int] = field(default_factory=dict)
    trials: dict[str, str] = field(default_factory=dict)
    worker_peak_bytes: int = 0


def run_plan(
    plan: Plan,
    storage: Storage,
    progress: Progress,
    *,
    address: str | None,
    dashboard: bool,
    between: Callable[[], object] | None = None,
) -> RunReport:
    """Run all pending steps of a plan; `plan.done` holds the manifests afterwards.

    A run with nothing pending connects to no cluster. `between` is called when all is done that is pending at first:
    what it takes from `plan.skipped` is run then.
    """
    report = RunReport()
    if not plan.pending:
        return report
    if plan.compute.device == MPS:
        # Apple's GPU is that of this machine, so what torch offers here is what a worker would find.
        torch_device(MPS)
    ever = cluster_capacity(plan.compute.cluster_config) if plan.compute.cluster_config else None
    leases = Leases(storage, plan.compute.lease_seconds)
    interruption = Interruption()
    with ExitStack() as held:
        held.enter_context(interruption.taken())
        held.callback(leases.close)
        with session.session(address, dashboard=dashboard, interruption=interruption) as has_dashboard:
            report.machines = session.machines()
            preparation = Preparation(plan, storage, progress, session.capacity(ever), has_dashboard, leases)
            runner = preparation.runner()
            try:
                with runner:
                    run_pending(plan, runner, report, between)
            finally:
                report.retries = dict(runner.retries.counts)
                report.trials = runner.trainings.folders if runner.trainings is not None else {}
                report.worker_peak_bytes = max(runner.peak_bytes.values(), default=0)
    return report


def run_pending(plan: Plan, runner: Runner, report: RunReport, between: Callable[[], object] | None = None) -> None:
    """Run what is pending, and then what `between` lets in."""
    progress, leases = runner.progress, runner.sharing.leases

    def ended(step: Step, manifest: Manifest | None) -> None:
        if manifest is not None:
            report.executed.append(step.key)
            progress.finished(step.title)
            for broken in manifest.quarantined:
                progress.note(f"quarantined in {step.kind}: {broken.image}: {broken.reason}")
        elif step.key in execution.failed:
            progress.note(f"{step.kind} {step.key[:12]} failed")
        leases.release(step.key)

    execution = Execution(runner.sharing.ledger, plan.compute, plan.done, ended)
    try:
        for prepare in (None, between):
            if prepare is not None:
                prepare()
            pending = [step for step in plan.pending if step.key not in execution.failed]
            for step in pending:
                progress.expect(step.title, step.images.count)
            cores = runner.room.cores
            execution.begin(pending, groups=int(cores), priorities=longest_paths(plan, cores=cores))
            runner.run(execution)
            skip_stopped(plan, runner.storage)
            if between is None:
                break
    finally:
        report.failed |= execution.failed
        report.input_errors |= execution.input_errors


@dataclass(frozen=True)
class Preparation:
    """What the runner of a plan is made of."""

    plan: Plan
    storage: Storage
    progress: Progress
    capacity: Capacity
    dashboard: bool
    leases: Leases

    def runner(self) -> Runner:
        """The runner of a plan whose pending steps can all be placed on the cluster.

        Raises:
            InputError: one of them never can; with the numbers.
        """
        compute, capacity = self.plan.compute, self.capacity
        uses_gpus = compute.device == "cuda" or (compute.device == "auto" and capacity.most_gpus > 0)
        pools = {step.pool for step in self.plan.steps.values() if step.key not in self.plan.done}
        scale = self._scale(uses_gpus) if Pool.TRAIN in pools else None
        self._require_capacity(pools, uses_gpus, scale)
        room = Room(capacity)
        nodes = session.nodes()
        room.update(nodes)
        memory = MemoryNeeds.of_plan(self.plan, uses_gpus=uses_gpus)
        for line in memory.doubts(one.memory for one in room.machines):
            self.progress.note(line)
        metrics = RunMetrics(dashboard=self.dashboard)
        retries = Retries(compute, lambda cause: metrics.add("retries", cause=cause))
        return Runner(
            storage=self.storage,
            compute=compute,
            progress=self.progress,
            uses_gpus=uses_gpus,
            metrics=metrics,
            room=room,
            actors=Actors(room, compute, uses_gpus, memory),
            sharing=Sharing(self.leases, Ledger(self.storage), self.progress, compute.early_stopping),
            retries=retries,
            waiting=Waiting(self.progress),
            memory=memory,
            trainings=self._trainings(scale, room, retries, metrics) if scale is not None else None,
        )

    def _scale(self, uses_gpus: bool) -> "Scale":
        # Ray Train takes seconds to import; a run that only labels does without it.
        from orchestrator.cluster.training import Scale

        return Scale.of(self.plan.compute, uses_gpus, self.capacity, dashboard=self.dashboard)

    def _require_capacity(self, pools: set[Pool], uses_gpus: bool, scale: "Scale | None") -> None:
        requests = []
        if Pool.EXTRACT in pools:
            requests.append(extraction_request(self.plan.compute.gpus_per_worker if uses_gpus else 0))
        if Pool.CLUSTER in pools and uses_gpus:
            requests.append(ResourceRequest("the clustering worker (compute.device)", 1, 0, 1))
        if scale is not None:
            requests.append(scale.request)
        verdict = judge(requests, self.capacity)
        if verdict.refused:
            raise GroupedInputError(map(InputError, verdict.refused))
        for line in verdict.waits:
            self.progress.note(line)

    def _trainings(self, scale: "Scale", room: Room, retries: Retries, metrics: RunMetrics) -> "Trainings":
        from orchestrator.cluster.trainings import Trainings

        plan, compute = self.plan, self.plan.compute
        halving = None
        if compute.early_stopping is not None:
            halving = SuccessiveHalving(compute.early_stopping, may_be_stopped(plan.steps.values()), self.storage)
        return Trainings(
            storage=self.storage,
            scale=scale,
            progress=self.progress,
            info=partial(trial_info, plan),
            retries=retries,
            metrics=metrics,
            room=room,
            halving=halving,
        )
