"""Early stopping: which fine-tunings are given up, by Tune's own rule (ASHA).

The model: one `ASHAScheduler` per column is asked about every mIoU that a fine-tuning reports on its way. It knows
trainings by step and not by trial, and begins with what the histories on the storage tell, so that a column is compared
across waves and runs. It is asked and nothing more: a trial that Tune itself stops is killed while it drives a group of
workers, and Train is left to notice. The failure this guards against: a rule that forgets what it has seen, and takes
the worst training of a new wave for its best.
"""

import math
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from orchestrator.execution.early_stopping import Column, column
from orchestrator.ledger.stop_marks import Stop
from orchestrator.ledger.training_states import VAL_MIOU_SUBSET, read_history
from orchestrator.spec.experiment import EarlyStopping
from orchestrator.steps.step import Step
from orchestrator.storage.store import Storage

_STEP = "timesteps_total"
# ASHA keeps its own books, and has no use for those of Tune.
_NO_CONTROLLER: Any = None


class Halving:
    """Decides about the fine-tunings of an experiment that may be given up."""

    def __init__(self, rule: EarlyStopping, steps: Iterable[Step], storage: Storage) -> None:
        self._rule = rule
        self._columns = {step.key: column(step) for step in steps}
        self._ladders = {each: _Ladder(rule, each) for each in self._columns.values()}
        for key, each in self._columns.items():
            self._ladders[each].on_trial_add(_NO_CONTROLLER, _known_as(key))
            for row in read_history(storage, key):
                self.judge(key, row | {_STEP: row["step"]})

    def judge(self, key: str, result: dict[str, Any]) -> Stop | None:
        """Why the training of a step ends here, by what it reported; None where it goes on."""
        each = self._columns.get(key)
        if (
            each is None
            or not math.isfinite(result.get(VAL_MIOU_SUBSET, math.nan))
            or result[_STEP] >= each.total_steps
        ):
            return None
        ladder, step, miou = self._ladders[each], int(result[_STEP]), float(result[VAL_MIOU_SUBSET])
        limit = ladder.limit(step)
        result = {_STEP: step, VAL_MIOU_SUBSET: miou}
        if ladder.on_trial_result(_NO_CONTROLLER, _known_as(key), result) == TrialScheduler.CONTINUE:
            return None
        return Stop(step, each.total_steps, miou, limit, self._rule.reduction_factor, self._rule.grace)


def _known_as(key: str) -> Any:
    """All that ASHA asks of a trial: a name, here the key of its step."""
    return SimpleNamespace(trial_id=key)


class _Ladder(ASHAScheduler):
    """The rungs of one column."""

    def __init__(self, rule: EarlyStopping, each: Column) -> None:
        super().__init__(
            time_attr=_STEP,
            metric=VAL_MIOU_SUBSET,
            mode="max",
            max_t=each.total_steps,
            grace_period=max(1, math.ceil(rule.grace * each.total_steps)),
            reduction_factor=rule.reduction_factor,
            # Who comes to its last step is scored on all images.
            stop_last_trials=False,
        )

    def limit(self, step: int) -> float:
        """The mIoU below which a training ends that comes after a step to its rung now; nan where all go on."""
        (bracket,) = self._brackets
        values = next((values for milestone, values in bracket._rungs if step >= milestone), {})
        limit: Any = bracket.cutoff(values)
        return math.nan if limit is None else float(limit)
