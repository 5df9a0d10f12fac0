"""Training only the best labellings by PmIoU.

A labelling is scored by its score step, which several cells may share (fractions and seeds of fine-tuning); all cells
of the N best labellings are trained, the trainings of the others are skipped. A cell without a score is no candidate
and is trained as always: it is what the others are compared with. The failure this guards against: a grid of trainings
that takes a week, most of it spent on labels that were known to be poor.
"""

import math

from orchestrator.planning.cells import PlannedCell
from orchestrator.planning.plan import Plan, Skipped
from orchestrator.steps.step import Pool
from workloads.errors import InputError


def select_best(plan: Plan, number: int) -> bool:
    """Skip the trainings of all but the best labellings; True when all labellings are scored.

    Until then the trainings of all candidates are skipped.

    Raises:
        InputError: the plan has nothing to choose from.
    """
    candidates = [cell for cell in plan.cells if "score" in cell.roles and _trainings(cell, plan)]
    if not candidates:
        raise InputError(
            f"--select-best {number}: no cell of {plan.name} has both a PmIoU and a training to decide about"
        )
    scores = {cell.roles["score"].key: _pmiou(cell, plan) for cell in candidates}
    scored = all(key in plan.done for key in scores)
    order = sorted(scores, key=lambda key: scores[key], reverse=True)
    best = set(order[:number]) if scored else set()
    chosen = {key for cell in plan.cells if cell not in candidates for key in _trainings(cell, plan)}
    chosen |= {key for cell in candidates if cell.roles["score"].key in best for key in _trainings(cell, plan)}
    for key in [key for key, skipped in plan.skipped.items() if skipped.status == "not trained"]:
        del plan.skipped[key]
    limit = scores[order[min(number, len(order)) - 1]]
    for cell in candidates:
        reason = "its labels are not scored"
        if scored:
            reason = (
                f"PmIoU {_pmiou(cell, plan):.2f} is not among the {number} best of {len(order)} labellings, "
                f"which begin at {limit:.2f} (--select-best {number})"
            )
        for key in _trainings(cell, plan) - chosen:
            plan.skipped.setdefault(key, Skipped("not trained", reason))
    return scored


def _trainings(cell: PlannedCell, plan: Plan) -> set[str]:
    """The trainings of a cell that its score does not wait for."""
    behind = _ancestors(cell.roles["score"].key, plan) if "score" in cell.roles else set()
    return {step.key for step in cell.roles.values() if step.pool is Pool.TRAIN} - behind


def _ancestors(key: str, plan: Plan) -> set[str]:
    found: set[str] = set()
    left = [key]
    while left:
        step = plan.steps.get(left.pop())
        for other in step.input_keys.values() if step else ():
            if other not in found:
                found.add(other)
                left.append(other)
    return found


def _pmiou(cell: PlannedCell, plan: Plan) -> float:
    manifest = plan.done.get(cell.roles["score"].key)
    value = manifest.results["pmiou"] if manifest else None
    return -math.inf if value is None else float(value)
