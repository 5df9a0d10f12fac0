from typing import get_args

import pytest

from workloads.configs.recipes import MULTI_SCALE, Recipe, finetuning_recipe, pretraining_recipe
from workloads.configs.training import FinetuneConfig, PretrainConfig
from workloads.training.views import check_crop

SIZES = {
    "cityscapes": (1024, 2048),
    "ade20k": (512, 683),
    "nyuv2": (480, 640),
    "camvid": (360, 480),
    "small": (360, 480),
}


@pytest.mark.parametrize("name", get_args(Recipe))
def test_recipes_fit_their_images_and_survive_a_round_trip(name):
    finetuning, pretraining = finetuning_recipe(name), pretraining_recipe(name)
    check_crop(pretraining.views, SIZES[name])
    assert FinetuneConfig.model_validate_json(finetuning.model_dump_json()) == finetuning
    assert PretrainConfig.model_validate_json(pretraining.model_dump_json()) == pretraining
    assert finetuning.segmentor == pretraining.segmentor
    for low, high in (pretraining.views.scale, finetuning.augmentation.scale):
        assert low < high


@pytest.mark.parametrize(("name", "crop", "epochs"), [("cityscapes", 713, 200), ("ade20k", 473, 100)])
def test_semseg_numbers(name, crop, epochs):
    recipe = finetuning_recipe(name)
    assert recipe.augmentation.crop == (crop, crop)
    assert (recipe.epochs, recipe.batch_size, recipe.auxiliary_weight) == (epochs, 16, 0.4)
    optimiser = recipe.optimiser
    assert (optimiser.kind, optimiser.learning_rate, optimiser.head_factor) == ("sgd", 0.01, 10.0)
    assert (optimiser.momentum, optimiser.weight_decay, optimiser.schedule, optimiser.power) == (0.9, 1e-4, "poly", 0.9)
    assert recipe.augmentation.scale == (0.5, 2.0)
    assert (recipe.augmentation.rotation, recipe.augmentation.rotation_probability) == ((-10.0, 10.0), 0.5)
    assert (crop - 1) % 8 == 0
    multi = recipe.evaluation_multi_scale
    assert (multi.scales, multi.flip) == (MULTI_SCALE, True) == ((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), True)
    assert (recipe.evaluation.scales, recipe.evaluation.flip) == ((1.0,), True)
    assert recipe.evaluation.window == multi.window == (crop, crop)
    assert recipe.evaluation.base_size == multi.base_size == (512 if name == "ade20k" else None)


def test_cityscapes_steps_are_those_of_the_literature():
    # 2 975 images, 200 epochs, batch 16: about 37 000 iterations.
    assert finetuning_recipe("cityscapes").total_steps(2975) == 37188


def test_small_is_a_plain_scripts_recipe():
    recipe = finetuning_recipe("small")
    network, optimiser, views = recipe.segmentor, recipe.optimiser, recipe.augmentation
    assert (network.head, network.head_channels, network.output_stride, network.auxiliary_head) == (
        "fcn",
        128,
        8,
        False,
    )
    assert (optimiser.kind, optimiser.learning_rate, optimiser.weight_decay) == ("adamw", 5e-4, 1e-4)
    assert optimiser.learning_rate * optimiser.head_factor == 2e-3
    assert (optimiser.schedule, optimiser.power, recipe.batch_size) == ("poly", 0.9, 8)
    assert (views.scale, views.flip, views.crop) == ((0.75, 2.0), 0.5, views.image_size)
    assert all((side - 1) % network.output_stride == 0 for side in views.crop)


def test_small_is_the_scale_of_two_cores():
    assert finetuning_recipe("small").total_steps(37) == 600
    assert pretraining_recipe("small").total_steps(367) == 551
