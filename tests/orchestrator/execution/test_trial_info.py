"""What trainings are called, and which of their values tell them apart."""

from typing import Any

import pytest
from support.trainings import DOCUMENT

from orchestrator.execution.trial_info import TrialInfo, trial_info
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.storage.store import Storage


def infos(plan: Plan) -> list[TrialInfo]:
    return [trial_info(plan, step) for step in plan.steps.values() if step.kind == "finetune"]


@pytest.fixture
def storage(tmp_path: Any) -> Storage:
    return Storage(str(tmp_path))


def test_a_training_is_called_by_its_kind_its_row_and_what_varies_in_it(storage: Storage) -> None:
    rows = [{"row": "few", "set": {"finetune.number": 2}}, {"row": "K = 1.5 x M", "set": {"finetune.number": 4}}]
    plan = make_plan({**DOCUMENT, "rows": rows, "grid": {"finetune.seed": [0, 1]}}, storage, write_listings=True)
    found = infos(plan)
    assert [info.name.rsplit("-", 1)[0] for info in found] == [
        "finetune-few,_seed_0",
        "finetune-few,_seed_1",
        "finetune-K_=_1.5_x_M,_seed_0",
        "finetune-K_=_1.5_x_M,_seed_1",
    ]
    assert found[1].distinguishing == {"kind": "finetune", "row": "few", "finetune.seed": 1}
    assert found[1].values["steps"] == 5 and found[1].values["cell.row"] == "few"
    assert len({info.name for info in found}) == 4


def test_a_training_that_cells_share_is_called_by_what_they_have_in_common(storage: Storage) -> None:
    grid = {"finetune.seed": [0, 1], "labels.outliers": [0.0, 0.1]}
    plan = make_plan({**DOCUMENT, "grid": grid}, storage, write_listings=True)
    assert [info.name.rsplit("-", 1)[0] for info in infos(plan)] == ["finetune-seed_0", "finetune-seed_1"]
    assert [info.distinguishing for info in infos(plan)] == [
        {"kind": "finetune", "finetune.seed": seed} for seed in (0, 1)
    ]


def test_the_only_training_has_a_name_too(storage: Storage) -> None:
    (info,) = infos(make_plan(DOCUMENT, storage, write_listings=True))
    assert info.name.rsplit("-", 1)[0] == "finetune-the_only_cell"
