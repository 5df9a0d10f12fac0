"""Why a step would run again: what differs from the most alike step that is done.

The model: a step runs when there is no manifest under its key; the reason is found by comparing its meaning with
those of finished steps of the same kind and naming the fields that differ.
"""

from typing import Any

from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.planning.plan import Plan
from orchestrator.steps.step import Step
from orchestrator.storage.store import Storage
from workloads.formats import counted


def explain(plan: Plan, storage: Storage) -> list[tuple[Step, str]]:
    """Every distinct step with one sentence: cached, partly done, or why it has to run."""
    ledger = Ledger(storage)
    finished = list(ledger.manifests())
    return [(step, _reason(step, plan, ledger, finished)) for step in plan.steps.values()]


def _reason(step: Step, plan: Plan, ledger: Ledger, finished: list[Manifest]) -> str:
    if step.key in plan.done:
        return "cached"
    if step.key in plan.skipped:
        return f"{plan.skipped[step.key].status}: {plan.skipped[step.key].reason}"
    behind = [role for role, key in step.input_keys.items() if key not in plan.done]
    images = step.finished_images(ledger)
    partly = f"{images} of {counted(step.images.count, 'image')} done; " if images else ""
    alike = [manifest for manifest in finished if manifest.kind == step.kind]
    if not alike:
        return f"{partly}no {step.kind} step has been done on this storage"
    mine = _flatten(step.meaning)
    distances = [
        (
            len(_differences(_flatten(manifest.meaning), mine)),
            len(_differences(manifest.inputs, step.input_keys)),
            number,
        )
        for number, manifest in enumerate(alike)
    ]
    nearest = alike[min(distances)[-1]]
    differences = _differences(_flatten(nearest.meaning), mine)
    if differences:
        changes = ", ".join(f"{name}: {old} -> {new}" for name, (old, new) in list(differences.items())[:4])
        return f"{partly}differs from {nearest.key[:12]} in {changes}"
    return partly + _reason_outside_meaning(step, nearest, behind)


def _reason_outside_meaning(step: Step, nearest: Manifest, behind: list[str]) -> str:
    """Why a step that means the same as a finished one is not that one. `behind` are its inputs that are not done."""
    used = nearest.provenance.get("images", {}).get("used")
    if used is not None and used != step.images.count:
        return f"images: {used} -> {step.images.count}"
    if behind:
        return f"is computed from {', '.join(behind)}, which runs again"
    others = _differences(nearest.inputs, step.input_keys)
    if others:
        return f"is computed from another {' and another '.join(others)} than {nearest.key[:12]}"
    return f"the images or the code of this step are not those of {nearest.key[:12]}"


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{name}" if prefix else name)
    return flat


def _differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted(old.keys() | new.keys())
    absent = "(absent)"
    return {
        name: (old.get(name, absent), new.get(name, absent))
        for name in names
        if old.get(name, absent) != new.get(name, absent)
    }
