"""A small fine-tuning, its job, and how it is run on one worker without Ray."""

from typing import Any

import torch

from orchestrator.ledger.training_states import leave_outcome
from orchestrator.planning.plan import make_plan
from orchestrator.steps.finetune import FinetuneJob, FinetuneStep
from orchestrator.steps.tensors import read_tensors
from orchestrator.steps.training import DistributedContext
from orchestrator.steps.training_runs import train
from orchestrator.storage.store import Storage
from workloads.training.collectives import SingleProcess
from workloads.training.decoded import DecodedCache
from workloads.training.loop import Machine, StepReport

STEPS = 5

DOCUMENT: dict[str, Any] = {
    "name": "tuned",
    "dataset": {"name": "scenes", "image_size": [64, 96], "num_train": 8, "num_val": 2},
    "finetune": {
        "steps": STEPS,
        "batch_size": 4,
        "segmentor": {
            "backbone": "mobilenet_v2",
            "head_channels": 8,
            "atrous_rates": [1, 2, 3],
            "auxiliary_head": False,
            "output_stride": 16,
        },
        "augmentation": {"image_size": [64, 96], "crop_mode": "fixed", "crop": [48, 64], "cutout": [0, 0]},
    },
}


class KilledError(Exception):
    """Stands for a kill."""


class Listener:
    """Hears of every step, and ends the run after one of them."""

    def __init__(self, last: int | None = None) -> None:
        self.steps: list[int] = []
        self._last = last

    def __call__(self, report: StepReport) -> bool:
        self.steps.append(report.step)
        if report.step == self._last:
            raise KilledError
        return True


def make_job(storage: Storage, **finetune: Any) -> FinetuneJob:
    plan = make_plan({**DOCUMENT, "finetune": DOCUMENT["finetune"] | finetune}, storage, write_listings=True)
    (step,) = plan.steps.values()
    assert isinstance(step, FinetuneStep)
    return step.training_job(storage)


def run(
    job: FinetuneJob, listener: Listener, checkpoint_seconds: float = 0.0, cache: DecodedCache | None = None
) -> dict[str, torch.Tensor]:
    """Train on one worker; the weights at the end."""
    outcome = train(job, DistributedContext(Machine(), SingleProcess(), None, cache), listener, checkpoint_seconds)
    assert outcome is not None
    leave_outcome(job.storage, job.key, outcome)
    return read_tensors(job.storage, outcome.files["network"].path)


def assert_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
