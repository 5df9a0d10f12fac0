"""Edited files of the same size are noticed, and nothing else is done again for them."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.without_ray import Ended, run

from orchestrator.cli import parser as cli
from orchestrator.ledger.inputs import changed_files, leave_contents
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.verification import verify
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.storage.store import Storage
from workloads.datasets import CamvidConfig, open_dataset
from workloads.datasets.files import FileDataset

IMAGES = 6


def write_image(path: Path, seed: int) -> None:
    """A picture in a format without compression: all have one size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((56, 40)).save(path, format="BMP")


def edit(path: Path, seed: int = 99) -> None:
    """Another picture of the same size, a second later."""
    before = path.stat()
    write_image(path, seed)
    assert path.stat().st_size == before.st_size
    later = before.st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(later, later))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(IMAGES):
        write_image(tmp_path / "pictures" / f"{number}.bmp", number)
    return tmp_path / "pictures"


def document(root: Path) -> dict[str, Any]:
    return {
        "name": "edited",
        "dataset": {"name": "folder", "root": str(root)},
        "labels": {
            "extractor": {"arch": "filters", "output_stride": 8, "batch_size": 2},
            "sampling": {"pixels_per_image": 8},
            "clustering": {"k": 3},
            "superpixels": {"n_segments": 12},
        },
        "compute": {"shard_images": 2},
    }


def planned(root: Path, storage: Storage) -> Plan:
    return make_plan(document(root), storage, write_listings=False)


def done(root: Path, storage: Storage) -> Ended:
    ended = run(document(root), storage)
    assert ended.failed == []
    return ended


def shards(ended: Ended, role: str) -> list[str]:
    return [record.sha256 for record in ended.plan.done[ended.plan.cells[0].roles[role].key].shards]


def test_an_edited_picture_of_the_same_size_is_done_again_and_the_others_are_not(
    pictures: Path, storage: Storage, tmp_path: Path
) -> None:
    first = done(pictures, storage)
    assert first.kinds() == {"sample": 3, "superpixels": 3, "cluster": 1, "label": 3}
    assert planned(pictures, storage).pending == []
    edit(pictures / "4.bmp")
    plan = planned(pictures, storage)
    assert plan.changed == {"images of pool train of folder": ["4.bmp"]}
    assert len(plan.pending) == len(plan.steps)
    again = done(pictures, storage)
    # One shard holds the picture; labels are made by other clusters, and so all of them anew.
    assert again.kinds() == {"sample": 1, "superpixels": 1, "cluster": 1, "label": 3}
    elsewhere = done(pictures, Storage(str(tmp_path / "elsewhere")))
    for role in ("sample", "superpixels", "label"):
        assert shards(again, role) == shards(elsewhere, role) != shards(first, role)
    plan = planned(pictures, storage)
    assert (plan.pending, plan.changed) == ([], {})


def test_a_picture_that_is_put_back_is_what_it_was(pictures: Path, storage: Storage) -> None:
    first = done(pictures, storage)
    edit(pictures / "4.bmp")
    done(pictures, storage)
    edit(pictures / "4.bmp", seed=4)
    assert planned(pictures, storage).steps.keys() == first.plan.steps.keys()


def test_other_times_and_equal_bytes_stay_cached_after_one_look(
    pictures: Path, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(pictures, storage)
    checkout = tmp_path / "checkout"
    shutil.copytree(pictures, checkout, copy_function=shutil.copyfile)
    for path in pictures.iterdir():
        os.utime(path)
    for root in (pictures, checkout):
        assert done(root, storage).kinds() == {}

    def look(*_: Any) -> None:
        raise AssertionError("looked at again")

    monkeypatch.setattr(FileDataset, "content", look)
    for root in (pictures, checkout):
        plan = planned(root, storage)
        assert (plan.pending, plan.changed) == ([], {})


def test_other_pictures_of_the_same_names_and_sizes_are_not_taken_for_those_of_another_folder(
    pictures: Path, storage: Storage, tmp_path: Path
) -> None:
    done(pictures, storage)
    other = tmp_path / "other"
    for number in range(IMAGES):
        write_image(other / f"{number}.bmp", 100 + number)
    ended = done(other, storage)
    assert shards(ended, "label") == shards(done(other, Storage(str(tmp_path / "elsewhere"))), "label")
    for root in (pictures, other):
        assert planned(root, storage).pending == []


def test_a_broken_picture_that_is_mended_without_changing_its_size_is_used(pictures: Path, storage: Storage) -> None:
    sound = (pictures / "4.bmp").read_bytes()
    (pictures / "4.bmp").write_bytes(b"\0" * len(sound))
    broken = run(document(pictures) | {"compute": {"shard_images": 2, "quarantine_limit": 0.5}}, storage)
    assert [item.image for item in broken.plan.done[broken.plan.cells[0].roles["sample"].key].quarantined] == ["4.bmp"]
    (pictures / "4.bmp").write_bytes(sound)
    later = (pictures / "4.bmp").stat().st_mtime_ns + 1_000_000_000
    os.utime(pictures / "4.bmp", ns=(later, later))
    mended = done(pictures, storage)
    assert mended.plan.done[mended.plan.cells[0].roles["sample"].key].quarantined == []


def test_verify_reads_the_pictures_again_and_names_what_changed(
    pictures: Path, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    done(pictures, storage)
    assert cli.main(("verify", storage.uri, "--inputs")) == 0
    before = (pictures / "2.bmp").stat()
    write_image(pictures / "2.bmp", 99)
    # Times can be kept, as some tools for copying do: a plan believes them.
    os.utime(pictures / "2.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    (pictures / "5.bmp").unlink()
    assert cli.main(("verify", storage.uri, "--inputs")) == 1
    changed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("changed")]
    assert [line.split(": ")[3] for line in changed] == [
        "2.bmp has another content than was read",
        "5.bmp cannot be read any more",
    ]
    shutil.rmtree(pictures)
    ((place, problem),) = changed_files(storage)
    assert place.startswith("inputs/")
    assert f"{pictures} does not exist" in problem


def test_what_is_known_of_files_is_verified_and_taken_for_absent_when_damaged(pictures: Path, storage: Storage) -> None:
    done(pictures, storage)
    files = [file.path for file in storage.files("inputs", deep=True)]
    assert len(files) == 4, "three shards of images, and what was seen in the folder"
    for path in files:
        storage.replace(path, storage.read(path)[:-20])
    assert set(verify(storage, repair=False).damaged) == set(files)
    assert planned(pictures, storage).pending == []
    assert set(verify(storage, repair=True).repaired) == set(files)
    assert verify(storage, repair=False).damaged == {}


def camvid(root: Path) -> dict[str, Any]:
    """Labelled pictures whose label files can be edited without changing their size."""
    for pool, number in (("train", 0), ("train", 1), ("val", 2)):
        write_image(root / pool / f"{number}.png", number)
        write_labels(root / f"{pool}annot" / f"{number}.png", number)
    return {
        "name": "labelled",
        "dataset": {"name": "camvid", "root": str(root)},
        "labels": {"source": "superpixel", "superpixels": {"n_segments": 12}},
    }


def write_labels(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.random.default_rng(seed).integers(0, 11, (40, 56), dtype=np.uint8)
    Image.fromarray(labels).save(path, compress_level=0)


def test_an_edited_label_file_of_the_same_size_is_scored_again_and_nothing_else(
    storage: Storage, tmp_path: Path
) -> None:
    labelled = camvid(tmp_path / "camvid")
    first = run(labelled, storage)
    assert first.failed == []
    path = tmp_path / "camvid/valannot/2.png"
    before = path.stat()
    write_labels(path, 99)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_mtime_ns + 10**9, before.st_mtime_ns + 10**9))
    again = run(labelled, storage)
    assert again.plan.changed == {"labels of pool val of camvid": ["2"]}
    assert again.kinds() == {"score": 1}
    scores = [ended.plan.done[ended.plan.cells[0].roles["score"].key].results["pmiou"] for ended in (first, again)]
    assert scores[0] != scores[1]
    assert len(list(Ledger(storage).manifests())) == len(first.plan.steps) + 1


def test_an_edited_picture_that_a_fine_tuning_trains_on_changes_its_key(storage: Storage, tmp_path: Path) -> None:
    root = tmp_path / "camvid"
    tuned = camvid(root) | {
        "finetune": {"number": 2, "steps": 1, "segmentor": {"backbone": "mobilenet_v2"}, "init": "random"}
    }
    del tuned["labels"]

    def key() -> str:
        (step,) = make_plan(tuned, storage, write_listings=True).steps
        return step

    first = key()
    dataset = open_dataset(CamvidConfig(), root)
    for number in ("0", "1"):
        dataset.read_image("train", number)
    leave_contents(storage, dataset)
    assert key() == first
    edit(root / "train/1.png")
    assert key() != first
    edit(root / "train/1.png", seed=1)
    assert key() == first
