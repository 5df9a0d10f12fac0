"""The results file: every cell with its status, metrics, steps and cost, and where the numbers come from.

The model: results are read off the ledger, so a run that finds everything cached writes the same numbers as the run
that computed them. A failed cell carries its error and never hides the others.
"""

import json
import sys
import time
from dataclasses import asdict
from typing import Any

from orchestrator.execution.provenance import Provenance
from orchestrator.ledger.layout import results_path
from orchestrator.ledger.manifests import Manifest
from orchestrator.planning.plan import Plan, PlannedCell
from orchestrator.planning.selection import Agreement
from orchestrator.steps.steps import FinetuneStep, PretrainStep, SampleStep, ScoreStep, Step
from orchestrator.storage.store import Storage
from workloads.networks.stand_ins import NOTES, stand_in


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
    agreement: Agreement | None = None,
) -> str:
    """Write ``results/NAME.json`` and return its place."""
    path = results_path(plan.name)
    # A run that finds everything cached ran on no machine; those that computed the numbers are named by the manifests.
    hosts = sorted({manifest.provenance["host"] for manifest in plan.done.values() if manifest.provenance.get("host")})
    process = Provenance.capture()
    document: dict[str, Any] = {
        "experiment": plan.document,
        "cells": cells,
        "provenance": {
            "git": asdict(process.code) if process.code else None,
            "versions": process.versions,
            "seed": plan.document.get("seed", 0),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "seconds": round(time.time() - started, 2),
            "command": ["lookbeyond", *sys.argv[1:]],
            "machines": machines or [{"host": host} for host in hosts],
        },
    }
    if agreement is not None:
        document["agreement"] = asdict(agreement)
    storage.replace(path, json.dumps(document, indent=1).encode())
    return storage.locate(path)


def _cell(planned: PlannedCell, plan: Plan, cached: set[str], failed: dict[str, str]) -> dict[str, Any]:
    keys = {role: step.key for role, step in planned.roles.items()}
    error = planned.error or next((failed[key] for key in keys.values() if key in failed), None)
    complete = not planned.error and all(key in plan.done for key in keys.values())
    skipped = next((plan.skipped[key] for key in keys.values() if key in plan.skipped), None)
    if complete:
        status, error = ("cached" if all(key in cached for key in keys.values()) else "done"), None
    elif skipped is not None and error is None:
        status = skipped.status
    else:
        status, error = "failed", error or "not finished"
    manifests = {role: plan.done[key] for role, key in keys.items() if key in plan.done}
    why = {"reason": skipped.reason} if skipped is not None and status == skipped.status else {}
    return {
        "cell": planned.cell.values,
        "row": planned.cell.row,
        "column": planned.cell.column,
        "paper": planned.cell.paper,
        "status": status,
        "error": error,
        **why,
        "metrics": {} if status == "failed" else _metrics(manifests, planned),
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
        "substitutes": substitutes(planned),
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
    protocol = _protocol(planned.roles, manifests)
    return metrics | ({"protocol": protocol} if protocol else {})


def _protocol(roles: dict[str, Step], manifests: dict[str, Manifest]) -> dict[str, Any] | None:
    """What the scores of a cell were measured on: data set, classes, split, images."""
    for role in ("score", "finetune"):
        work = roles[role].work if role in manifests else None
        if isinstance(work, ScoreStep | FinetuneStep):
            judged = work.source if isinstance(work, ScoreStep) else work.judged
            quarantined = {
                item.image
                for name in ("label_val", "superpixels_val", role)
                if name in manifests
                for item in manifests[name].quarantined
            }
            return {
                "dataset": judged.config.name,
                "classes": work.num_classes,
                "split": judged.pool,
                "scored_images": manifests[role].provenance["images"]["used"] - len(quarantined),
            }
    return None


def substitutes(planned: PlannedCell) -> list[str]:
    """Where a cell departs from its name: the experiment's notes, and weights that stand in for a file."""
    notes = list(planned.cell.notes)
    for step in planned.roles.values():
        match step.work:
            case SampleStep(extractor=extractor):
                weights = extractor.weights
            case PretrainStep(weights=weights):
                pass
            case FinetuneStep(weights=weights) if "pretrain" not in step.inputs:
                pass
            case _:
                weights = None
        kind = stand_in(weights) if weights else None
        if kind is not None:
            notes.append(NOTES[kind])
    return list(dict.fromkeys(notes))
