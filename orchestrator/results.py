"""The results file: every cell with its status, metrics, steps and cost, and where the numbers come from.

The model: results are read off the ledger, so a run that finds everything cached writes the same numbers as the run
that computed them. A failed cell carries its error and never hides the others.
"""

import json
import sys
import time
from typing import Any

from orchestrator.code_state import code_state
from orchestrator.execution import installed_versions
from orchestrator.ledger import Manifest
from orchestrator.plan import Plan, PlannedCell
from orchestrator.steps import ScoreStep
from orchestrator.storage import Storage


def collect(plan: Plan, cached: set[str], failed: dict[str, str]) -> list[dict[str, Any]]:
    """One entry per cell. `cached` are the steps that were done before the run, `failed` maps step keys to errors."""
    return [_cell(cell, plan, cached, failed) for cell in plan.cells]


def write_results(
    plan: Plan,
    cells: list[dict[str, Any]],
    storage: Storage,
    *,
    started: float,
    machines: list[dict[str, Any]],
) -> str:
    """Write ``results/NAME.json`` and return its place."""
    path = f"results/{plan.name}.json"
    # A run that finds everything cached ran on no machine; those that computed the numbers are named by the manifests.
    hosts = sorted({manifest.provenance["host"] for manifest in plan.done.values() if manifest.provenance.get("host")})
    document = {
        "experiment": plan.document,
        "cells": cells,
        "provenance": {
            "git": code_state(),
            "versions": installed_versions(),
            "seed": plan.document.get("seed", 0),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "seconds": round(time.time() - started, 2),
            "command": ["lookbeyond", *sys.argv[1:]],
            "machines": machines or [{"host": host} for host in hosts],
        },
    }
    storage.replace(path, json.dumps(document, indent=1).encode())
    return storage.locate(path)


def _cell(planned: PlannedCell, plan: Plan, cached: set[str], failed: dict[str, str]) -> dict[str, Any]:
    keys = {role: step.key for role, step in planned.roles.items()}
    error = planned.error or next((failed[key] for key in keys.values() if key in failed), None)
    complete = not planned.error and all(key in plan.done for key in keys.values())
    if complete:
        status, error = ("cached" if all(key in cached for key in keys.values()) else "done"), None
    else:
        status, error = "failed", error or "not finished"
    manifests = {role: plan.done[key] for role, key in keys.items() if key in plan.done}
    return {
        "cell": planned.cell.values,
        "status": status,
        "error": error,
        "metrics": _metrics(manifests, planned) if complete else {},
        "steps": keys,
        "seconds": {role: _seconds(manifest) for role, manifest in manifests.items()},
        "images": {
            role: manifest.provenance["images"]
            for role, manifest in manifests.items()
            if role in ("sample", "label", "label_val", "superpixels")
        },
        "quarantined": sorted(
            {f"{item.image}: {item.reason}" for manifest in manifests.values() for item in manifest.quarantined}
        ),
    }


def _seconds(manifest: Manifest) -> float:
    """Seconds of work over all workers; of a step that is one piece of work, its time on the clock."""
    return float(manifest.provenance["work_seconds"] or manifest.provenance["wall_seconds"])


def _metrics(manifests: dict[str, Any], planned: PlannedCell) -> dict[str, Any]:
    metrics: dict[str, Any] = {"pmiou": None, "coverage": None, "miou": None}
    if "score" in manifests:
        metrics |= manifests["score"].results
    for role in ("pretrain", "finetune"):
        if role in manifests:
            metrics |= manifests[role].results
    if "cluster" in manifests:
        metrics |= {
            name: manifests["cluster"].results[name] for name in ("clusters", "inertia", "iterations", "emptied")
        }
    score = planned.roles.get("score")
    if score is not None and isinstance(score.work, ScoreStep):
        metrics["protocol"] = {"classes": score.work.num_classes, "split": score.work.source.pool}
    return metrics
