"""What a run should be told of its trainings before it believes their figures.

The failure this guards against: a pre-training that harms, whose network is fine-tuned, scored and taken home because
nobody compared it with the network that it began from.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.ledger.keys import canonical_json
from orchestrator.ledger.training_states import read_history
from orchestrator.planning.cells import PlannedCell
from orchestrator.planning.plan import Plan
from orchestrator.results.cells import CellResult
from orchestrator.results.metrics import MIOU
from orchestrator.results.statistics import Spread
from orchestrator.spec.naming import describe, repeats, without_seeds
from orchestrator.steps.finetune import FinetuneStep
from orchestrator.steps.step import Step
from orchestrator.steps.training import TrainingStep
from orchestrator.storage.store import Storage
from workloads.formats import figure

# The loss at the end of a training is that of the last fifth of its reports, at the beginning that of the first.
_SHARE = 5


def doubts(plan: Plan, cells: Sequence[CellResult], storage: Storage) -> list[str]:
    """A sentence for every training whose loss did not fall, and for every setting that loses by being pre-trained.

    `cells` are the results of the plan's cells, in their order.
    """
    return [*_not_falling(plan, storage), *_losing(plan, cells)]


def _not_falling(plan: Plan, storage: Storage) -> list[str]:
    """A line for every kind of training and setting, of whose seeds the first is named."""
    named = [replace(planned.cell, values=without_seeds(planned.cell.values)) for planned in plan.cells]
    lines: dict[tuple[str, str], list[str]] = {}
    for step in plan.steps.values():
        if isinstance(step, TrainingStep) and step.key in plan.done:
            losses = [row["loss"] for row in read_history(storage, step.key)]
            if len(losses) < 2 * _SHARE:
                continue
            part = len(losses) // _SHARE
            first, last = statistics.fmean(losses[:part]), statistics.fmean(losses[-part:])
            if last >= first:
                user = next(cell for cell, planned in zip(named, plan.cells, strict=True) if step in _steps(planned))
                fall = f"{figure(first)} to {figure(last)}"
                lines.setdefault((step.kind, describe(user, named)), []).append(fall)
    return [
        f"the loss of {kind} did not fall ({', '.join(falls[:3])}{', ...' if len(falls) > 3 else ''}): {setting}"
        for (kind, setting), falls in lines.items()
    ]


def _steps(planned: PlannedCell) -> list[Step]:
    return list(planned.roles.values())


def _losing(plan: Plan, cells: Sequence[CellResult]) -> list[str]:
    """Settings are compared with those that differ in the pre-training alone: weights, recipe and images are equal."""
    alone: dict[str, list[CellResult]] = {}
    steps = {id(cell): planned.roles.get("finetune") for planned, cell in zip(plan.cells, cells, strict=True)}
    for cell in cells:
        step = steps[id(cell)]
        if isinstance(step, FinetuneStep) and step.pretrained is None:
            alone.setdefault(_setting(step), []).append(cell)
    lines = []
    settings = repeats(cells)
    named = [group[0].model_copy(update={"values": without_seeds(group[0].values)}) for group in settings]
    for group, own in zip(settings, named, strict=True):
        step = steps[id(group[0])]
        if not isinstance(step, FinetuneStep) or step.pretrained is None:
            continue
        baseline = alone.get(_setting(step), [])
        ours, theirs = _spread(group), _spread(baseline)
        if ours is not None and theirs is not None and ours.mean < theirs.mean:
            other = baseline[0].model_copy(update={"values": without_seeds(baseline[0].values)})
            # As of the best: what two standard errors allow is no difference.
            noise = ours.difference_error(theirs)
            harms = noise is None or theirs.mean - ours.mean > 2 * noise
            verdict = "pre-training harms" if harms else "pre-training does not help"
            lines.append(
                f"{verdict}: {describe(own, named)} has {MIOU.heading} {ours.text(MIOU.digits)}, the same without it "
                f"({describe(other, named)}) {theirs.text(MIOU.digits)}"
            )
    return lines


def _setting(step: FinetuneStep) -> str:
    """All that decides a fine-tuning but its pre-training and its seed."""
    first = step.pretrained.weights_identity if step.pretrained is not None else step.weights_identity
    return canonical_json(
        {
            "dataset": step.dataset,
            "pools": [step.source.pool, step.judged.pool],
            "labelled": step.labelled.sha256,
            "config": step.config.model_copy(update={"seed": 0}),
            "first": first,
        }
    )


def _spread(cells: Sequence[CellResult]) -> Spread | None:
    return Spread.of(value for cell in cells if (value := cell.metrics.number(MIOU.name)) is not None)
