"""A wave of trainings: one Tune run, its trials, and what their ends mean for the execution.

The model: Tune calls the wave's follower between two turns of its loop. What happened is noted there and dealt with
when the turn is over, since Tune takes whatever a callback raises for a failure of the trial.

The failures this guards against: a trial that ends without a word; a wave that waits for ever for a cluster that others
have taken whole.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from orchestrator.cluster import session
from orchestrator.cluster.training import DRIVER_CORES, Scale
from orchestrator.cluster.training_run import TrainingRun
from orchestrator.execution.execution import Execution, Task
from orchestrator.execution.schedule import Item
from orchestrator.ledger.stop_marks import Stop, forget_mark, mark_stopped, read_mark
from orchestrator.ledger.training_states import VAL_MIOU_SUBSET, forget_outcome, read_history, read_outcome
from orchestrator.steps.step import Step
from orchestrator.steps.training import TrainingJob, TrainingStep

_FOLLOW_SECONDS = 1.0


@dataclass(frozen=True)
class Work:
    """What travels to the trials: jobs by key, and how to run them."""

    jobs: dict[str, TrainingJob]
    scale: Scale
    lost_retries: int
    error_retries: int


class Wave:
    """One Tune run: its trials, and what their ends mean for the execution."""

    def __init__(self, trainings: TrainingRun, execution: Execution, items: dict[str, Item[Task]]) -> None:
        self._trainings = trainings
        self._execution = execution
        self.items = items
        self.steps = {key: item.payload.steps[0] for key, item in items.items()}
        compute = trainings.compute
        for key in items:
            forget_mark(trainings.storage, key)
        jobs = {key: self._job(step) for key, step in self.steps.items()}
        self.work = Work(jobs, trainings.scale, compute.lost_worker_retries, compute.error_retries)
        self.infos = {key: trainings.info(step) for key, step in self.steps.items()}
        self.names = _Names({key: info.name for key, info in self.infos.items()})
        self.follower = _Follower(self)
        self._events: deque[Callable[[], None]] = deque()
        self._open = set(items)
        self._followed = self._begun = time.monotonic()
        self._any_started = False
        # Trials that found no room, and whether others of the wave did: without the others they might have.
        self._crowded_out: dict[str, str] = {}
        self._any_worked = False

    def _job(self, step: Step) -> TrainingJob:
        assert isinstance(step, TrainingStep)
        return step.training_job(self._trainings.storage)

    def note_start(self, trial: Trial) -> None:
        """A trial is about to run."""
        self._any_started = True
        self._execution.started([self.steps[_key(trial)]])

    def note_result(self, trial: Trial, result: dict[str, Any]) -> None:
        """A trial has told how far it is, or that it lost a worker or failed and goes on by itself.

        Where others were better at that step, it is told to end.
        """
        trainings = self._trainings
        if "restart" in result:
            kind, reason = result["restart"]
            trainings.retried(kind)
            trainings.progress.note(f"{trial}: {reason}; the training continues from its last state")
            return
        self._any_worked |= "loss" in result
        halving = trainings.halving
        if halving is None or "timesteps_total" not in result:
            return
        if stop := halving.judge(_key(trial), result["timesteps_total"], result.get(VAL_MIOU_SUBSET)):
            self._events.append(lambda: mark_stopped(trainings.storage, _key(trial), stop))

    def note_end(self, trial: Trial) -> None:
        """A trial has ended, well or not: what to do about it is done by `follow`.

        Tune takes whatever is raised here for a failure of the trial.
        """
        self._events.append(lambda: self._end(trial))

    def follow(self) -> None:
        """Deal with what has ended, show how far the others are, and look at the clock."""
        while self._events:
            self._events.popleft()()
        if time.monotonic() - self._followed < _FOLLOW_SECONDS:
            return
        self._followed = time.monotonic()
        trainings = self._trainings
        for key in self._open:
            if rows := read_history(trainings.storage, key):
                share = rows[-1]["step"] / rows[-1]["total_steps"]
                subset_mious = [row[VAL_MIOU_SUBSET] for row in rows if VAL_MIOU_SUBSET in row]
                miou = subset_mious[-1] if subset_mious else None
                trainings.progress.follow(self.steps[key].title, share, rows[-1]["loss"], miou)
        self._require_room()

    def _require_room(self) -> None:
        """Refuse to wait for ever for a cluster that others have taken whole."""
        patience = self._trainings.scale.start_seconds
        if self._any_started or not self._open or time.monotonic() - self._begun < patience:
            return
        free = session.free()["cores"]
        # With room enough it is only a slow machine that takes its time to start a process.
        if free < DRIVER_CORES:
            raise NothingStartedError(
                f"no training could start within {patience:g} s (compute.start_seconds): its driver takes "
                f"{DRIVER_CORES} cores, free are {free:g}"
            )

    def close(self) -> None:
        """Settle what is left: trials of which Tune said nothing, and those that found no room."""
        for key in list(self._open):
            self._lose(key, "Ray Tune ended without a word about it")
        for key, message in self._crowded_out.items():
            # Where not one training found room, none will.
            if self._any_worked:
                self._lose(key, "it found no room beside the others")
            else:
                self._fail(key, message, user=False)

    def fail_all(self, message: str) -> None:
        """The wave as a whole came to nothing."""
        for key in list(self._open):
            self._fail(key, message, user=False)

    def _end(self, trial: Trial) -> None:
        key, result = _key(trial), trial.last_result or {}
        if key not in self._open:
            return
        if "failure" in result:
            self._fail(key, result["failure"], user=bool(result["user"]))
            return
        if "crowded_out" in result:
            self._open.discard(key)
            self._crowded_out[key] = result["crowded_out"]
            return
        trainings = self._trainings
        outcome = read_outcome(trainings.storage, key)
        if outcome is None and (stop := read_mark(trainings.storage, key)):
            self._stop(key, stop)
            return
        if outcome is None:
            self._lose(key, f"the process that drove it is gone ({trial.status})")
            return
        self._open.discard(key)
        self._any_worked = True
        item = self.items[key]
        self._execution.completed(item, outcome)
        forget_outcome(trainings.storage, key)
        forget_mark(trainings.storage, key)
        trainings.progress.advance(self.steps[key].title, item.payload.images)
        trainings.metrics.add("trainings", kind=item.payload.kind, end="done")

    def _fail(self, key: str, message: str, *, user: bool) -> None:
        self._open.discard(key)
        item = self.items[key]
        self._execution.fail(item, self._execution.live_steps(item.payload), message, user=user)
        self._trainings.metrics.add("trainings", kind=item.payload.kind, end="failed")

    def _stop(self, key: str, stop: Stop) -> None:
        self._open.discard(key)
        self._trainings.progress.note(f"stopped {self.infos[key].name}: {stop.reason}")
        self._execution.leave(self.items[key])
        self._trainings.metrics.add("trainings", kind=self.items[key].payload.kind, end="stopped")

    def _lose(self, key: str, reason: str) -> None:
        trainings = self._trainings
        if trainings.may_try_again(key):
            self._open.discard(key)
            trainings.progress.note(f"lost the trial {self.infos[key].name}: {reason}; it is run again")
            self._execution.schedule.put_back(self.items[key])
        else:
            self._fail(
                key, f"lost again and again (compute.lost_worker_retries), the last time since {reason}", user=False
            )


@dataclass(frozen=True)
class _Names:
    """Names trials and their folders; Tune pickles it."""

    by_key: dict[str, str]

    def __call__(self, trial: Trial) -> str:
        return self.by_key[_key(trial)]


class NothingStartedError(Exception):
    """Not one trial of a wave was placed in time."""


class _Follower(tune.Callback):
    """Tune's word to the wave; nothing of it is kept with Tune's own state."""

    def __init__(self, wave: Wave | None = None) -> None:
        self._wave = wave

    def __reduce__(self) -> tuple[type["_Follower"], tuple[()]]:
        return _Follower, ()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self._wave is not None:
            self._wave.note_start(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if self._wave is not None:
            self._wave.note_result(trial, result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self._wave is not None:
            self._wave.note_end(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self._wave is not None:
            self._wave.note_end(trial)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self._wave is not None:
            self._wave.follow()


def _key(trial: Trial) -> str:
    key: str = trial.config["config"]["key"]
    return key
