"""What the steps of a cell say about it: figures, protocol, and where it departs from its name."""

from collections.abc import Mapping
from typing import Any

from orchestrator.ledger.manifests import Manifest
from orchestrator.planning.cells import PlannedCell
from orchestrator.results.cells import Metrics, Protocol
from orchestrator.steps.step import Step
from workloads.networks.stand_ins import NOTES, stand_in


def collect_metrics(roles: Mapping[str, Step], manifests: Mapping[str, Manifest]) -> Metrics:
    """The figures of the steps that are done, by role; steps that serve others show none."""
    metrics: dict[str, Any] = {"pmiou": None, "coverage": None, "miou": None}
    for role, manifest in manifests.items():
        metrics |= roles[role].shown(role, manifest)
    protocol = _protocol(roles, manifests)
    return Metrics(**metrics | ({"protocol": protocol} if protocol else {}))


def seconds_of(manifest: Manifest) -> float:
    """Seconds of work over all workers; of a step that is one piece of work, its time on the clock."""
    return float(manifest.provenance["work_seconds"] or manifest.provenance["wall_seconds"])


def substitutes(planned: PlannedCell) -> list[str]:
    """Where a cell departs from its name: the experiment's notes, and weights that stand in for a file."""
    kinds = [stand_in(step.weights) for step in planned.roles.values() if step.weights]
    return list(dict.fromkeys([*planned.cell.notes, *(NOTES[kind] for kind in kinds if kind is not None)]))


def _protocol(roles: Mapping[str, Step], manifests: Mapping[str, Manifest]) -> Protocol | None:
    """What the scores of a cell were measured on: data set, classes, split, images."""
    for role in manifests:
        evaluated = roles[role].evaluated(role)
        if evaluated is None:
            continue
        source, num_classes = evaluated
        quarantined = {
            item.image
            for other, found in manifests.items()
            if roles[other].images.pool == source.pool
            for item in found.quarantined
        }
        return Protocol(
            dataset=source.config.name,
            classes=num_classes,
            class_names=list(source.open().classes),
            split=source.pool,
            scored_images=roles[role].images.count - len(quarantined),
        )
    return None
