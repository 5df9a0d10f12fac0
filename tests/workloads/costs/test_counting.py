"""Counted operations against a calculation by hand, and seconds against the speeds that they are made of."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from workloads.configs.extraction import ExtractorConfig
from workloads.configs.networks import SegmentorConfig
from workloads.configs.training import EvaluationConfig
from workloads.costs import calibration
from workloads.costs.counting import CostCounter, count, count_all
from workloads.costs.speeds import NetworkSpeed, PassCost
from workloads.costs.work import NetworkPass, evaluation


def test_a_convolution_is_counted_as_by_hand() -> None:
    with torch.device("meta"):
        dense, grouped = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        images = torch.empty(2, 6, 10, 12)
    with torch.no_grad(), CostCounter() as counter:
        grouped(dense(images))
    cells = 2 * 10 * 12
    assert counter.cost == PassCost(
        dense=2 * cells * 8 * 6 * 9,
        grouped=2 * cells * 8 * 9,
        bytes=4 * (cells * (6 + 8) + 8 * 6 * 9 + cells * (8 + 8) + 8 * 9),
        operations=2,
    )


def test_resnet50_has_the_multiplications_that_are_published() -> None:
    """4.09 thousand million at 224 x 224 (torchvision), of which the classifier, left out here, has 2 million."""
    published = ExtractorConfig(arch="resnet50", output_stride=32)
    one = NetworkPass(extractor=published, image_size=(224, 224))
    assert count(one).dense / 2 == pytest.approx(4.09e9, rel=0.01)
    four = count(one.model_copy(update={"batch": 4}))
    assert (four.dense, four.operations) == (4 * count(one).dense, count(one).operations)


def test_a_network_that_cannot_be_built_is_left_out() -> None:
    wrong = NetworkPass(extractor=ExtractorConfig(arch="resnet18", layer="nowhere"), image_size=(64, 64))
    assert count_all([wrong]) == [None]


def test_an_evaluation_passes_every_scale_window_and_mirror_image() -> None:
    config = EvaluationConfig(scales=(1.0, 2.0), flip=True, window=(64, 64), window_stride=0.5)
    work = evaluation(SegmentorConfig(), 5, config, (64, 96), images=3)
    # 1 x 2 windows at scale 1, 3 x 5 at scale 2.
    assert [(one.image_size, times) for one, times in work.passes] == [((64, 64), 3 * 2 * (2 + 15))]
    assert work.amounts["count"] == pytest.approx(3 * 64 * 96 / 1e6)


def test_seconds_are_the_sum_of_the_parts() -> None:
    speed = NetworkSpeed(dense=1, grouped=10, bytes=100, operations=1000)
    assert speed.seconds(PassCost(2, 3, 4, 5)) == 2 + 30 + 400 + 5000


def test_a_calibration_finds_the_speed_that_times_were_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    made_of = NetworkSpeed(dense=3e-11, grouped=2e-10, bytes=5e-10, operations=1e-5)

    def seconds(step: Callable[[], object], device: torch.device) -> float:
        with CostCounter() as counter:
            step()
        return made_of.seconds(counter.cost)

    monkeypatch.setattr(calibration, "_seconds", seconds)
    # In inference mode operations are seen before they are taken apart.
    monkeypatch.setattr(torch, "inference_mode", lambda mode: torch.set_grad_enabled(not mode))
    found = calibration._network_speed(torch.device("cpu"), training=False, precision="float32")
    assert found.dense == pytest.approx(made_of.dense, rel=0.05)
    # What a CPU runs and what the meta device sees differ a little, in copies between layouts.
    unseen = count(NetworkPass(extractor=ExtractorConfig(arch="mobilenet_v2"), image_size=(97, 129)))
    assert found.seconds(unseen) == pytest.approx(made_of.seconds(unseen), rel=0.2)
