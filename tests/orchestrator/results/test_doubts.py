"""What a run is told of its trainings: a warm-up without end, a loss that does not fall, a pre-training that harms."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.ledger.training_states import write_history
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.results.doubts import doubts
from orchestrator.results.results import collect
from orchestrator.steps.training import TrainingStep
from orchestrator.steps.training_runs import history_row
from orchestrator.storage.store import Storage
from workloads.training.loop import StepReport

SIZES = {"image_size": [64, 96], "crop": [49, 81], "crop_mode": "fixed"}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


@pytest.fixture
def rows(tiny: dict[str, Any]) -> dict[str, Any]:
    """The same fine-tuning with and without pre-training, over two seeds, and one that has other weights."""
    del tiny["grid"]
    tiny["pretrain"] = {"recipe": "small", "epochs": 100, "views": SIZES}
    tiny["finetune"] = {"recipe": "small", "augmentation": SIZES}
    tiny["rows"] = [
        {"row": "ours"},
        {"row": "random", "set": {"pretrain": None}},
        {"row": "moco", "set": {"pretrain": None, "finetune.init": "moco", "finetune.weights": "stand-in:moco"}},
    ]
    tiny["rows"][2]["set"]["finetune.segmentor"] = {"backbone": "resnet50"}
    tiny["grid"] = {"finetune.seed": [0, 1]}
    return tiny


def _trained(plan: Plan, storage: Storage, miou: dict[str, float], losses: list[float]) -> None:
    """Commit every training of a plan, with these results and losses."""
    ledger = Ledger(storage)
    provenance = {"wall_seconds": 1.0, "work_seconds": 1.0}
    for step in plan.steps.values():
        if isinstance(step, TrainingStep):
            row = plan.users(step.key)[0].cell.row
            results = {"miou": miou[row or ""]} if step.kind == "finetune" else {}
            plan.done[step.key] = ledger.commit(
                Manifest(step.kind, step.key, step.meaning, {}, [], results, provenance)
            )
            reports = [StepReport(n, len(losses), 0.0, loss, 0.1, 1.0, 0.0, {}) for n, loss in enumerate(losses, 1)]
            write_history(storage, step.key, [history_row(report) for report in reports])


def _doubts(plan: Plan, storage: Storage) -> list[str]:
    whole = [cell.roles.pop(role) for cell in plan.cells for role in list(cell.roles) if role not in TRAININGS]
    assert whole
    return doubts(plan, collect(plan, set(), {}), storage)


TRAININGS = ("pretrain", "finetune")
FALLING = [2.0 - 0.01 * n for n in range(100)]


def test_a_row_that_loses_to_the_same_row_without_pre_training_is_named(rows: dict[str, Any], storage: Storage) -> None:
    plan = make_plan(rows, storage, write_listings=False)
    _trained(plan, storage, {"ours": 19.3, "random": 36.8, "moco": 50.0}, FALLING)
    assert _doubts(plan, storage) == [
        "pre-training harms: ours has mIoU 19.30, the same without it (random) 36.80",
    ]


@pytest.mark.parametrize(("apart", "verdict"), [(1.0, "does not help"), (20.0, "harms")])
def test_a_difference_that_repeats_do_not_tell_from_chance_is_no_harm(
    apart: float, verdict: str, rows: dict[str, Any], storage: Storage
) -> None:
    """Two seeds each, two points apart: the standard error of the difference is 1.41."""
    plan = make_plan(rows | {"grid": {"finetune.seed": [0, 1]}}, storage, write_listings=False)
    _trained(plan, storage, {"ours": 40.0 - apart, "random": 40.0, "moco": 50.0}, FALLING)
    for step in plan.steps.values():
        if step.kind == "finetune":
            number = plan.users(step.key)[0].cell.values["finetune.seed"]
            plan.done[step.key].results["miou"] += 2.0 * number - 1.0
    (line,) = _doubts(plan, storage)
    assert line.startswith(f"pre-training {verdict}: ours")


def test_a_row_that_wins_is_not_compared_with_one_of_other_weights(rows: dict[str, Any], storage: Storage) -> None:
    plan = make_plan(rows, storage, write_listings=False)
    _trained(plan, storage, {"ours": 36.8, "random": 19.3, "moco": 50.0}, FALLING)
    assert _doubts(plan, storage) == []


def test_a_loss_that_does_not_fall_is_said_once_a_setting(rows: dict[str, Any], storage: Storage) -> None:
    rows["rows"] = rows["rows"][:1]
    plan = make_plan(rows, storage, write_listings=False)
    _trained(plan, storage, {"ours": 1.0}, [1.0, 0.2, *FALLING[::-1]])
    assert _doubts(plan, storage) == [
        "the loss of pretrain did not fall (1.05 to 1.91): ours",
        "the loss of finetune did not fall (1.05 to 1.91, 1.05 to 1.91): ours",
    ]


def test_a_warm_up_that_leaves_nothing_is_said_before_anything_is_trained(
    rows: dict[str, Any], storage: Storage
) -> None:
    """Twenty-four images in batches of eight: the recipe's forty steps of warm-up are all of thirteen epochs."""
    assert make_plan(rows, storage, write_listings=False).warnings == []
    rows["pretrain"]["epochs"] = 13
    [line] = make_plan(rows, storage, write_listings=False).warnings
    assert line.startswith("pretrain.optimiser.warmup_steps: the learning rate still rises in 39 of the 39 steps")
