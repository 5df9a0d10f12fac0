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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from orchestrator.cluster import ray_private, session
from orchestrator.cluster.tensorboard import TrainingLogger
from orchestrator.cluster.training import (
    DRIVER_CORES,
    MOST_DRIVERS,
    FailedInItsWorkError,
    LostWorkerError,
    NotStartedError,
    fit,
)
from orchestrator.cluster.training_run import TrainingRun
from orchestrator.cluster.waves import NothingStartedError, Wave, Work
from orchestrator.execution.execution import Execution, Task
from orchestrator.execution.schedule import Item
from orchestrator.ledger.layout import TUNE
from orchestrator.ledger.training_states import read_history, read_outcome
from orchestrator.steps.step import Pool
from orchestrator.storage.store import Storage
from workloads.errors import InputError


@dataclass
class Trainings(TrainingRun):
    """Runs the training steps of executions, one wave after the other."""

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
        wave = Wave(self, execution, self._ready(execution))
        if not wave.items:
            return
        if not self._begun:
            self._begun = True
            ray_private.place_shared_actor_here()
            where = "" if self.storage.is_local else " (on this machine: the storage is no local path)"
            self.progress.say(f"trainings: tensorboard --logdir {self.folder}{where}")
        os.environ |= ray_private.SILENT_TUNE
        callbacks = [wave.follower, TrainingLogger(wave.infos)]
        with _interruptible() as interrupted, _quiet("ray.tune", "ray.train"):
            tuner = tune.Tuner(
                tune.with_resources(tune.with_parameters(_trial, wave=wave.work), {"CPU": DRIVER_CORES}),
                param_space={"config": tune.grid_search([info.values for info in wave.infos.values()])},
                tune_config=tune.TuneConfig(
                    max_concurrent_trials=self._concurrent(),
                    # The next trial finds a process that has loaded torch already.
                    reuse_actors=True,
                    trial_name_creator=wave.names,
                    trial_dirname_creator=wave.names,
                ),
                run_config=tune.RunConfig(
                    name=self.name, storage_path=_place(self.storage), callbacks=callbacks, verbose=0
                ),
            )
            try:
                tuner.fit()
            except NothingStartedError as error:
                wave.fail_all(str(error))
            if interrupted():
                raise KeyboardInterrupt
        wave.follow()
        wave.close()

    def _ready(self, execution: Execution) -> dict[str, Item[Task]]:
        items = {}
        while (item := execution.schedule.take(Pool.TRAIN)) is not None:
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
        request = self.scale.request
        if self.capacity.scales:
            fit_beside = self.capacity.most_at_once(request)
        else:
            fit_beside = session.capacity(None).at_once(request)
        return min(max(1, fit_beside), MOST_DRIVERS)


def _place(storage: Storage) -> str:
    """Where Tune writes: on the storage where that is a local path, else in Ray's own folder on this machine."""
    return storage.locate(TUNE) if storage.is_local else str(Path.home() / "ray_results")


def _trial(config: dict[str, Any], wave: Work) -> dict[str, float]:
    """One trial: drives a training, starts it again where its budgets allow, and returns its figures."""
    key = config["config"]["key"]
    job = wave.jobs[key]
    left = {"lost": wave.lost_retries, "error": wave.error_retries}
    while True:
        try:
            fit(job, wave.scale, tune.report)
            return _figures(job.storage, key)
        except (LostWorkerError, FailedInItsWorkError) as error:
            kind, cause = ("lost" if isinstance(error, LostWorkerError) else "error"), error
        except InputError as error:
            tune.report({"failure": str(error), "user": True})
            raise
        except NotStartedError as error:
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
