"""The contrast beside a fine-tuning, as steps: what is labelled for it, what its key knows, and a run to the end."""

import copy
from pathlib import Path
from typing import Any

import pytest
from support.star import CROP
from support.trainings import DOCUMENT
from support.without_ray import run

from orchestrator.planning.plan import make_plan
from orchestrator.storage.store import Storage
from workloads.errors import InputError

JOINT: dict[str, Any] = {
    **copy.deepcopy(DOCUMENT),
    "labels": {
        "images": 4,
        "extractor": {"arch": "filters", "output_stride": 8, "batch_size": 2},
        "sampling": {"pixels_per_image": 20},
        "superpixels": {"n_segments": 40},
    },
    "finetune": DOCUMENT["finetune"] | {"steps": 2, "number": 2, "batch_size": 2},
    "joint": {"views": CROP | {"crop_mode": "fixed", "cutout": [0, 0]}, "contrast": {"anchors_per_image": 16}},
}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


def test_joint_training_runs_on_labels_of_the_whole_pool_and_no_pre_training(storage: Storage) -> None:
    ended = run(JOINT, storage)
    assert ended.failed == []
    roles = ended.plan.cells[0].roles
    assert "pretrain" not in roles
    assert (roles["cluster"].images.count, roles["label"].images.count) == (4, 8)
    assert roles["finetune"].input_keys == {"labels": roles["label"].key}
    manifest = ended.plan.done[roles["finetune"].key]
    assert 0 <= manifest.results["miou"] <= 100
    assert make_plan(JOINT, storage, write_listings=False).pending == []


def test_the_options_of_the_contrast_are_part_of_the_key_and_its_absence_is_not(storage: Storage) -> None:
    def key(**joint: Any) -> str:
        (cell,) = make_plan(JOINT | {"joint": JOINT["joint"] | joint}, storage, write_listings=False).cells
        return cell.roles["finetune"].key

    (alone,) = make_plan(JOINT | {"joint": None}, storage, write_listings=False).cells
    assert list(alone.roles) == ["finetune"], "nothing is labelled that nobody reads"
    assert len({alone.roles["finetune"].key, key(), key(weight=0.2), key(scope="backbone")}) == 4
    assert key(weight=0.1) == key()


def test_joint_training_is_a_fine_tuning(storage: Storage) -> None:
    with pytest.raises(InputError, match=r"joint is given, but nothing is fine-tuned; give finetune, too"):
        make_plan(JOINT | {"finetune": None}, storage, write_listings=False)
