import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workloads.datasets import open_dataset, survey
from workloads.datasets.camvid import CamvidConfig
from workloads.datasets.folder import FolderConfig
from workloads.datasets.scenes import ScenesConfig
from workloads.errors import InputError


def test_a_labelled_pool_with_one_of_each_trouble(tmp_path: Path, save, photo: np.ndarray) -> None:
    for stem in "abcde":
        save(tmp_path / "train" / f"{stem}.png", photo)
        save(tmp_path / "trainannot" / f"{stem}.png", np.full((6, 8), 3, dtype=np.uint8))
    save(tmp_path / "train/a.png", np.zeros((6, 8), dtype=np.uint8))
    save(tmp_path / "train/b.png", np.zeros((6, 8, 4), dtype=np.uint8))
    (tmp_path / "train/c.png").write_bytes(b"text")
    half_ignored = np.array([[11] * 4 + [0] * 4] * 6, dtype=np.uint8)
    save(tmp_path / "trainannot/a.png", half_ignored)
    save(tmp_path / "trainannot/d.png", np.full((6, 8), 99, dtype=np.uint8))
    (tmp_path / "trainannot/e.png").unlink()

    found = survey(open_dataset(CamvidConfig(), tmp_path), "train")
    assert (found.available, found.examined, found.labelled) == (5, 5, True)
    assert found.sizes == {(6, 8): 4}
    assert found.conversions == {"greyscale": 1, "alpha": 1}
    assert [image_id for image_id, _ in found.broken] == ["c"]
    assert "not an image" in found.broken[0][1]
    assert found.class_pixels["sky"] == 24 and found.class_pixels["road"] == 2 * 48
    assert found.ignored_pixels == 24 and found.ignored_share == pytest.approx(24 / 144)
    assert set(found.absent_classes) == set(found.class_pixels) - {"sky", "road"}
    assert [image_id for image_id, _ in found.label_errors] == ["d", "e"]
    assert "99 not allowed" in found.label_errors[0][1] and "missing" in found.label_errors[1][1]
    plain = json.loads(json.dumps(found.to_json()))
    assert plain["sizes"] == {"6x8": 4} and plain["broken"][0]["image"] == "c"


def test_label_values_counted_from_one_and_lossy_files_are_suspected(tmp_path: Path, save, photo: np.ndarray) -> None:
    for stem in "ab":
        save(tmp_path / "train" / f"{stem}.png", photo)
        save(tmp_path / "trainannot" / f"{stem}.png", (np.arange(48) % 11 + 1).astype(np.uint8).reshape(6, 8))
    found = survey(open_dataset(CamvidConfig(), tmp_path), "train")
    assert found.counted_from_one == 2 and not found.label_errors and not found.label_doubts
    lossy = Image.fromarray(np.full((6, 8), 3, dtype=np.uint8))
    lossy.save(tmp_path / "trainannot/a.png", "JPEG")
    found = survey(open_dataset(CamvidConfig(), tmp_path), "train")
    (doubt,) = found.label_doubts
    assert doubt.startswith("are JPEG, a lossy format") and found.label_doubts[doubt] == 1


def test_a_limit_examines_a_seeded_part(tmp_path: Path, save, photo: np.ndarray) -> None:
    for number in range(6):
        save(tmp_path / f"{number}.png", photo)
    found = survey(open_dataset(FolderConfig(), tmp_path), "train", limit=2)
    assert (found.available, found.examined, found.labelled) == (6, 2, False)
    assert found.class_pixels == {} and found.ignored_share == 0.0
    with pytest.raises(InputError, match="no pool 'val'"):
        survey(open_dataset(FolderConfig(), tmp_path), "val")


def test_generated_scenes_have_nothing_to_complain_about() -> None:
    found = survey(open_dataset(ScenesConfig(image_size=(64, 96)), None), "val", limit=12)
    assert found.sizes == {(64, 96): 12}
    assert not (found.broken or found.label_errors or found.absent_classes or found.conversions)
