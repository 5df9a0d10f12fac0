"""What a worker is taken to need, against what anyone can reckon by hand."""

from pathlib import Path

import pytest

from orchestrator.planning.memory import MemoryNeeds
from orchestrator.planning.plan import make_plan
from orchestrator.steps.step import Pool
from orchestrator.storage.store import Storage
from workloads.costs.memory import WITH_GPU, WITH_TORCH

SCENES = {"name": "scenes", "num_train": 4, "num_val": 2}


def document(size: tuple[int, int]) -> dict[str, object]:
    return {
        "name": "memory",
        "dataset": {**SCENES, "image_size": list(size)},
        "labels": {"sampling": {"pixels_per_image": 100}, "clustering": {"k": 3}},
        "pretrain": {"recipe": "small"},
        "finetune": {"recipe": "small", "steps": 1},
    }


def needs(folder: Path, size: tuple[int, int], *, uses_gpus: bool = False) -> MemoryNeeds:
    return MemoryNeeds.of_plan(
        make_plan(document(size), Storage(str(folder)), write_listings=True), uses_gpus=uses_gpus
    )


def test_large_images_take_more_and_a_gpu_takes_it_off_the_machine(tmp_path: Path) -> None:
    small, large = needs(tmp_path, (64, 96)), needs(tmp_path, (256, 384))
    pixels = 256 * 384 - 64 * 96
    for pool, each in {Pool.PROCESS: 150, Pool.EXTRACT: 150 + 640}.items():
        assert large.of(pool) - small.of(pool) == pytest.approx(each * pixels)
    # The matrix of four images' samples is the same, and so are the views of a training.
    assert large.of(Pool.CLUSTER) == small.of(Pool.CLUSTER) == pytest.approx(WITH_TORCH + 2 * 4 * 4 * 100 * 41)
    assert large.of(Pool.TRAIN) - small.of(Pool.TRAIN) == pytest.approx(150 * pixels)
    assert large.of(Pool.TRAIN) > WITH_TORCH + 8 * 177 * 241 * 5000
    beside = needs(tmp_path, (256, 384), uses_gpus=True)
    assert beside.of(Pool.EXTRACT) == beside.of(Pool.TRAIN) == pytest.approx(WITH_GPU + 150 * 256 * 384)
    assert beside.of(Pool.PROCESS) == large.of(Pool.PROCESS)


def test_what_was_seen_corrects_the_rule_for_the_pool(tmp_path: Path) -> None:
    found = needs(tmp_path, (64, 96))
    plan = make_plan(document((64, 96)), Storage(str(tmp_path)), write_listings=True)
    sample = next(step for step in plan.steps.values() if step.kind == "sample")
    before, training = found.of(Pool.EXTRACT), found.of(Pool.TRAIN)
    found.saw(sample, found.rule(sample) / 2)
    found.saw(sample, found.rule(sample) / 4)
    assert found.of(Pool.EXTRACT) == pytest.approx(1.1 * before / 2)
    found.saw(sample, 2 * found.rule(sample))
    assert found.of(Pool.EXTRACT) == pytest.approx(1.1 * before * 2)
    found.fell_short(Pool.EXTRACT)
    assert found.of(Pool.EXTRACT) == pytest.approx(1.1 * before * 3)
    assert found.of(Pool.TRAIN) == training


def test_a_machine_that_is_too_small_is_spoken_of_and_not_refused() -> None:
    found = MemoryNeeds({Pool.EXTRACT: 2.1e9, Pool.PROCESS: 0.4e9})
    assert found.doubts([4e9, 1e9]) == []
    (line,) = found.doubts([1.5e9, 1e9])
    assert line == (
        "a worker of extract steps may take 2.1 GB of memory; the largest machine offers 1.5 GB, so one runs at a "
        "time, and may be ended for memory"
    )
