from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from workloads.datasets import DatasetConfig, open_dataset
from workloads.datasets.base import distinct_palette
from workloads.datasets.scenes import Scenes, ScenesConfig
from workloads.errors import InputError


class Experiment(BaseModel):
    dataset: DatasetConfig


def test_the_name_chooses_and_defaults_are_filled_in() -> None:
    config = Experiment.model_validate({"dataset": {"name": "scenes", "num_train": 12}}).dataset
    assert isinstance(config, ScenesConfig)
    assert (config.pool, config.val, config.num_train, config.image_size) == ("train", "val", 12, (160, 240))
    assert isinstance(open_dataset(config, None), Scenes)


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "nyuv2", "ade20k", "folder", "scenes"])
def test_every_data_set_is_a_hashable_configuration_that_round_trips(name: str) -> None:
    adapter: TypeAdapter[DatasetConfig] = TypeAdapter(DatasetConfig)
    config = adapter.validate_python({"name": name})
    assert config.name == name and hash(config) == hash(config.model_copy())
    assert adapter.validate_json(config.model_dump_json()) == config
    assert all(field.description for field in type(config).model_fields.values())
    assert "root" not in type(config).model_fields


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"name": "imagenet"}, "camvid"),
        ({"name": "camvid", "num_classes": 3}, "num_classes"),
        ({"name": "camvid", "root": "/data"}, "root"),
        ({"name": "folder", "num_classes": 0}, "num_classes"),
        ({"name": "scenes", "image_size": [8, 8]}, "32 to 4096"),
        ({"name": "scenes", "num_train": 0}, "num_train"),
        ({}, "name"),
    ],
)
def test_wrong_options_are_errors_that_name_them(given: dict, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Experiment.model_validate({"dataset": given})


def test_a_root_for_generated_scenes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scenes are generated"):
        open_dataset(ScenesConfig(), tmp_path)


def test_generated_palettes_have_distinct_colours() -> None:
    palette = distinct_palette(255)
    assert palette.shape == (255, 3) and len(np.unique(palette, axis=0)) == 255
    assert palette[:3].tolist() == [[128, 0, 0], [0, 128, 0], [128, 128, 0]]
