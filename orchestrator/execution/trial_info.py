"""What a training is called and by which values it is told from others, on dashboards and in TensorBoard.

The model: a step belongs to all cells that need it, so of the grid's values only those that these cells share say
something about it. The failure this guards against: a page of trials named by random letters.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from orchestrator.planning.plan import Plan
from orchestrator.spec.naming import describe_shared, shared_names
from orchestrator.steps.step import Step

_LONGEST_NAME = 90
_PLAIN = re.compile(r"[^A-Za-z0-9=.,_-]+")

Value = str | int | float | bool


@dataclass(frozen=True)
class TrialInfo:
    """A name that can be a folder, the values of a training as one flat mapping, and those that tell it from others.

    Of what tells it apart a figure that is not known is not a number. `experiment` is the one whose training it is
    shown as, the first of those that share it.
    """

    experiment: str
    name: str
    values: dict[str, Value]
    distinguishing: dict[str, Value]


def trial_info(plan: Plan, step: Step) -> TrialInfo:
    """Name and values of a training step. `pmiou` is that of its labels, where they were scored before it starts."""
    plan = plan.experiment_of(step.key)
    users, cells = [planned.cell for planned in plan.users(step.key)], [planned.cell for planned in plan.cells]
    told = describe_shared(users, cells, seeds=True)
    name = _PLAIN.sub("_", f"{step.kind}-{told}")[:_LONGEST_NAME]
    values: dict[str, Value] = {"kind": step.kind, "key": step.key}
    values |= _flat(step.meaning.get("config", {}), "")
    apart: dict[str, Value] = {"kind": step.kind}
    apart |= _flat(shared_names(users, cells), "")
    scores = {plan.done[score.key].results["pmiou"] for score in _scores(plan, step) if score.key in plan.done}
    if len(scores) == 1 and (score := scores.pop()) is not None:
        apart["pmiou"] = float(score)
    values |= {f"cell.{key}": value for key, value in apart.items()}
    if any("score" in cell.roles for cell in plan.cells):
        # A column of TensorBoard's table is there for all trainings or for none.
        apart.setdefault("pmiou", math.nan)
    return TrialInfo(plan.name, f"{name}-{step.key[:8]}", values, apart)


def _scores(plan: Plan, step: Step) -> list[Step]:
    return [cell.roles["score"] for cell in plan.users(step.key) if "score" in cell.roles]


def _flat(value: Any, prefix: str) -> dict[str, Value]:
    """Dotted names and plain values; lists as text, since a table has one field for each."""
    if not isinstance(value, dict):
        plain = value if isinstance(value, str | int | float | bool) else "none" if value is None else str(value)
        return {prefix.removesuffix("."): plain}
    flat: dict[str, Value] = {}
    for name, inner in value.items():
        flat |= _flat(inner, f"{prefix}{name}.")
    return flat
