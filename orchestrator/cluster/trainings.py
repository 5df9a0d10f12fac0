"""The trainings that were granted: how far they are, and what their ends mean. `runner` and `room` decide how many.

The model: a training step is an item as all others are. It is granted once there is room for it, becomes a trial of the
one Tune run beside the loop, and at its end the ledger is asked what became of it: what is done is done, what is half
done goes on from the state named by the step's key, whatever Tune remembers of it.

The failures this guards against: two books about what is done; a training that ends without a word; one that waits for
ever for cores that others have taken.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ray.exceptions import RayError

from orchestrator.cluster import ray_private, session
from orchestrator.cluster.metrics import RunMetrics
from orchestrator.cluster.room import Claim, Room
from orchestrator.cluster.tensorboard import TrainingLogger
from orchestrator.cluster.training import DRIVER_CORES, Scale, fit
from orchestrator.cluster.trial import END, REASON, End, Fit, Work
from orchestrator.cluster.tune_run import Told, TuneRun
from orchestrator.execution.early_stopping import SuccessiveHalving
from orchestrator.execution.execution import Execution, Task
from orchestrator.execution.progress import Progress
from orchestrator.execution.retries import Cause, Retries
from orchestrator.execution.schedule import Item
from orchestrator.execution.trial_info import TrialInfo
from orchestrator.ledger.layout import TUNE
from orchestrator.ledger.leases import Fence
from orchestrator.ledger.stop_marks import forget_mark, mark_stopped, read_mark
from orchestrator.ledger.training_states import VAL_MIOU_SUBSET, forget_outcome, read_history, read_outcome
from orchestrator.steps.step import Step
from orchestrator.steps.training import TrainingStep
from orchestrator.storage.store import Storage
from workloads.formats import duration, from_here

_FOLLOW_SECONDS = 1.0
# Workers of a training that has ended hold their cores and GPUs for the next; that comes at once or not at all.
_IDLE_SECONDS = 1.5
# A training that reports nothing for so long, and for so many times its usual, is spoken of.
_STILL_SECONDS = 60.0
_TIMES_AS_LONG = 10.0
_LESS_MEMORY = (
    "less is needed with a smaller batch (pretrain.batch_size, finetune.batch_size), smaller views or more workers "
    "(compute.train_workers)"
)


@dataclass
class _Running:
    """A training that was granted: its place, when that was, and whether it has begun."""

    item: Item[Task]
    step: Step
    claim: Claim
    tune_run: TuneRun
    origin: str
    since: float = field(default_factory=time.monotonic)
    has_begun: bool = False
    group: str | None = None
    # The placement groups that it may take over: they stay until it has said which one it has.
    may_take_over: frozenset[str] = frozenset()
    # Reports, when the last came, and the longest that one was waited for.
    rows: int = 0
    moved: float = field(default_factory=time.monotonic)
    interval: float = 0.0

    def saw(self, rows: int) -> None:
        """Take notice of the reports there are."""
        if rows == self.rows:
            return
        now = time.monotonic()
        if self.rows:
            self.interval = max(self.interval, now - self.moved)
        self.rows, self.moved = rows, now


@dataclass(kw_only=True)
class Trainings:
    """Runs the trainings of one run."""

    storage: Storage
    scale: Scale
    progress: Progress
    info: Callable[[Step], TrialInfo]
    retries: Retries
    metrics: RunMetrics
    room: Room
    halving: SuccessiveHalving | None = None
    fit: Fit = fit
    # Those that were ended for memory: they get their machines to themselves.
    alone: set[str] = field(default_factory=set)
    _running: dict[str, _Running] = field(default_factory=dict)
    # The last one takes trainings; those before it were told that theirs are the last, and one was lost.
    _tunes: list[TuneRun] = field(default_factory=list)
    _shown: list[str] = field(default_factory=list)
    _granted: int = 0
    # Placement groups whose workers may wait for the next training, and since when.
    _waiting: dict[str, float] = field(default_factory=dict)
    _followed: float = 0.0
    # Trainings that did not start for want of room come again when one of the others has ended.
    _crowded_out: list[Item[Task]] = field(default_factory=list)
    _any_worked: bool = False

    @property
    def folders(self) -> dict[str, str]:
        """Where the files of the trials lie, by the experiment that they are shown as."""
        return {name: str(self._place / name) for name in self._shown}

    @property
    def active(self) -> int:
        """How many trainings are granted."""
        return len(self._running)

    def grant(self, item: Item[Task], step: Step, claim: Claim, fence: Fence) -> None:
        """Run a training in the place that it was given."""
        assert isinstance(step, TrainingStep)
        forget_mark(self.storage, step.key)
        self._granted += 1
        trial = f"{step.key}/{self._granted}"
        may_take_over = frozenset() if item.name in self.alone else frozenset(self._waiting)
        scale = replace(self.scale.at(claim, pinned=not self.room.has_one_machine), may_take_over=may_take_over)
        tune_run = self._tune_run()
        info = self.info(step)
        self._say_where(info)
        job = replace(step.training_job(self.storage), fence=fence)
        self._running[trial] = _Running(item, step, claim, tune_run, job.origin, may_take_over=may_take_over)
        # Shown under `config` are the values alone; the rest is for the trial itself.
        config = {"config": info.values, "name": info.name, "info": info, "work": Work(job, scale, self.fit)}
        tune_run.grant(trial, config)

    def expect_no_more(self) -> None:
        """All trainings that are left are granted: Tune ends with the last of them."""
        for each in self._tunes:
            each.finish()

    def follow(self, execution: Execution) -> None:
        """Deal with what was told, show how far the trainings are, and look at the clock."""
        for each in list(self._tunes):
            while not each.told.empty():
                self._hear(each.told.get(), execution, each)
        if self._running and time.monotonic() - self._followed >= _FOLLOW_SECONDS:
            self._followed = time.monotonic()
            self._show()
            self._require_drivers(execution)
        if self._waiting:
            self._end_waiting()
        if not self._running:
            self._let_in(execution)

    def _let_in(self, execution: Execution) -> None:
        """Those that found no room try again."""
        while self._crowded_out:
            execution.schedule.put_back(self._crowded_out.pop())

    def reasons(self) -> dict[str, str]:
        """The trainings that do not move, and what they wait for."""
        reasons = {}
        for running in self._running.values():
            name = self.info(running.step).name
            if not running.has_begun:
                reasons[name] = f"its driver has not started; {session.free_in_words()}"
            elif not running.rows:
                reasons[name] = f"its workers start, or are at their first step; {session.free_in_words()}"
            elif time.monotonic() - running.moved >= max(_STILL_SECONDS, _TIMES_AS_LONG * running.interval):
                reasons[name] = f"it has reported nothing for {duration(time.monotonic() - running.moved)}"
        return reasons

    def close(self) -> None:
        """End what still runs, and give back what it holds."""
        for each in self._tunes:
            each.close()
        self._tunes.clear()
        # Where Ray itself has ended there is nothing to give back to.
        if session.head_answers():
            with suppress(RayError, ConnectionError, RuntimeError):
                for running in self._running.values():
                    self._give_back(running)
                for group in self._waiting:
                    ray_private.remove_group(group)
        self._running.clear()
        self._waiting.clear()

    def _tune_run(self) -> TuneRun:
        if not self._tunes or self._tunes[-1].is_last:
            ray_private.place_shared_actor_here()
            self._tunes.append(TuneRun([TrainingLogger(self._place)], {"CPU": DRIVER_CORES}))
        return self._tunes[-1]

    def _say_where(self, info: TrialInfo) -> None:
        if info.experiment not in self._shown:
            self._shown.append(info.experiment)
            where = "" if self.storage.is_local else " (on this machine: the storage is no local path)"
            self.progress.say(f"trainings: tensorboard --logdir {from_here(self.folders[info.experiment])}{where}")

    @property
    def _place(self) -> Path:
        if self.storage.is_local:
            return Path(self.storage.locate(TUNE))
        return Path.home() / "ray_results"

    def _hear(self, told: Told, execution: Execution, tune_run: TuneRun) -> None:
        if told.trial is None:
            self._tune_ended(
                tune_run, execution, (told.result or {}).get("error", "Ray Tune ended without a word about it")
            )
            return
        running = self._running.get(told.trial)
        if running is None:
            return
        result = told.result
        if result is None:
            running.has_begun = True
            execution.started([running.step])
        elif told.ended:
            del self._running[told.trial]
            self._give_back(running, waits=result.get(END) == End.DONE)
            self._end(running, result, execution)
            if result.get(END) != End.NOT_STARTED:
                self._let_in(execution)
        elif ray_private.PLACEMENT_GROUP in result:
            running.group = result[ray_private.PLACEMENT_GROUP]
        elif "loss" in result and END not in result:
            self._any_worked = True
            self._judge(running.step.key, result)

    def _judge(self, key: str, result: dict[str, Any]) -> None:
        if self.halving is None or "timesteps_total" not in result:
            return
        stop = self.halving.judge(key, result["timesteps_total"], result.get(VAL_MIOU_SUBSET))
        if stop is not None:
            mark_stopped(self.storage, key, stop)

    def _give_back(self, running: _Running, *, waits: bool = False) -> None:
        self.room.release(running.claim)
        if running.group is not None and waits:
            self._waiting[running.group] = time.monotonic()
        elif running.group is not None:
            ray_private.remove_group(running.group)

    def _end_waiting(self) -> None:
        """Give back what nobody takes over: at once where a training that might have has another, else soon."""
        groups = {running.group for running in self._running.values()}
        promised = {group for one in self._running.values() if one.group is None for group in one.may_take_over}
        refused = {group for one in self._running.values() if one.group is not None for group in one.may_take_over}
        for group, since in list(self._waiting.items()):
            if group in groups:
                del self._waiting[group]
            elif group not in promised and (group in refused or time.monotonic() - since > _IDLE_SECONDS):
                del self._waiting[group]
                ray_private.remove_group(group)

    def _end(self, running: _Running, result: dict[str, Any], execution: Execution) -> None:
        """What the end of a trial comes to, by what lies on the storage and then by what it said."""
        item, step = running.item, running.step
        if not execution.live_steps(item):
            execution.skip(item)
            return
        outcome = read_outcome(self.storage, step.key, running.origin)
        end, reason = result.get(END), str(result.get(REASON, "the process that drove it is gone"))
        if outcome is not None:
            self._any_worked = True
            execution.completed(item, outcome)
            forget_outcome(self.storage, step.key)
            forget_mark(self.storage, step.key)
            self.progress.advance(step.title, item.payload.images)
            self.metrics.add("trainings", kind=step.kind, end="done")
        elif end == End.DONE and (stop := read_mark(self.storage, step.key)) is not None:
            self.progress.note(f"stopped {self.info(step).name}: {stop.reason}")
            execution.leave(item)
            self.metrics.add("trainings", kind=step.kind, end="stopped")
        elif end == End.TAKEN_OVER:
            self.progress.note(f"{self.info(step).name}: {reason}")
            execution.hand_over(step)
            execution.skip(item)
        elif end == End.INPUT:
            self._fail(running, reason, execution, user=True)
        elif end == End.SHORT_OF_MEMORY:
            self._once_more_alone(running, reason, execution)
        elif end == End.NOT_STARTED:
            self._not_started(running, reason, execution)
        else:
            self._again(running, Cause.ERROR if end == End.ERROR else Cause.LOST, reason, execution)

    def _again(self, running: _Running, cause: Cause, reason: str, execution: Execution) -> None:
        if self.retries.again(running.step.key, cause):
            name = self.info(running.step).name
            self.progress.note(f"{name}: {reason}; the training continues from its last state")
            execution.schedule.put_back(running.item)
            return
        setting = {Cause.LOST: "compute.lost_worker_retries", Cause.ERROR: "compute.error_retries"}[cause]
        self._fail(running, f"{reason} (tried again as often as {setting} allows)", execution, user=False)

    def _once_more_alone(self, running: _Running, reason: str, execution: Execution) -> None:
        if self.retries.again(running.step.key, Cause.MEMORY):
            name = self.info(running.step).name
            self.progress.note(
                f"{name}: ended for memory: {reason}; the training continues from its last state, with a machine to "
                "itself"
            )
            self.alone.add(running.item.name)
            execution.schedule.put_back(running.item)
            return
        reason = f"ended for memory, also with a machine to itself: {reason}; {_LESS_MEMORY}"
        self._fail(running, reason, execution, user=False)

    def _not_started(self, running: _Running, reason: str, execution: Execution) -> None:
        """Where others run or have run there will be room again; where not one did, there will be none."""
        if not (self._running or self._any_worked):
            self._fail(running, reason, execution, user=False)
        elif self.retries.again(running.step.key, Cause.LOST):
            self.progress.note(f"{self.info(running.step).name}: it found no room beside the others; it is run again")
            self._crowded_out.append(running.item)
        else:
            self._fail(
                running, f"{reason} (tried as often as compute.lost_worker_retries allows)", execution, user=False
            )

    def _fail(self, running: _Running, reason: str, execution: Execution, *, user: bool) -> None:
        execution.fail(running.item, execution.live_steps(running.item), reason, user=user)
        self.metrics.add("trainings", kind=running.step.kind, end="failed")

    def _tune_ended(self, tune_run: TuneRun, execution: Execution, reason: str) -> None:
        tune_run.close()
        self._tunes.remove(tune_run)
        for trial, running in list(self._running.items()):
            if running.tune_run is tune_run:
                del self._running[trial]
                self._give_back(running)
                self._end(running, {REASON: reason}, execution)

    def _show(self) -> None:
        for running in self._running.values():
            if rows := read_history(self.storage, running.step.key):
                running.saw(len(rows))
                share = rows[-1]["step"] / rows[-1]["total_steps"]
                subset_mious = [row[VAL_MIOU_SUBSET] for row in rows if VAL_MIOU_SUBSET in row]
                miou = subset_mious[-1] if subset_mious else None
                name = self.info(running.step).name
                self.progress.follow(running.step.title, share, rows[-1]["loss"], miou, name)

    def _require_drivers(self, execution: Execution) -> None:
        """Refuse to wait for ever for a cluster that others have taken whole."""
        patience = self.scale.start_seconds
        late = [
            trial
            for trial, one in self._running.items()
            if not one.has_begun and time.monotonic() - one.since >= patience
        ]
        if len(late) < len(self._running):
            return
        free = session.free()["cores"]
        # With room enough it is only a slow machine that takes its time to start a process.
        if free >= DRIVER_CORES:
            return
        for trial in late:
            running = self._running.pop(trial)
            self._give_back(running)
            self._fail(
                running,
                f"no training could start within {patience:g} s (compute.start_seconds): its driver takes "
                f"{DRIVER_CORES} cores, free are {free:g}",
                execution,
                user=False,
            )
