"""Estimates against a calculation by hand, and where their rates come from."""

import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.planning.capacity import Capacity, Machines
from orchestrator.planning.estimate import Assumptions, Estimate, Prices, Rate, estimate, read_assumptions
from orchestrator.planning.imagined import Imagined
from orchestrator.planning.plan import make_plan
from orchestrator.planning.speeds import GUESSED, counted, keep_speeds
from orchestrator.storage.store import Storage
from workloads.configs.extraction import ExtractorConfig
from workloads.costs.counting import count
from workloads.costs.work import NetworkPass
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
    plan = make_plan(document, storage, write_listings=False)
    [name] = [step.rate_name(step.meaning) for step in plan.steps.values() if step.kind == "finetune"]
    costs = estimate(plan, storage, Assumptions(rates=GIVEN.rates | {name: Rate(seconds=1)}))
    assert costs.seconds_by_kind["finetune"] == 3 * 12


def test_joint_training_costs_its_two_views_as_well(tiny: dict[str, Any], storage: Storage) -> None:
    """A view of a labelled image and two as large of an unlabelled one: three times the steps of the network."""
    document = {key: value for key, value in tiny.items() if key != "grid"} | {"pretrain": None}
    document |= {"finetune": {"recipe": "small", "steps": 1000, "evaluation_multi_scale": None}}
    seconds = []
    for part in ({}, {"joint": {"weight": 0.1}}):
        plan = make_plan(document | part, storage, write_listings=False)
        seconds.append(estimate(plan, storage, Assumptions(rates={})).seconds_by_kind["finetune"])
    assert 2.5 < seconds[1] / seconds[0] < 3.2


def test_gpu_work_without_a_gpu_has_no_end(tiny: dict[str, Any], storage: Storage) -> None:
    capacity = Capacity.fixed([Machines(2, 8)])
    assert estimate(make_plan(tiny, storage, write_listings=False), storage, GIVEN, capacity).wall_seconds is None


def test_what_is_assumed_is_said(tiny: dict[str, Any], storage: Storage) -> None:
    some = Assumptions(rates={"score": Rate(seconds=4)})
    costs = estimate(make_plan(tiny, storage, write_listings=False), storage, some)
    assert costs.basis.startswith(
        "score: rates given; cluster, label/filters/8, sample/filters/8, superpixels: no step of the kind was done here"
    )
    assert (costs.money, costs.wall_seconds) == (None, None)


def test_seconds_follow_pixels_networks_and_batches(storage: Storage) -> None:
    """Nothing is there: images and weights are imagined."""

    def costs(arch: str, size: tuple[int, int], images: int = 500, **finetune: Any) -> Estimate:
        document = {
            "name": "imagined",
            "dataset": {"name": "cityscapes", "root": "nowhere"},
            "labels": {"extractor": {"arch": arch, "weights": None if arch == "filters" else "nowhere.pth"}},
            "finetune": {"recipe": "small", "evaluation_multi_scale": None, **finetune},
            "pretrain": {"recipe": "small", "weights": "nowhere.pth", "init": "moco"},
        }
        plan = make_plan(document, storage, write_listings=False, imagined=Imagined(images, size))
        assert plan.cells[0].error is None
        return estimate(plan, storage)

    small = costs("filters", (360, 480))
    large, heavy = costs("filters", (720, 960)), costs("vgg19", (360, 480))
    for kind in ("sample", "superpixels", "label"):
        assert large.seconds_by_kind[kind] == pytest.approx(4 * small.seconds_by_kind[kind], rel=0.1)
    assert heavy.seconds_by_kind["sample"] > 2 * small.seconds_by_kind["sample"]
    assert heavy.seconds_by_kind["superpixels"] == small.seconds_by_kind["superpixels"]
    # Views have the size of the recipe, whatever the images', which are decoded first and scored afterwards.
    assert large.seconds_by_kind["pretrain"] < 2 * small.seconds_by_kind["pretrain"]
    twice = costs("filters", (360, 480), batch_size=16)
    scored = costs("filters", (360, 480), steps=1).seconds_by_kind["finetune"]
    trained = small.seconds_by_kind["finetune"] - scored
    assert twice.seconds_by_kind["finetune"] - scored == pytest.approx(2 * trained, rel=0.1)
    more = costs("filters", (360, 480), 1000).seconds_by_kind
    assert more["sample"] == pytest.approx(2 * small.seconds_by_kind["sample"], rel=0.01)


def test_steps_that_were_done_correct_what_others_of_their_kind_will_take(
    tiny: dict[str, Any], storage: Storage
) -> None:
    first = make_plan(tiny, storage, write_listings=False)
    before = estimate(first, storage)
    [step] = [step for step in first.steps.values() if step.kind == "sample"]
    seconds = 3 * before.seconds_by_step[step.key]
    provenance = {"images": {"pool": "train", "requested": None, "available": 24, "used": 24}, "work_seconds": seconds}
    Ledger(storage).commit(Manifest(step.kind, step.key, step.meaning, {}, [], provenance=provenance))
    # Other pixels of the same images.
    tiny["labels"]["sampling"]["pixels_per_image"] = 50
    after = estimate(make_plan(tiny, storage, write_listings=False), storage)
    assert after.seconds_by_kind["sample"] == pytest.approx(seconds, rel=0.5), "one image is timed each time"
    assert after.sources["sample/filters/8"] == "measured"
    assert after.sources["superpixels"] == "assumed"


def test_what_was_calibrated_is_no_guess(
    tiny: dict[str, Any], storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plan = make_plan(tiny, storage, write_listings=False)
    guessed = estimate(plan, storage)
    assert guessed.uncertainty == "a guess"
    speeds = GUESSED["cpu"].model_copy(update={"host": "here"})
    slow = {name: 10 * seconds for name, seconds in speeds.operations.items()}
    assert keep_speeds("cpu", speeds.model_copy(update={"operations": slow})) is not None
    calibrated = estimate(plan, storage)
    assert calibrated.uncertainty == "within a factor of 2"
    assert set(calibrated.sources.values()) == {"calibrated"}
    [one, *_] = [step.key for step in plan.steps.values() if step.kind == "cluster"]
    assert calibrated.seconds_by_step[one] == pytest.approx(10 * guessed.seconds_by_step[one], abs=0.01)
    next(tmp_path.rglob("speeds-*")).write_text("damaged")
    assert estimate(plan, storage).uncertainty == "a guess"


def test_networks_are_counted_in_a_process_of_their_own_where_torch_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one = NetworkPass(extractor=ExtractorConfig(arch="filters"), image_size=(64, 96))
    monkeypatch.delitem(sys.modules, "torch")
    counts = counted([one])
    monkeypatch.undo()
    assert counts == {one: count(one)}


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
