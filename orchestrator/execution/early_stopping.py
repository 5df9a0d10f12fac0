"""Fine-tunings that are given up early: which of them may be compared, and which are worse than the others.

A fine-tuning is compared only with those of its column, which differ from it in their row or seed and in nothing that
decides how far they are or what they are measured on. The rule is asynchronous successive halving (ASHA, Li et al.
2020), and decides from the scores alone that the histories hold: whoever reads the same histories decides the same, in
one run or in several. How it is remembered that one was given up is in `ledger.stop_marks`.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.ledger.keys import digest
from orchestrator.ledger.stop_marks import Stop
from orchestrator.ledger.training_states import VAL_MIOU_SUBSET, read_history
from orchestrator.spec.experiment import EarlyStopping
from orchestrator.steps.finetune import FinetuneStep
from orchestrator.steps.step import Step
from orchestrator.storage.store import Storage

# A step and the mIoU after it, in the order of the steps.
Scores = list[tuple[int, float]]


@dataclass(frozen=True)
class Column:
    """What fine-tunings that may be compared have in common, as a digest, and their number of steps."""

    common: str
    total_steps: int


def column(step: Step) -> Column:
    """The column of a fine-tuning."""
    assert isinstance(step, FinetuneStep)
    measured = {name: step.meaning[name] for name in ("dataset", "pools", "labelled", "truth", "num_classes")}
    trained = {name: step.meaning["config"][name] for name in ("segmentor", "evaluation")}
    return Column(digest(measured | trained | {"images": step.images.digest}), step.total_steps)


class SuccessiveHalving:
    """Decides about the fine-tunings of an experiment that may be given up, beginning with what their histories hold.

    It knows trainings by the keys of their steps, so that a column is compared across runs.
    """

    def __init__(self, rule: EarlyStopping, steps: Iterable[Step], storage: Storage) -> None:
        self._rule = rule
        self._columns = {step.key: column(step) for step in steps}
        self._scores: dict[Column, dict[str, Scores]] = defaultdict(lambda: defaultdict(list))
        for key in self._columns:
            for row in read_history(storage, key):
                self.judge(key, int(row["step"]), row.get(VAL_MIOU_SUBSET))

    def judge(self, key: str, step: int, miou: float | None) -> Stop | None:
        """Why the training of a step ends here, by what it reported; None where it goes on."""
        ours = self._columns.get(key)
        if ours is None or miou is None or not math.isfinite(miou):
            return None
        scores = self._scores[ours]
        own = scores[key]
        if step >= ours.total_steps or (own and own[-1][0] >= step):
            # At its end it is as good as any other; what it repeats after a restart was decided about.
            return None
        rungs = rungs_of(self._rule, ours.total_steps)
        limit = limit_at(rungs, step, own, [other for name, other in scores.items() if name != key], self._rule)
        own.append((step, miou))
        if limit is None or miou >= limit:
            return None
        return Stop(step, ours.total_steps, miou, limit, self._rule.reduction_factor, self._rule.grace)


def rungs_of(rule: EarlyStopping, total_steps: int) -> list[float]:
    """The steps after which trainings of this length are compared."""
    rung: float = max(1, math.ceil(rule.grace * total_steps))
    rungs = []
    while rung < total_steps:
        rungs.append(rung)
        rung *= rule.reduction_factor
    return rungs


def limit_at(
    rungs: Sequence[float], step: int, own: Scores, others: Iterable[Scores], rule: EarlyStopping
) -> float | None:
    """The mIoU below which a training is given up that scores after `step`; None where it is not compared there.

    It is compared once at each rung, with what the others scored when they came to it.
    """
    reached = [rung for rung in rungs if rung <= step]
    if not reached or (own and own[-1][0] >= reached[-1]):
        return None
    end = rungs[len(reached)] if len(reached) < len(rungs) else math.inf
    arrivals = (next((miou for at, miou in scores if reached[-1] <= at < end), None) for scores in others)
    known = [miou for miou in arrivals if miou is not None]
    # Linear between two scores, as Ray Tune has it.
    return float(np.quantile(known, 1 - 1 / rule.reduction_factor)) if known else None
