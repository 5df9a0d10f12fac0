"""What the steps of a cell say about it: figures, protocol, and where it departs from its name."""

from collections.abc import Mapping
from typing import Any

from orchestrator.ledger.manifests import Manifest
from orchestrator.planning.plan import PlannedCell
from orchestrator.results.cells import Metrics, Protocol
from orchestrator.steps.steps import FinetuneStep, PretrainStep, SampleStep, ScoreStep, Step
from workloads.networks.stand_ins import NOTES, stand_in


def collect_metrics(roles: Mapping[str, Step], manifests: Mapping[str, Manifest]) -> Metrics:
    """The figures of the steps that are done, by role."""
    metrics: dict[str, Any] = {"pmiou": None, "coverage": None, "miou": None}
    for role in ("score", "pretrain", "finetune"):
        if role in manifests:
            metrics |= manifests[role].results
    if "cluster" in manifests:
        metrics |= {
            name: manifests["cluster"].results[name] for name in ("clusters", "inertia", "iterations", "emptied")
        }
    protocol = _protocol(roles, manifests)
    return Metrics(**metrics | ({"protocol": protocol} if protocol else {}))


def seconds_of(manifest: Manifest) -> float:
    """Seconds of work over all workers; of a step that is one piece of work, its time on the clock."""
    return float(manifest.provenance["work_seconds"] or manifest.provenance["wall_seconds"])


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


def _protocol(roles: Mapping[str, Step], manifests: Mapping[str, Manifest]) -> Protocol | None:
    """What the scores of a cell were measured on: data set, classes, split, images."""
    for role in ("score", "finetune"):
        work = roles[role].work if role in manifests else None
        if isinstance(work, ScoreStep | FinetuneStep):
            source = work.source if isinstance(work, ScoreStep) else work.judged
            quarantined = {
                item.image
                for name in ("label_val", "superpixels_val", role)
                if name in manifests
                for item in manifests[name].quarantined
            }
            return Protocol(
                dataset=source.config.name,
                classes=work.num_classes,
                split=source.pool,
                scored_images=manifests[role].provenance["images"]["used"] - len(quarantined),
            )
    return None
