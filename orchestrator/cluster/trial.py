"""One trial of Tune: it drives one training once and says how that ended.

It reports and returns, and never raises: what Tune keeps of an exception it unpickles in the process that drives the
run, from a file. Whether a training is tried again is for the run to say.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ray import tune

from orchestrator.cluster.reports import Tell
from orchestrator.cluster.training import (
    FailedInItsWorkError,
    LostWorkerError,
    NotStartedError,
    Scale,
    ShortOfMemoryError,
    fit,
)
from orchestrator.ledger.leases import LeaseLostError
from orchestrator.ledger.training_states import read_history, read_outcome
from orchestrator.steps.training import TrainingJob
from workloads.errors import InputError

# In the last that a trial tells.
END, REASON = "end", "reason"

Fit = Callable[[TrainingJob, Scale, Tell], None]


class End(StrEnum):
    """How a trial ended."""

    DONE = "done"
    LOST = "lost"
    SHORT_OF_MEMORY = "short of memory"
    NOT_STARTED = "not started"
    TAKEN_OVER = "taken over"
    INPUT = "input"
    ERROR = "error"


_ENDS = {
    LostWorkerError: End.LOST,
    ShortOfMemoryError: End.SHORT_OF_MEMORY,
    NotStartedError: End.NOT_STARTED,
    LeaseLostError: End.TAKEN_OVER,
    InputError: End.INPUT,
    FailedInItsWorkError: End.ERROR,
}


@dataclass(frozen=True)
class Work:
    """What travels to a trial: a training and its place."""

    job: TrainingJob = field(repr=False)
    scale: Scale
    fit: Fit = field(default=fit, repr=False)


def run_trial(config: dict[str, Any]) -> dict[str, Any]:
    """Drive a training; how it ended, and its figures."""
    work: Work = config["work"]
    try:
        work.fit(work.job, work.scale, tune.report)
    except Exception as error:  # whatever Ray may raise
        end = next((end for kind, end in _ENDS.items() if isinstance(error, kind)), None)
        # Errors of other kinds say little without theirs.
        return {END: end or End.ERROR, REASON: str(error) if end else f"{type(error).__name__}: {error}"}
    return {END: End.DONE} | _figures(work.job)


def _figures(job: TrainingJob) -> dict[str, float]:
    """The scalars of a training that has ended, at its last step; none of one that was given up."""
    outcome = read_outcome(job.storage, job.key, job.origin)
    if outcome is None:
        return {}
    rows = read_history(job.storage, job.key)
    at = {"timesteps_total": rows[-1]["step"], "loss": rows[-1]["loss"]} if rows else {}
    return at | {name: value for name, value in outcome.results[job.key].items() if isinstance(value, int | float)}
