"""Which fine-tunings are given up, by which comparison, and what is remembered of it."""

import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from support.star import EXPERIMENT
from support.trainings import DOCUMENT

from orchestrator.execution.early_stopping import Column, SuccessiveHalving, column
from orchestrator.ledger.stop_marks import Stop, forget_mark, is_marked, mark_stopped
from orchestrator.ledger.training_states import write_history
from orchestrator.planning.explain import explain
from orchestrator.planning.plan import Plan, make_plan, may_be_stopped
from orchestrator.planning.selection import select_best
from orchestrator.results.results import collect
from orchestrator.spec.experiment import EarlyStopping
from orchestrator.storage.store import Storage
from workloads.errors import InputError

STEPS = 10
RULE = EarlyStopping()
STOP = Stop(2, 10, 12.5, 20.0, RULE.reduction_factor, RULE.grace)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


def planned(storage: Storage, **changes: Any) -> Plan:
    return make_plan({**DOCUMENT, **changes}, storage, write_listings=True)


def rivals(storage: Storage, number: int) -> list[str]:
    """The keys of so many fine-tunings of one column, of 10 steps each."""
    plan = planned(storage, grid={"finetune.seed": list(range(number)), "finetune.steps": [STEPS]})
    return list(plan.steps)


def halving(storage: Storage, number: int, rule: EarlyStopping = RULE) -> SuccessiveHalving:
    plan = planned(storage, grid={"finetune.seed": list(range(number)), "finetune.steps": [STEPS]})
    return SuccessiveHalving(rule, may_be_stopped(plan.steps.values()), storage)


def column_of(storage: Storage, **finetune: Any) -> Column:
    plan = planned(storage, finetune=DOCUMENT["finetune"] | finetune)
    (step,) = plan.steps.values()
    return column(step)


def test_rows_and_seeds_share_a_column_and_nothing_that_makes_the_way_another_does(storage: Storage) -> None:
    same = column_of(storage)
    assert column_of(storage, seed=1) == same
    assert column_of(storage, optimiser={"learning_rate": 0.5}) == same
    assert column_of(storage, steps=None, epochs=10.0, batch_size=16) == same, "as many steps, however they are given"
    others = [
        column_of(storage, steps=6),
        column_of(storage, fraction=0.5),
        column_of(storage, number=2),
        column_of(storage, evaluation={"flip": True}),
        column_of(storage, segmentor=DOCUMENT["finetune"]["segmentor"] | {"head_channels": 16}),
    ]
    assert len({same, *others}) == 6


def test_what_others_are_computed_from_is_never_given_up(storage: Storage) -> None:
    plan = make_plan(EXPERIMENT, storage, write_listings=True)
    networks = {step.input_keys["network"] for step in plan.steps.values() if "network" in step.inputs}
    found = {step.key for step in may_be_stopped(plan.steps.values())}
    assert networks and found == {cell.roles["finetune"].key for cell in plan.cells}
    assert not found & networks
    for key in networks:
        mark_stopped(storage, key, STOP)
    document = {**EXPERIMENT, "compute": {**EXPERIMENT["compute"], "early_stopping": {}}}
    assert make_plan(document, storage, write_listings=True).skipped == {}


@pytest.mark.parametrize(("factor", "grace"), [(3.0, 0.2), (2.0, 0.1), (4.0, 0.3), (1.5, 0.05)])
def test_rays_own_scheduler_decides_the_same(factor: float, grace: float, storage: Storage) -> None:
    """Trainings of one column at their own pace, reporting often or seldom; a few repeat themselves after a restart."""
    drawn = random.Random(0)
    keys = rivals(storage, 12)
    rule = EarlyStopping(reduction_factor=factor, grace=grace)
    ours = halving(storage, 12, rule)
    theirs = ASHAScheduler(
        time_attr="step",
        metric="miou",
        mode="max",
        max_t=STEPS,
        grace_period=max(1, math.ceil(grace * STEPS)),
        reduction_factor=factor,
        stop_last_trials=False,
    )
    nothing: Any = None
    trials: dict[str, Any] = {key: SimpleNamespace(trial_id=key) for key in keys}
    for trial in trials.values():
        theirs.on_trial_add(nothing, trial)
    at = dict.fromkeys(keys, 0)
    running, stopped = list(keys), 0
    while running:
        key = drawn.choice(running)
        at[key] += drawn.choice([-1, 1, 1, 2, 3]) if at[key] > 1 else 1
        if at[key] >= STEPS:
            assert ours.judge(key, at[key], 0.0) is None
            running.remove(key)
            continue
        miou = drawn.uniform(0, 100)
        stop = ours.judge(key, at[key], miou)
        told = theirs.on_trial_result(nothing, trials[key], {"step": at[key], "miou": miou})
        assert (stop is not None) == (told == TrialScheduler.STOP)
        if stop is not None:
            assert (stop.step, stop.total_steps, stop.miou) == (at[key], STEPS, miou) and miou < stop.limit
            stopped += 1
            running.remove(key)
    assert 0 < stopped < len(keys)


def test_other_columns_and_reports_without_a_score_decide_nothing(storage: Storage) -> None:
    plan = planned(storage, grid={"finetune.steps": [10, 20], "finetune.seed": [0, 1]})
    judge = SuccessiveHalving(RULE, may_be_stopped(plan.steps.values()), storage)
    short, _, long, last = (cell.roles["finetune"].key for cell in plan.cells)
    assert judge.judge(short, 2, 90.0) is None
    assert judge.judge(long, 4, 10.0) is None, "it is the first of its column"
    assert judge.judge(last, 4, None) is None
    assert judge.judge(last, 4, float("nan")) is None
    assert judge.judge("a key of another plan", 4, 0.0) is None
    assert judge.judge(last, 4, 9.0) is not None


def test_a_new_run_compares_with_what_the_storage_remembers(storage: Storage) -> None:
    first, second = rivals(storage, 2)
    rows = [{"step": step, "total_steps": 10, "loss": 1.0, "images_per_second": 1.0} for step in (1, 2)]
    rows[1]["val_miou_subset"] = 50.0
    write_history(storage, first, rows)
    stop = halving(storage, 2).judge(second, 2, 49.0)
    assert stop is not None
    assert stop.limit == 50.0
    assert halving(storage, 2).judge(first, 2, 1.0) is None, "it has passed this rung already"


def test_a_cell_that_was_given_up_says_so_under_the_same_rule_only(storage: Storage) -> None:
    first, second = rivals(storage, 2)
    mark_stopped(storage, second, STOP)
    grid = {"finetune.seed": [0, 1], "finetune.steps": [STEPS]}
    plan = planned(storage, grid=grid, compute={"early_stopping": {}})
    assert [step.key for step in plan.pending] == [first]
    cell = collect(plan, set(), {})[1]
    assert (cell.status, cell.error, cell.metrics.miou) == ("stopped", None, None)
    assert cell.reason == (
        "mIoU 12.50 on the validation subset after step 2 of 10 is below 20.00, where the best 1/3 of its column "
        "begin (compute.early_stopping)"
    )
    assert {step.key: why for step, why in explain(plan, storage)}[second] == f"stopped: {cell.reason}"
    for other in ({}, {"early_stopping": None}, {"early_stopping": {"grace": 0.5}}):
        assert planned(storage, grid=grid, compute=other).skipped == {}
    assert is_marked(storage, second)
    forget_mark(storage, second)
    assert planned(storage, grid=grid, compute={"early_stopping": {}}).skipped == {}


def test_judging_again_forgets_no_stop(storage: Storage, tiny: dict[str, Any]) -> None:
    network = DOCUMENT["finetune"]
    tiny |= {"finetune": network, "pretrain": {"steps": 1, "segmentor": network["segmentor"]}}
    tiny["compute"]["early_stopping"] = {}
    before = make_plan(tiny, storage, write_listings=True)
    key = before.cells[0].roles["finetune"].key
    mark_stopped(storage, key, STOP)
    plan = make_plan(tiny, storage, write_listings=True)
    for _ in range(2):
        assert select_best(plan, 1) is False, "nothing is scored yet"
        assert plan.skipped[key].status == "stopped"
        others = {step.key for step in plan.steps.values() if step.kind == "finetune"} - {key}
        assert {plan.skipped[other].status for other in others} == {"not trained"}


def test_a_rule_without_a_meaning_is_refused(storage: Storage) -> None:
    for rule in ({"reduction_factor": 1}, {"grace": 0.0}, {"grace": 1.0}, {"patience": 3}):
        with pytest.raises(InputError, match=r"compute\.early_stopping\." + next(iter(rule))):
            planned(storage, compute={"early_stopping": rule})
