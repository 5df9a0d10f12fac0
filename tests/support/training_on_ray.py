"""A small experiment with trainings, run on a real Ray, and what is seen of it there."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import torch

from orchestrator.cluster.run import RunReport, run_plan
from orchestrator.execution.progress import Progress
from orchestrator.ledger.manifests import Ledger
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.steps.tensors import read_tensors
from orchestrator.storage.store import Storage
from support.trainings import DOCUMENT

EXPERIMENT: dict[str, Any] = {
    **DOCUMENT,
    "name": "grid",
    "labels": {
        "extractor": {"arch": "filters", "output_stride": 8, "batch_size": 2},
        "sampling": {"pixels_per_image": 40},
        "superpixels": {"n_segments": 40},
    },
    "pretrain": {
        "steps": 4,
        "batch_size": 4,
        # In float32 every step multiplies the rounding of the one before; float64 tells rounding from mistakes.
        "precision": "float64",
        "segmentor": DOCUMENT["finetune"]["segmentor"],
        "views": {"image_size": [64, 96], "crop_mode": "fixed", "crop": [48, 64], "cutout": [0, 8]},
        "contrast": {"anchors_per_image": 16, "embedding_dim": 16},
    },
    "compute": {"train_cores": 1, "checkpoint_seconds": 0},
}


def run(document: dict[str, Any], storage: Storage, until: Any = "finetune") -> tuple[Plan, RunReport]:
    plan = make_plan(document, storage, write_listings=True, until=until)
    with Progress() as progress:
        report = run_plan(plan, storage, progress, address=None, dashboard=False)
    return plan, report


def compute(**changes: Any) -> dict[str, Any]:
    return {**EXPERIMENT, "compute": EXPERIMENT["compute"] | changes}


def weights(storage: Storage, kind: str) -> dict[str, dict[str, torch.Tensor]]:
    """The weights that each step of a kind ended with, by key."""
    found = [manifest for manifest in Ledger(storage).manifests() if manifest.kind == kind]
    return {manifest.key: read_tensors(storage, manifest.file("network").path) for manifest in found}


def actors() -> set[str]:
    """The classes of the actors that run on the cluster of the tests, and Ray's own agents."""
    names = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and not title.startswith("ray::IDLE"):
                names.add(title.removeprefix("ray::").split(".")[0].strip())
    return names


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, f"still there: {actors()}"
        time.sleep(0.1)
