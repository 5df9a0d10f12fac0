"""A run: rounds of steps until nothing is pending, sharing the storage with whoever else works on it.

The model: in each round this run leases every pending step that nobody alive holds and whose inputs are done or
leased too, runs them, and gives the leases back. What others hold is waited for, and taken over when they die. The
failure this guards against: two runs doing one step twice, or waiting for each other.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from orchestrator.cluster import session
from orchestrator.cluster.interruption import Interruption
from orchestrator.cluster.metrics import RunMetrics
from orchestrator.cluster.runner import Runner
from orchestrator.cluster.workers import extraction_request
from orchestrator.execution.early_stopping import SuccessiveHalving
from orchestrator.execution.execution import Execution
from orchestrator.execution.progress import Progress
from orchestrator.execution.trial_info import trial_info
from orchestrator.ledger.leases import Leases
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.planning.capacity import Capacity, ResourceRequest, judge
from orchestrator.planning.cluster_config import cluster_capacity
from orchestrator.planning.plan import Plan, may_be_stopped, skip_stopped
from orchestrator.steps.step import Pool, Step
from orchestrator.storage.store import Storage
from workloads.devices import MPS, torch_device
from workloads.errors import GroupedInputError, InputError

_POLL_SECONDS = 1.0


@dataclass
class RunReport:
    """How a run ended: errors by step key, which of them the user has to mend, and what it ran on.

    `trials` is the folder of what Ray Tune wrote, None where nothing was trained.
    """

    failed: dict[str, str] = field(default_factory=dict)
    input_errors: set[str] = field(default_factory=set)
    executed: list[str] = field(default_factory=list)
    machines: list[dict[str, Any]] = field(default_factory=list)
    retries: dict[str, int] = field(default_factory=dict)
    trials: str | None = None
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
    ledger = Ledger(storage)
    leases = Leases(storage, plan.compute.lease_seconds)
    interruption = Interruption()
    with ExitStack() as held:
        held.enter_context(interruption.taken())
        held.callback(leases.close)
        with session.session(address, dashboard=dashboard, interruption=interruption) as has_dashboard:
            report.machines = session.machines()
            runner = _make_runner(plan, storage, progress, session.capacity(ever), dashboard=has_dashboard)
            try:
                _run_rounds(plan, runner, ledger, leases, progress, report)
                if between is not None:
                    between()
                    _run_rounds(plan, runner, ledger, leases, progress, report)
            finally:
                runner.close()
                report.retries = dict(runner.retries)
                report.trials = runner.trainings.folder if runner.trainings is not None else None
                report.worker_peak_bytes = max(runner.peak_bytes.values(), default=0)
    return report


def _make_runner(plan: Plan, storage: Storage, progress: Progress, capacity: Capacity, *, dashboard: bool) -> Runner:
    """The runner of a plan whose pending steps can all be placed on the cluster.

    Raises:
        InputError: one of them never can; with the numbers.
    """
    compute = plan.compute
    uses_gpus = compute.device == "cuda" or (compute.device == "auto" and capacity.most_gpus > 0)
    pending = {step.pool for step in plan.steps.values() if step.key not in plan.done}
    runner = Runner(storage, compute, progress, capacity, uses_gpus, RunMetrics(dashboard=dashboard))
    requests = []
    if Pool.EXTRACT in pending:
        requests.append(extraction_request(compute.gpus_per_worker if uses_gpus else 0))
    if Pool.CLUSTER in pending and uses_gpus:
        requests.append(ResourceRequest("the clustering worker (compute.device)", 1, 0, 1))
    if Pool.TRAIN in pending:
        # Ray Train takes seconds to import; a run that only labels does without it.
        from orchestrator.cluster.training import Scale
        from orchestrator.cluster.trials import Trainings

        scale = Scale.of(compute, uses_gpus, capacity, dashboard=dashboard)
        requests.append(scale.request)
        info = partial(trial_info, plan)
        halving = None
        if compute.early_stopping is not None:
            halving = SuccessiveHalving(compute.early_stopping, may_be_stopped(plan.steps.values()), storage)
        runner.trainings = Trainings(
            storage, plan.name, compute, scale, capacity, progress, info, runner.retries, runner.metrics, halving
        )
    verdict = judge(requests, capacity)
    if verdict.refused:
        raise GroupedInputError(map(InputError, verdict.refused))
    for line in verdict.waits:
        progress.note(line)
    return runner


def _run_rounds(
    plan: Plan, runner: Runner, ledger: Ledger, leases: Leases, progress: Progress, report: RunReport
) -> None:
    waited_for: set[str] = set()
    while pending := [step for step in plan.pending if step.key not in report.failed]:
        mine = _lease(pending, plan, leases, ledger)
        if not mine:
            _announce(pending, leases, progress, waited_for)
            time.sleep(_POLL_SECONDS)
            _look_up(pending, plan, ledger)
            skip_stopped(plan, ledger.storage)
            continue
        _run_round(mine, plan, runner, ledger, leases, progress, report)
        _fail_followers(plan, report)
        skip_stopped(plan, ledger.storage)


def _run_round(
    mine: list[Step],
    plan: Plan,
    runner: Runner,
    ledger: Ledger,
    leases: Leases,
    progress: Progress,
    report: RunReport,
) -> None:
    def ended(step: Step, manifest: Manifest | None) -> None:
        if manifest is not None:
            report.executed.append(step.key)
            progress.finished(step.title)
            for broken in manifest.quarantined:
                progress.note(f"quarantined in {step.kind}: {broken.image}: {broken.reason}")
        elif step.key in execution.failed:
            progress.note(f"{step.kind} {step.key[:12]} failed")
        leases.release(step.key)

    execution = Execution(ledger, plan.compute, plan.done, ended)
    for step in mine:
        progress.expect(step.title, step.images.count)
    execution.begin(mine, groups=runner.cores)
    runner.run(execution)
    report.failed |= execution.failed
    report.input_errors |= execution.input_errors


def _fail_followers(plan: Plan, report: RunReport) -> None:
    """Fail what is computed from a failed step and was not part of its round, or it would be waited for in vain."""
    # In plan order inputs come before what needs them, so that one pass reaches the last of them.
    for step in plan.pending:
        behind = next((key for key in step.input_keys.values() if key in report.failed), None)
        if behind is not None and step.key not in report.failed:
            report.failed[step.key] = report.failed[behind]
            if behind in report.input_errors:
                report.input_errors.add(step.key)


def _lease(pending: list[Step], plan: Plan, leases: Leases, ledger: Ledger) -> list[Step]:
    """The pending steps that this run may work on now, in plan order (inputs come before what needs them)."""
    mine: dict[str, Step] = {}
    for step in pending:
        ready = all(key in plan.done or key in mine for key in step.input_keys.values())
        if not ready:
            # The dead are silent on all their steps at once: measured from now on, not from when the step is ready.
            leases.watch(step.key)
            continue
        if not leases.acquire(step.key):
            continue
        # Another run may have finished the step between our plan and our lease.
        manifest = ledger.manifest(step.kind, step.key)
        if manifest is not None:
            plan.done[step.key] = manifest
            leases.release(step.key)
        else:
            mine[step.key] = step
    return list(mine.values())


def _look_up(pending: list[Step], plan: Plan, ledger: Ledger) -> None:
    for step in pending:
        manifest = ledger.manifest(step.kind, step.key)
        if manifest is not None:
            plan.done[step.key] = manifest


def _announce(pending: list[Step], leases: Leases, progress: Progress, waited_for: set[str]) -> None:
    for step in pending:
        holder = leases.holder_of(step.key)
        if holder is not None and step.key not in waited_for:
            waited_for.add(step.key)
            progress.note(f"waiting for {step.kind} {step.key[:12]}, which {holder} is working on")
