"""Runs the steps of a plan in this process, one after the other, without Ray: for the few images of a notebook."""

from orchestrator.execution.execution import Execution
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.planning.plan import Plan
from orchestrator.steps.jobs import WorkerCache
from orchestrator.steps.step import Pool, Step
from orchestrator.storage.store import Storage
from workloads.devices import lacking_operations
from workloads.errors import InputError


def run_in_process(plan: Plan, storage: Storage, device: str) -> dict[str, str]:
    """Run what is not done of a plan without trainings; returns the errors of steps by their keys.

    Parameters
    ----------
    plan
        The plan; its `done` grows.
    storage
        Where the steps go.
    device
        Where features are extracted and clustered.
    """
    cache = WorkerCache()

    def ended(step: Step, manifest: Manifest | None) -> None:
        """The execution keeps the books."""

    execution = Execution(Ledger(storage), plan.compute, plan.done, ended)
    execution.begin(plan.pending, 1)
    while len(execution.schedule):
        items = (execution.schedule.take(pool) for pool in (Pool.PROCESS, Pool.CLUSTER, Pool.EXTRACT))
        item = next(found for found in items if found is not None)
        steps = execution.live_steps(item)
        if not steps:
            execution.skip(item)
            continue
        execution.started(steps)
        try:
            with lacking_operations():
                outcome = steps[0].job(storage, steps, item.payload.shard, device).run(cache)
        except Exception as error:
            execution.fail(item, steps, error, user=isinstance(error, InputError))
        else:
            execution.completed(item, outcome)
    return execution.failed
