"""A trained backbone as a file that other projects load: its publisher's names, and a card that says how it was made.

The model: the file is a plain state dict, which ``torchvision.models.resnet50().load_state_dict`` (or that of timm's
network of the name) takes strictly; the
card is JSON beside it. The failure this guards against: weights whose origin nobody knows any more, and a
classifier of random numbers that is taken for a trained one.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from orchestrator.ledger.manifests import Manifest
from orchestrator.planning.cells import PlannedCell, StepNotDoneError
from orchestrator.planning.plan import Plan
from orchestrator.steps.finetune import FinetuneStep
from orchestrator.steps.pretrain import PretrainStep
from orchestrator.steps.tensors import read_tensors
from orchestrator.storage.store import Storage
from workloads.errors import InputError
from workloads.imagenet import IMAGENET_MEAN, IMAGENET_STD
from workloads.networks.segmentors import (
    Segmentor,
    build_segmentor,
    load_pretrained,
    loads_into,
    publishers_backbone,
)
from workloads.networks.timm_backbones import TimmBackbone
from workloads.redaction import redacted
from workloads.training.pretraining import pretraining_network

STAGES = ("pretrain", "finetune")


def export_backbone(plan: Plan, planned: PlannedCell, stage: str, storage: Storage, output: Path) -> Path:
    """Write the backbone that a cell trained to `output`, and its card beside it; returns the card's place.

    Args:
        plan: the experiment, with the manifests of what is done.
        planned: the cell.
        stage: ``pretrain`` or ``finetune``: after which of them the backbone is taken.
        storage: where the networks lie.
        output: file to write; its folder is made.

    Raises:
        InputError: the cell has no such step, it is not done, or `output` is a folder.
    """
    step = planned.roles.get(stage)
    if step is None:
        has = ", ".join(name for name in STAGES if name in planned.roles) or "no training at all"
        reason = f" ({planned.error})" if planned.error else ""
        raise InputError(f"--stage {stage}: this cell has no such step{reason}; it has {has}")
    manifest = plan.done.get(step.key)
    if manifest is None:
        raise StepNotDoneError.of(f"the {stage} step", storage.uri)
    if output.is_dir():
        raise InputError(f"{output} is a folder; give the name of a file, for example {output / 'backbone.pth'}")
    place = output.with_suffix(".json")
    if place == output:
        raise InputError(f"{output} is where the card would be; give another suffix, for example .pth")
    if place.exists() and not _is_card(place):
        raise InputError(f"{place}, where the card would be, is a file of somebody else; give another name")
    assert isinstance(step, PretrainStep | FinetuneStep)
    network = _network(step, read_tensors(storage, manifest.file("network").path))
    taken = publishers_backbone(network)
    buffer = io.BytesIO()
    torch.save(taken.state, buffer)
    folder = Storage(str(output.parent))
    folder.replace(output.name, buffer.getvalue())
    card = _card(plan, planned, manifest, network, taken.untrained)
    card["sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    folder.replace(place.name, redacted(json.dumps(card, indent=1)).encode())
    return place


def _is_card(place: Path) -> bool:
    try:
        return "computed_from" in json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _network(step: PretrainStep | FinetuneStep, state: dict[str, torch.Tensor]) -> Segmentor:
    match step:
        case PretrainStep():
            network = pretraining_network(step.config)
            load_pretrained(network, state)
        case FinetuneStep():
            network = build_segmentor(step.config.segmentor, step.num_classes)
            network.load_state_dict(state)
    return network


def _card(
    plan: Plan, planned: PlannedCell, manifest: Manifest, network: Segmentor, untrained: list[str]
) -> dict[str, Any]:
    own = isinstance(network.backbone, TimmBackbone)
    mean, std = (network.backbone.mean, network.backbone.std) if own else (IMAGENET_MEAN, IMAGENET_STD)
    return {
        "architecture": network.config.backbone,
        "loads_into": loads_into(network.config.backbone),
        "input": f"RGB, mean {mean}, standard deviation {std}",
        "untrained": untrained,
        "experiment": plan.name,
        "cell": planned.cell.values,
        "step": {"kind": manifest.kind, "key": manifest.key},
        "computed_from": {role: step.key for role, step in planned.roles.items()},
        "meaning": manifest.meaning,
        "results": manifest.results,
        "provenance": manifest.provenance,
    }
