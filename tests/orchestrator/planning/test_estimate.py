"""Estimates against a calculation by hand, and where their rates come from."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.capacity import Capacity, Machines
from orchestrator.planning.estimate import Assumptions, Prices, Rate, estimate, read_assumptions
from orchestrator.planning.plan import make_plan
from orchestrator.storage.store import Storage
from workloads.errors import InputError

GIVEN = Assumptions(
    rates={
        "sample/filters/8": Rate(seconds=2, bytes=100, device="cuda"),
        "superpixels": Rate(seconds=3, bytes=10),
        "cluster": Rate(seconds=1, device="cuda"),
        "label/filters/8": Rate(seconds=5, bytes=7, device="cuda"),
        "score": Rate(seconds=4),
    },
    prices=Prices(core_hour=36, gpu_hour=360, currency="EUR"),
)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


def test_time_bytes_and_money_of_a_grid(tiny: dict[str, Any], storage: Storage) -> None:
    """Four cells of 24 train and 8 val images: two numbers of clusters, with and without superpixels."""
    capacity = Capacity(now=(), most=(Machines(2, 8), Machines(1, 4, 2)), scales=True)
    costs = estimate(make_plan(tiny, storage, write_listings=False), storage, GIVEN, capacity)
    gpu_seconds = 24 * 2 + 2 * 24 * 1 + 4 * (24 + 8) * 5
    core_seconds = (24 + 8) * 3 + 4 * 8 * 4
    assert (costs.gpu_seconds, costs.core_seconds) == (gpu_seconds, core_seconds)
    assert costs.bytes == 24 * 100 + 32 * 10 + 4 * 32 * 7
    assert costs.money == pytest.approx(core_seconds / 100 + gpu_seconds / 10)
    assert costs.currency == "EUR"
    assert costs.wall_seconds == gpu_seconds / 2, "GPUs are the bottleneck: 20 cores have less to do"
    # SingleProcess every cell takes its own samples and clusters, and two of the four their own superpixels.
    alone = 4 * (24 * 2 + 24 + 32 * 5 + 8 * 4) + 2 * 32 * 3
    assert costs.times_alone == pytest.approx(alone / (gpu_seconds + core_seconds), abs=1e-3)
    assert costs.basis == "rates given"


def test_a_fine_tuning_costs_its_labelled_images_and_not_those_it_is_judged_on(
    tiny: dict[str, Any], storage: Storage
) -> None:
    finetune = {"recipe": "small", "steps": None, "epochs": 3, "batch_size": 4, "fraction": 0.5}
    document = {key: value for key, value in tiny.items() if key != "grid"} | {"pretrain": None, "finetune": finetune}
    rates = GIVEN.rates | {"finetune/deeplabv3_mobilenet_v2/16": Rate(seconds=1)}
    costs = estimate(make_plan(document, storage, write_listings=False), storage, Assumptions(rates=rates))
    assert costs.seconds_by_kind["finetune"] == 3 * 12


def test_gpu_work_without_a_gpu_has_no_end(tiny: dict[str, Any], storage: Storage) -> None:
    capacity = Capacity.fixed([Machines(2, 8)])
    assert estimate(make_plan(tiny, storage, write_listings=False), storage, GIVEN, capacity).wall_seconds is None


def test_what_is_assumed_is_said(tiny: dict[str, Any], storage: Storage) -> None:
    some = Assumptions(rates={"score": Rate(seconds=4)})
    costs = estimate(make_plan(tiny, storage, write_listings=False), storage, some)
    assert (
        costs.basis == "given rates of score; assumed rates of cluster, label/filters/8, sample/filters/8, superpixels"
    )
    assert (costs.money, costs.wall_seconds) == (None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "rates: {score: {seconds: fast}}",
            "rates.score.seconds: 'fast' is not allowed; input should be a valid number",
        ),
        (
            "rates: {score: {seconds: -1}}",
            "rates.score.seconds: -1 is not allowed; input should be greater than or equal to 0",
        ),
        ("prices: {cpu_hour: 1}", "unknown key prices.cpu_hour; did you mean prices.gpu_hour?"),
        ("rates: [1", "is not YAML"),
    ],
)
def test_a_file_that_holds_something_else(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rates.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="--rates: ") as error:
        read_assumptions(str(path))
    assert said in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_assumptions(str(tmp_path / "none.yaml"))
