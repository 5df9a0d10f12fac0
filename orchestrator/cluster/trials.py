"""The trainings of a run as trials of Ray Tune: Tune schedules, the ledger is the truth.

The model: the training steps that are ready form a wave, and a wave is one Tune run with one trial per step. What is
done is in no wave; what is half done continues from the state named by the step's key, whatever Tune remembers of it.
Pre-trainings come in one wave and the fine-tunings they feed in the next, so several share one. A trial that fails
fails its step, and the others go on; one that early stopping gives up is told so by a mark on the storage and ends.

A wave runs in the thread that started it. Tune's loop turns ten times a second, and between two turns this module
takes notice of ended trials, follows the losses and looks at the clock; leases are kept by a thread of their own.
Ctrl-C is caught by Tune, which ends the trials and gives their cores back before the run stops.

The failures this guards against: two books about what is done; trials that hold each other's cores; a trial that
waits for ever.
"""

import logging
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator
from ray.tune.experiment import Trial
from ray.tune.integration.ray_train import TuneReportCallback

from orchestrator.cluster import session
from orchestrator.cluster.halving import Halving
from orchestrator.cluster.metrics import RunMetrics
from orchestrator.cluster.training import (
    DRIVER_CORES,
    MOST_DRIVERS,
    FailedInItsWork,
    LostWorker,
    NotStarted,
    Scale,
    fit,
)
from orchestrator.early_stopping import Stop, forget_mark, mark_stopped, read_mark
from orchestrator.execution import TRAIN, Execution, Task
from orchestrator.jobs.making import make_training_job
from orchestrator.jobs.traces import GLANCE, forget_outcome, read_history, read_outcome
from orchestrator.jobs.training import TrainingJob
from orchestrator.preflight import Offer
from orchestrator.progress import Progress
from orchestrator.schedule import Item
from orchestrator.spec import Compute
from orchestrator.steps import Step
from orchestrator.storage import Storage
from orchestrator.trial_cards import TrialCard
from workloads.errors import InputError

_FOLLOW_SECONDS = 1.0


@dataclass
class Trainings:
    """Runs the training steps of executions, one wave after the other."""

    storage: Storage
    name: str
    compute: Compute
    scale: Scale
    offer: Offer
    progress: Progress
    card: Callable[[Step], TrialCard]
    retries: Counter[str]
    metrics: RunMetrics
    halving: Halving | None = None
    _lost: Counter[str] = field(default_factory=Counter)
    _begun: bool = False

    @property
    def folder(self) -> str | None:
        """Where the trials of this run lie; None as long as there was none."""
        return f"{_place(self.storage)}/{self.name}" if self._begun else None

    def run_wave(self, execution: Execution) -> None:
        """Run all training steps that are ready.

        Raises:
            KeyboardInterrupt: the run was interrupted; the trials have been ended.
        """
        wave = _Wave(self, execution, self._ready(execution))
        if not wave.items:
            return
        if not self._begun:
            self._begun = True
            # Ray Train's shared actor stays on the machine that asks for it first, and is missed by all once that is
            # lost: every poll of every training then takes 5 s. This machine's loss ends the run anyway.
            get_or_create_autoscaling_coordinator()
            where = "" if self.storage.is_local else " (on this machine: the storage is no local path)"
            self.progress.say(f"trainings: tensorboard --logdir {self.folder}{where}")
        # Of Tune's two ways of printing the one that can be silent; what a run prints is said by `progress`.
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
        with _interruptible() as interrupted, _quiet("ray.tune", "ray.train"):
            tuner = tune.Tuner(
                tune.with_resources(tune.with_parameters(_trial, wave=wave.work), {"CPU": DRIVER_CORES}),
                param_space={"config": tune.grid_search([card.values for card in wave.cards.values()])},
                tune_config=tune.TuneConfig(
                    max_concurrent_trials=self._concurrent(),
                    # The next trial finds a process that has loaded torch already.
                    reuse_actors=True,
                    trial_name_creator=wave.names,
                    trial_dirname_creator=wave.names,
                ),
                run_config=tune.RunConfig(
                    name=self.name, storage_path=_place(self.storage), callbacks=[wave.follower], verbose=0
                ),
            )
            try:
                tuner.fit()
            except _NothingStarted as error:
                wave.fail_all(str(error))
            if interrupted():
                raise KeyboardInterrupt
        wave.follow()
        wave.close()

    def _ready(self, execution: Execution) -> dict[str, Item[Task]]:
        items = {}
        while (item := execution.schedule.take(TRAIN)) is not None:
            steps = execution.live_steps(item.payload)
            if steps:
                items[steps[0].key] = item
            else:
                execution.skip(item)
        return items

    def _concurrent(self) -> int:
        """Trials that fit beside each other, workers and drivers; a cluster that grows is asked to.

        Counted anew for every wave: machines may have been lost since the run began.
        """
        demand = self.scale.demand
        fit_beside = self.offer.ever_at_once(demand) if self.offer.scales else session.offer(None).at_once(demand)
        return min(max(1, fit_beside), MOST_DRIVERS)

    def may_try_again(self, key: str) -> bool:
        """Whether a trial that its machine or its room was lost to is within its budget."""
        self._lost[key] += 1
        self.retried("lost")
        return self._lost[key] <= self.compute.lost_worker_retries

    def retried(self, cause: str) -> None:
        """Count a training that is started again."""
        self.retries[cause] += 1
        self.metrics.add("retries", cause=cause)


@dataclass(frozen=True)
class _Work:
    """What travels to the trials: jobs by key, and how to run them."""

    jobs: dict[str, TrainingJob]
    scale: Scale
    lost_retries: int
    error_retries: int


class _Wave:
    """One Tune run: its trials, and what their ends mean for the execution."""

    def __init__(self, trainings: Trainings, execution: Execution, items: dict[str, Item[Task]]) -> None:
        self._trainings = trainings
        self._execution = execution
        self.items = items
        self.steps = {key: item.payload.steps[0] for key, item in items.items()}
        compute = trainings.compute
        for key in items:
            forget_mark(trainings.storage, key)
        jobs = {key: make_training_job(trainings.storage, step) for key, step in self.steps.items()}
        self.work = _Work(jobs, trainings.scale, compute.lost_worker_retries, compute.error_retries)
        self.cards = {key: trainings.card(step) for key, step in self.steps.items()}
        self.names = _Names({key: card.name for key, card in self.cards.items()})
        self.follower = _Follower(self)
        self._events: deque[Callable[[], None]] = deque()
        self._open = set(items)
        self._followed = self._begun = time.monotonic()
        self._any_started = False
        # Trials that found no room, and whether others of the wave did: without the others they might have.
        self._crowded_out: dict[str, str] = {}
        self._any_worked = False

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
        if halving is not None and (stop := halving.judge(_key(trial), result)):
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
                glances = [row[GLANCE] for row in rows if GLANCE in row]
                miou = glances[-1] if glances else None
                trainings.progress.follow(self.steps[key].kind, share, rows[-1]["loss"], miou)
        self._require_room()

    def _require_room(self) -> None:
        """Refuse to wait for ever for a cluster that others have taken whole."""
        patience = self._trainings.scale.start_seconds
        if self._any_started or not self._open or time.monotonic() - self._begun < patience:
            return
        free = session.free()["cores"]
        # With room enough it is only a slow machine that takes its time to start a process.
        if free < DRIVER_CORES:
            raise _NothingStarted(
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
        steps = self._execution.live_steps(item.payload)
        self._execution.completed(item, steps, outcome.records, outcome.device, outcome.results)
        forget_outcome(trainings.storage, key)
        forget_mark(trainings.storage, key)
        trainings.progress.advance(item.payload.kind, item.payload.images)
        trainings.metrics.add("trainings", kind=item.payload.kind.value, end="done")

    def _fail(self, key: str, message: str, *, user: bool) -> None:
        self._open.discard(key)
        item = self.items[key]
        self._execution.fail(item, self._execution.live_steps(item.payload), message, user=user)
        self._trainings.metrics.add("trainings", kind=item.payload.kind.value, end="failed")

    def _stop(self, key: str, stop: Stop) -> None:
        self._open.discard(key)
        self._trainings.progress.note(f"stopped {self.cards[key].name}: {stop.reason}")
        self._execution.leave(self.items[key])
        self._trainings.metrics.add("trainings", kind=self.items[key].payload.kind.value, end="stopped")

    def _lose(self, key: str, reason: str) -> None:
        trainings = self._trainings
        if trainings.may_try_again(key):
            self._open.discard(key)
            trainings.progress.note(f"lost the trial {self.cards[key].name}: {reason}; it is run again")
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


class _NothingStarted(Exception):  # noqa: N818
    """Not one trial of a wave was placed in time."""


class _Follower(tune.Callback):
    """Tune's word to the wave; nothing of it is kept with Tune's own state."""

    def __init__(self, wave: _Wave | None = None) -> None:
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


def _place(storage: Storage) -> str:
    """Where Tune writes: on the storage where that is a local path, else in Ray's own folder on this machine."""
    return storage.locate("tune") if storage.is_local else str(Path.home() / "ray_results")


def _trial(config: dict[str, Any], wave: _Work) -> dict[str, float]:
    """One trial: drives a training, starts it again where its budgets allow, and returns its figures."""
    key = config["config"]["key"]
    job = wave.jobs[key]
    left = {"lost": wave.lost_retries, "error": wave.error_retries}
    while True:
        try:
            fit(job, wave.scale, [TuneReportCallback()])
            return _figures(job.storage, key)
        except (LostWorker, FailedInItsWork) as error:
            kind, cause = ("lost" if isinstance(error, LostWorker) else "error"), error
        except InputError as error:
            tune.report({"failure": str(error), "user": True})
            raise
        except NotStarted as error:
            tune.report({"crowded_out": str(error)})
            raise
        if not left[kind]:
            setting = {"lost": "compute.lost_worker_retries", "error": "compute.error_retries"}[kind]
            tune.report({"failure": f"{cause} (tried again as often as {setting} allows)", "user": False})
            raise cause
        left[kind] -= 1
        tune.report({"restart": [kind, str(cause)]})


def _figures(storage: Storage, key: str) -> dict[str, float]:
    """The scalars of a training that has ended, at its last step; none of one that was given up."""
    outcome = read_outcome(storage, key)
    if outcome is None:
        return {}
    rows = read_history(storage, key)
    at = {"timesteps_total": rows[-1]["step"], "loss": rows[-1]["loss"]} if rows else {}
    return at | {name: value for name, value in outcome.results[key].items() if isinstance(value, int | float)}


def _key(trial: Trial) -> str:
    key: str = trial.config["config"]["key"]
    return key


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Says afterwards whether Tune was interrupted, and takes its handlers of signals away.

    Tune puts its own handler in place of ours; it is called at most once, and then puts ours back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "0"
    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        yield lambda: signal.getsignal(signal.SIGINT) is ours[signal.SIGINT]
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Failures are reported by us, once and in words; Tune would print their tracebacks."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
