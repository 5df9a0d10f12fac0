"""What a training is called and by which values it is told from others, on dashboards and in TensorBoard.

The model: a step belongs to all cells that need it, so of the grid's values only those that these cells share say
something about it. The failure this guards against: a page of trials named by random letters.
"""

import re
from dataclasses import dataclass
from typing import Any

from orchestrator.planning.plan import Plan
from orchestrator.spec.naming import short_keys, shown
from orchestrator.steps.step import Step

_LONGEST_NAME = 100

Value = str | int | float | bool


@dataclass(frozen=True)
class TrialInfo:
    """A name that can be a folder, and the values of a training as one flat mapping."""

    name: str
    values: dict[str, Value]


def trial_info(plan: Plan, step: Step) -> TrialInfo:
    """Name and values of a training step. `pmiou` is that of its labels, where they were scored before it starts."""
    cells = plan.users(step.key)
    shared = {
        key: value
        for key, value in cells[0].cell.values.items()
        if all(key in other.cell.values and other.cell.values[key] == value for other in cells)
    }
    told = [f"{name}={shown(shared[key])}" for key, name in short_keys(shared).items()]
    name = "-".join([step.kind, step.key[:8], *told])
    values: dict[str, Value] = {"kind": step.kind, "key": step.key}
    values |= _flat(step.meaning.get("config", {}), "") | _flat(shared, "cell.")
    scores = {plan.done[score.key].results["pmiou"] for score in _scores(plan, step) if score.key in plan.done}
    if len(scores) == 1 and (score := scores.pop()) is not None:
        values["pmiou"] = float(score)
    return TrialInfo(re.sub(r"[^A-Za-z0-9=.,_-]+", "_", name)[:_LONGEST_NAME], values)


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
