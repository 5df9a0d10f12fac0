"""Training jobs at work.

Rank 0 alone writes (see `orchestrator.ledger.training_states`). The whole state goes to one file named by the step's
key, so whoever runs the step next (after a worker, a node or the driver died) continues from it.
"""

import io
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from orchestrator.ledger.layout import state_path
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.training_states import read_history, read_state, say_damaged, training_seconds, write_history
from orchestrator.steps.training import SUBSET_EVALUATIONS, DistributedContext, TrainingJob
from orchestrator.storage.faults import kill_point
from workloads.training.collectives import SingleProcess
from workloads.training.loop import Loop, Machine, StepReport

# Told of a step by every worker; False on all of them where the training is to end here, without an outcome.
Tell = Callable[[StepReport], bool]

# In a state: see `TrainingJob.origin`.
_ORIGIN = "origin"


def train_alone(job: TrainingJob) -> Outcome:
    """Train in this process, as the only worker, to the end."""
    outcome = train(
        job, DistributedContext(Machine(), SingleProcess(), None), lambda report: True, checkpoint_seconds=20.0
    )
    assert outcome is not None, "the only worker has rank 0"
    return outcome


def train(job: TrainingJob, context: DistributedContext, tell: Tell, checkpoint_seconds: float) -> Outcome | None:
    """Run one worker's part of a job to its end; the outcome on rank 0, None on the others and where it was given up.

    Rank 0 looks at the lease of its run before it writes: a training that another run has taken over ends there.

    `tell` is called by every worker after the same steps, about a hundred times a run. Rank 0 writes the whole state
    whenever `checkpoint_seconds` have gone by, at whatever step, and when the training is given up.
    """
    if context.workers.rank == 0:
        job.require_lease()
    loop = _continued(job, context)
    storage, key = job.storage, job.key
    history = [row for row in read_history(storage, key) if row["step"] <= loop.step]
    report_every = max(1, loop.total_steps // 100)
    # States are kept between two reports, too: what was done at reports was done up to the last one.
    before = loop.step - loop.step % report_every
    keep = _Keeper(job, loop, checkpoint_seconds) if context.workers.rank == 0 else None
    evaluations = before * SUBSET_EVALUATIONS // loop.total_steps
    for told in loop.run(report_every=report_every, between=keep):
        kill_point("training.kill", f"{job.title} step {told.step}")
        report = told
        if keep is not None:
            if told.step * SUBSET_EVALUATIONS // loop.total_steps > evaluations:
                evaluations = told.step * SUBSET_EVALUATIONS // loop.total_steps
                report = replace(told, shown=told.shown | job.evaluate_subset(loop))
            for share in job.scores_at:
                if before < share * loop.total_steps <= told.step:
                    report = replace(report, shown=report.shown | job.score_at(loop, share))
            history.append(history_row(report))
            job.require_lease()
            write_history(storage, key, history)
            keep()
        before = told.step
        if not tell(report):
            if keep is not None:
                keep.now()
            return None
    job.source.leave_contents(storage)
    if context.workers.rank:
        return None
    begun = time.perf_counter()
    outcome = job.finish(loop, history[-1]["loss"] if history else None)
    job.source.leave_contents(storage)
    job.require_lease()
    seconds = training_seconds(history, loop.config.batch_size) * context.workers.size + time.perf_counter() - begun
    # As of all work, seconds of one core or of one GPU.
    cores = torch.get_num_threads() if loop.machine.device.type == "cpu" else 1
    network = replace(outcome.files["network"], seconds=round(seconds * cores, 3))
    trained = outcome.results[key] | {"images_trained": loop.total_steps * loop.config.batch_size}
    return replace(
        outcome,
        origin=job.origin,
        files=outcome.files | {"network": network},
        results={key: trained},
        device=loop.machine.device.type,
    )


def _continued(job: TrainingJob, context: DistributedContext) -> Loop:
    """The training loop of one worker, where the last run of the training left it."""
    loop = job.build(context)
    data = read_state(job.storage, job.key)
    if data is None:
        return loop
    try:
        state = torch.load(io.BytesIO(data), weights_only=True)
        if state.pop(_ORIGIN, "") != job.origin:
            # What the training is computed from was made anew, and came out otherwise.
            return loop
        loop.load_state_dict(state)
        if not 0 <= loop.step <= loop.total_steps:
            raise ValueError(f"it is at step {loop.step} of {loop.total_steps}")
    except Exception as error:  # torch raises of many kinds on what is no state
        say_damaged(job.storage, state_path(job.key), error)
        # Half of it may have been taken over.
        return job.build(context)
    return loop


class _Keeper:
    """Keeps the state of a training by the clock, as long as its step is this run's."""

    def __init__(self, job: TrainingJob, loop: Loop, seconds: float) -> None:
        self._job, self._loop, self._seconds = job, loop, seconds
        self._kept = time.monotonic()

    def __call__(self) -> None:
        """Keep the state if it is time to."""
        if time.monotonic() - self._kept >= self._seconds:
            self._job.require_lease()
            self.now()
            self._kept = time.monotonic()

    def now(self) -> None:
        """Keep the state."""
        buffer = io.BytesIO()
        torch.save(self._loop.state_dict() | {_ORIGIN: self._job.origin}, buffer)
        self._job.storage.replace(state_path(self._job.key), buffer.getvalue())


def history_row(report: StepReport) -> dict[str, float]:
    """What a history holds of a report."""
    return {
        "step": report.step,
        "total_steps": report.total_steps,
        "epoch": report.epoch,
        "loss": report.loss,
        "learning_rate": report.learning_rate,
        "images_per_second": report.images_per_second,
        "wait_share": report.wait_share,
    } | report.shown
