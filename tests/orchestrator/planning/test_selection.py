"""Which cells are trained when only the best by PmIoU may be, and what their results say."""

import copy
from typing import Any

import pytest

from orchestrator.ledger.manifests import Manifest
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.selection import select_best
from orchestrator.results.results import collect
from orchestrator.storage.store import Storage
from workloads.errors import InputError

NETWORK = {"backbone": "mobilenet_v2", "head_channels": 8, "output_stride": 16}


@pytest.fixture
def grid(tiny: dict[str, Any]) -> dict[str, Any]:
    """Three labellings, each fine-tuned at two fractions."""
    views = {"image_size": [64, 96], "crop_mode": "fixed", "crop": [48, 64], "cutout": [0, 0]}
    tiny["pretrain"] = {"steps": 2, "batch_size": 4, "segmentor": NETWORK, "views": views}
    tiny["finetune"] = {"steps": 2, "batch_size": 4, "segmentor": NETWORK, "augmentation": views}
    tiny["grid"] = {"labels.clustering.k_per_class": [1.0, 1.5, 2.0], "finetune.fraction": [0.5, 1.0]}
    return tiny


@pytest.fixture
def made(grid: dict[str, Any], tmp_path: Any) -> Plan:
    return make_plan(grid, Storage(str(tmp_path)), write_listings=False)


def finish(plan: Plan, kind: str, results: list[dict[str, Any]]) -> None:
    """Declare all steps of a kind done, with these results in plan order."""
    steps = [step for step in plan.steps.values() if step.kind == kind]
    for step, result in zip(steps, results, strict=True):
        provenance = {"work_seconds": 1.0, "wall_seconds": 1.0, "images": {"pool": "val", "available": 8, "used": 8}}
        manifest = Manifest(kind, step.key, {}, {}, [], {"pmiou": None, "coverage": 1.0} | result, provenance)
        plan.done[step.key] = manifest


def pending(plan: Plan, kind: str) -> int:
    return sum(step.kind == kind for step in plan.pending)


def test_nothing_is_trained_before_the_labels_are_scored(made: Plan) -> None:
    assert select_best(made, 2) is False
    assert pending(made, "pretrain") == pending(made, "finetune") == 0
    assert pending(made, "score") == 3


def test_all_cells_of_the_best_labellings_are_trained(made: Plan) -> None:
    select_best(made, 1)
    finish(made, "score", [{"pmiou": 20.0}, {"pmiou": 30.0}, {"pmiou": 10.0}])
    assert select_best(made, 1) is True
    assert pending(made, "pretrain") == 1
    assert pending(made, "finetune") == 2
    trained = [cell for cell in made.cells if cell.roles["finetune"].key not in made.skipped]
    assert {cell.cell.values["labels.clustering.k_per_class"] for cell in trained} == {1.5}


def test_the_results_of_the_others_say_why_and_keep_their_score(made: Plan) -> None:
    finish(made, "score", [{"pmiou": 20.0}, {"pmiou": 30.0}, {"pmiou": 10.0}])
    select_best(made, 2)
    cell = collect(made, set(), {})[-1]
    assert cell.status == "not trained"
    assert cell.error is None
    assert cell.metrics.pmiou == 10.0
    assert cell.reason == (
        "PmIoU 10.00 is not among the 2 best of 3 labellings, which begin at 20.00 (--select-best 2)"
    )


def test_more_than_there_are_trains_all(made: Plan) -> None:
    finish(made, "score", [{"pmiou": 20.0}, {"pmiou": 30.0}, {"pmiou": 10.0}])
    select_best(made, 9)
    assert made.skipped == {}


def test_a_cell_that_no_labels_lead_to_is_trained_as_always(grid: dict[str, Any], tmp_path: Any) -> None:
    base = copy.deepcopy(grid)
    grid["grid"] = [base["grid"], {"pretrain": [None]}]
    plan = make_plan(grid, Storage(str(tmp_path)), write_listings=False)
    select_best(plan, 1)
    assert pending(plan, "finetune") == 1


def test_without_anything_to_select_the_option_is_refused(tiny: dict[str, Any], tmp_path: Any) -> None:
    plan = make_plan(tiny, Storage(str(tmp_path)), write_listings=False)
    with pytest.raises(InputError, match="--select-best 2: no cell of tiny has both a PmIoU and a training"):
        select_best(plan, 2)
