"""Early stopping on a real Ray: what is given up, what is remembered of it, and how it is taken up again."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.util.placement_group import placement_group_table
from support.training_on_ray import run
from support.trainings import DOCUMENT, Listener, make_job
from support.trainings import run as run_in_process

from orchestrator.ledger.layout import state_path
from orchestrator.ledger.stop_marks import is_marked
from orchestrator.ledger.training_states import read_history, read_outcome, write_history
from orchestrator.results.results import collect
from orchestrator.storage.store import Storage

pytestmark = pytest.mark.slow

# Long enough for the word to end to arrive before the end.
STEPS = 100
EXPERIMENT: dict[str, Any] = {
    **DOCUMENT,
    "name": "stopping",
    "finetune": DOCUMENT["finetune"] | {"steps": STEPS},
    "compute": {"train_cores": 1, "checkpoint_seconds": 3600, "early_stopping": {}},
    "grid": {"finetune.seed": [0, 1, 2]},
}


def train_in_process(storage: Storage, seed: int) -> str:
    """The key of a fine-tuning that has ended, and was never given up."""
    job = make_job(storage, steps=STEPS, seed=seed)
    run_in_process(job, Listener(), checkpoint_seconds=3600)
    return job.key


@pytest.mark.long
def test_what_is_left_behind_is_given_up_remembered_and_taken_up_by_a_run_without(
    ray_session: None, tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path / "storage"))
    first = train_in_process(storage, seed=0)
    # Better than the others can be, whatever they learn in so few steps.
    history = [
        row | ({"val_miou_subset": 100.0} if "val_miou_subset" in row else {}) for row in read_history(storage, first)
    ]
    write_history(storage, first, history)

    plan, report = run(EXPERIMENT, storage)
    keys = [cell.roles["finetune"].key for cell in plan.cells]
    assert keys[0] == first
    assert (report.failed, report.executed) == ({}, [first])
    assert set(plan.skipped) == set(keys[1:])
    assert {group["state"] for group in placement_group_table().values()} <= {"REMOVED"}
    told = [(cell.status, cell.reason) for cell in collect(plan, set(), {})]
    assert [status for status, _ in told] == ["done", "stopped", "stopped"]
    # Whoever comes to the rung first is compared with the one alone that was there.
    assert sum("after step 20 of 100 is below 100.00" in str(each) for each in told) == 1
    for key in keys[1:]:
        state = torch.load(io.BytesIO(storage.read(state_path(key))), weights_only=True)
        assert 20 <= state["step"] < STEPS

    again, second = run(EXPERIMENT, storage)
    assert second.executed == []
    assert [(cell.status, cell.reason) for cell in collect(again, {first}, {})] == [
        ("cached", None),
        *told[1:],
    ]

    patient = {**EXPERIMENT, "compute": EXPERIMENT["compute"] | {"early_stopping": None}}
    whole, third = run(patient, storage)
    assert sorted(third.executed) == sorted(keys[1:])
    for key in keys[1:]:
        assert not is_marked(storage, key)
        assert [row["step"] for row in read_history(storage, key)] == list(range(1, STEPS + 1))
    undisturbed = Storage(str(tmp_path / "undisturbed"))
    outcome = read_outcome(undisturbed, train_in_process(undisturbed, seed=1))
    assert outcome is not None
    assert whole.done[keys[1]].results["miou"] == pytest.approx(outcome.results[keys[1]]["miou"], abs=1e-6)
