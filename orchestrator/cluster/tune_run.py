"""One run of Ray Tune beside the loop that hands out all other work; its trials are the trainings, as they are granted.

The model: Tune runs in a thread of its own and asks a searcher for the next trial; the searcher knows the trainings
that have found their place, and no others. What Tune tells comes back through a queue that the loop empties. Tune may
wait for minutes without calling anybody, so nothing hangs on its being called. Its own folder is a private one on this
machine: at its end it unpickles what lies there.

The failures this guards against: trainings that wait for each other's ends; code that others put where Tune reads it.
"""

import logging
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from orchestrator.cluster import ray_private, session
from orchestrator.cluster.trial import run_trial

# A cluster whose head is to carry the drivers of trials, and not machines that come and go, offers this there.
DRIVER = "lookbeyond_driver"
_LOGGERS = ("ray.tune", "ray.train")
_LEAVING_SECONDS = 60.0
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Told:
    """What Tune said of a trial: that it starts, what it reports, that it has ended; None: Tune itself has ended."""

    trial: str | None
    result: dict[str, Any] | None
    ended: bool = False


class TuneRun:
    """One run of Tune: give it trials, and read what it tells."""

    # Tune copies and pickles what it is given; a name is the same in every copy.
    _all: dict[str, "TuneRun"] = {}  # noqa: RUF012

    def __init__(self, callbacks: Sequence[tune.Callback], driver: dict[str, float]) -> None:
        self.told: queue.SimpleQueue[Told] = queue.SimpleQueue()
        self.granted: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.finishing = threading.Event()
        self.stopping = threading.Event()
        self.folder = tempfile.mkdtemp(prefix="lookbeyond-tune-")
        TuneRun._all[self.folder] = self
        os.environ |= ray_private.TUNE_SETTINGS
        place = tune.PlacementGroupFactory([{DRIVER: 0.001} if DRIVER in ray.cluster_resources() else driver])
        self._tuner = tune.Tuner(
            tune.with_resources(run_trial, place),
            param_space={},
            tune_config=tune.TuneConfig(
                search_alg=_Granted(self.folder),
                num_samples=-1,
                # The next trial finds a process that has loaded torch already.
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_identity,
            ),
            run_config=tune.RunConfig(
                name="trainings",
                storage_path=self.folder,
                callbacks=[*callbacks, _Follower(self.folder)],
                stop=_Stopping(self.folder),
                verbose=0,
            ),
        )
        self._thread = threading.Thread(target=self._fit, daemon=True, name="tune")
        self._thread.start()

    @property
    def is_last(self) -> bool:
        """Whether it takes no more trials."""
        return self.finishing.is_set() or not self._thread.is_alive()

    @staticmethod
    def of(folder: str) -> "TuneRun":
        """The run that something of Tune's belongs to."""
        return TuneRun._all[folder]

    def grant(self, trial: str, config: dict[str, Any]) -> None:
        """Have a trial run as soon as Tune asks for one."""
        self.granted.put(config | {"trial": trial})

    def finish(self) -> None:
        """No more trials are to come; those that run are waited for."""
        self.finishing.set()

    def close(self) -> None:
        """End what still runs, and clean up."""
        self.finishing.set()
        self.stopping.set()
        deadline = time.monotonic() + _LEAVING_SECONDS
        # Without a head Tune waits for ever for what it has asked to end.
        while self._thread.is_alive() and time.monotonic() < deadline and session.head_answers():
            self._thread.join(_LOOK_SECONDS)
        TuneRun._all.pop(self.folder, None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _fit(self) -> None:
        try:
            # What fails is reported by us, once and in words; Tune would print tracebacks.
            with _quiet(*_LOGGERS):
                self._tuner.fit()
        except Exception as error:  # Tune has no common type of error
            self.told.put(Told(None, {"error": f"{type(error).__name__}: {error}"}))
        else:
            self.told.put(Told(None, None))


class _Granted(Searcher):
    """Suggests the trainings that have found their place."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def suggest(self, trial_id: str) -> Any:
        run = TuneRun.of(self._folder)
        if run.stopping.is_set():
            return Searcher.FINISHED
        try:
            return run.granted.get_nowait()
        except queue.Empty:
            return Searcher.FINISHED if run.finishing.is_set() else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder}


class _Stopping(tune.Stopper):
    """Ends all trials when the run is closed."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        run = TuneRun._all.get(self._folder)
        return run is None or run.stopping.is_set()


class _Follower(tune.Callback):
    """Tune's word to the run."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def _tell(self, trial: Trial, result: dict[str, Any] | None, *, ended: bool = False) -> None:
        if (run := TuneRun._all.get(self._folder)) is not None:
            run.told.put(Told(trial.config["trial"], result, ended))

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._tell(trial, None)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._tell(trial, result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._tell(trial, trial.last_result or {}, ended=True)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._tell(trial, trial.last_result or {}, ended=True)


def _name(trial: Trial) -> str:
    name: str = trial.config["name"]
    return name


def _identity(trial: Trial) -> str:
    identity: str = trial.trial_id
    return identity


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
