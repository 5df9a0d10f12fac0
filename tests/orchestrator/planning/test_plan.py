"""The plan: cells share every step they can, what is done is not planned again, and one bad row sinks no other."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command_line import write_camvid
from support.trainings import DOCUMENT
from support.without_ray import FakeWorker, execute

from orchestrator.ledger.manifests import Ledger
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.steps.step import Step
from orchestrator.storage.store import Storage
from workloads.errors import InputError

SCENES: dict[str, Any] = {
    "name": "plan",
    "dataset": {"name": "scenes", "image_size": [64, 96], "num_train": 600, "num_val": 20},
    "labels": {"images": 60},
}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


def plan(storage: Storage, grid: Any = None, **labels: Any) -> Plan:
    document = SCENES | {"labels": SCENES["labels"] | labels, "grid": grid}
    return make_plan(document, storage, write_listings=False)


def distinct(made: Plan) -> dict[str, int]:
    return {kind: counts["distinct"] for kind, counts in made.counts().items()}


def only(made: Plan, kind: str) -> Step:
    (step,) = [step for step in made.steps.values() if step.kind == kind]
    return step


def test_one_cell_needs_every_step_once(storage: Storage) -> None:
    made = plan(storage)
    assert distinct(made) == {"sample": 1, "superpixels": 2, "cluster": 1, "label": 2, "score": 1}
    assert list(made.cells[0].roles) == [
        "sample",
        "superpixels",
        "superpixels_val",
        "cluster",
        "label",
        "label_val",
        "score",
    ]
    assert not list(storage.files("", deep=True)), "a plan writes nothing"


def test_a_grid_of_clusters_outliers_and_superpixels_shares_all_it_can(storage: Storage) -> None:
    """3 x 3 x 3 cells: one sample; superpixels of two sizes, train and val; three fits; 27 labellings of each pool."""
    grid = {
        "labels.clustering.k_per_class": [1.0, 1.5, 2.0],
        "labels.outliers": [0.0, 0.05, 0.1],
        "labels.superpixels": [None, {"n_segments": 250}, {"n_segments": 500}],
    }
    made = plan(storage, grid)
    assert len(made.cells) == 27
    assert distinct(made) == {"sample": 1, "superpixels": 4, "cluster": 3, "label": 54, "score": 27}
    named = {kind: counts["named"] for kind, counts in made.counts().items()}
    assert named == {"sample": 27, "superpixels": 36, "cluster": 27, "label": 54, "score": 27}
    assert len(made.users(only(made, "sample").key)) == 27


def test_steps_come_after_what_they_are_computed_from(storage: Storage) -> None:
    made = plan(storage, {"labels.clustering.k": [3, 4], "labels.superpixels": [None, {"n_segments": 50}]})
    order = list(made.steps)
    for step in made.steps.values():
        for key in step.input_keys.values():
            assert order.index(key) < order.index(step.key)


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        # The same number of clusters, however it is written: 1.5 x 10 classes.
        ({"clustering": {"k": 15}}, {"clustering": {"k_per_class": 1.5}}, "all"),
        ({"clustering": {"k": 15}}, {"clustering": {"k": 16}}, "sample superpixels"),
        ({"clustering": {"k": 15}}, {"clustering": {"k": 15, "init": "random"}}, "sample superpixels"),
        ({"outliers": 0}, {"outliers": 0.1}, "sample superpixels cluster"),
        ({"superpixels": None}, {"superpixels": {"n_segments": 50}}, "sample cluster"),
        ({"sampling": {"pixels_per_image": 50}}, {"sampling": {"pixels_per_image": 60}}, "superpixels"),
        ({"extractor": {"output_stride": 8}}, {"extractor": {"output_stride": 16}}, "superpixels"),
        ({"images": 60}, {"images": 50}, "superpixels of val"),
    ],
    ids=str,
)
def test_what_a_setting_decides(storage: Storage, first: dict[str, Any], second: dict[str, Any], shared: str) -> None:
    roles = [plan(storage, **labels).cells[0].roles for labels in (first, second)]
    common = {role for role in roles[0].keys() & roles[1].keys() if roles[0][role].key == roles[1][role].key}
    expected = {
        "all": set(roles[0]),
        "sample superpixels": {"sample", "superpixels", "superpixels_val"},
        "sample superpixels cluster": {"sample", "superpixels", "superpixels_val", "cluster"},
        "sample cluster": {"sample", "cluster"},
        "superpixels": {"superpixels", "superpixels_val"},
        "superpixels of val": {"superpixels_val"},
    }[shared]
    assert common == expected


def test_the_seed_decides_sample_and_clusters_but_no_superpixels(storage: Storage) -> None:
    roles = [cell.roles for cell in plan(storage, {"seed": [0, 1]}).cells]
    assert {role for role in roles[0] if roles[0][role].key == roles[1][role].key} == {"superpixels", "superpixels_val"}


@pytest.mark.parametrize(
    "compute",
    [
        {"workers": 7},
        {"shard_images": 32},
        {"device": "cpu"},
        {"error_retries": 9, "lost_worker_retries": 9, "lease_seconds": 5, "quarantine_limit": 0.5},
    ],
    ids=str,
)
def test_how_it_is_run_decides_nothing(storage: Storage, compute: dict[str, Any]) -> None:
    other = make_plan(SCENES | {"compute": compute, "name": "other"}, storage, write_listings=False)
    assert set(plan(storage).steps) == set(other.steps)


def test_the_conditions_of_table_1_need_no_features(storage: Storage) -> None:
    made = plan(storage, {"labels.source": ["pixel", "superpixel"]})
    assert list(made.cells[0].roles) == ["score"]
    assert list(made.cells[1].roles) == ["superpixels", "superpixels_val", "score"]
    assert len({cell.roles["score"].key for cell in made.cells}) == 2


def test_superpixels_as_labels_need_superpixels(storage: Storage) -> None:
    with pytest.raises(
        InputError, match=r"labels\.superpixels: null is not allowed where labels\.source is superpixel"
    ):
        plan(storage, source="superpixel", superpixels=None)


def test_500_images_reuse_the_full_shards_of_200(storage: Storage) -> None:
    """200 images are 12 shards of 16 and one of 8; 500 are 31 and one of 4: twelve shards are shared."""
    made = plan(storage, {"labels.images": [200, 500]})
    few, many = (cell.roles["sample"] for cell in made.cells)
    assert few.stream == many.stream
    assert few.key != many.key
    assert (len(few.images.shards), len(many.images.shards)) == (13, 32)
    assert few.images.shards[:12] == many.images.shards[:12]
    superpixels = [cell.roles["superpixels"] for cell in made.cells]
    assert superpixels[0].stream == superpixels[1].stream

    ended = execute(made, storage, FakeWorker(storage))
    # 13 + 32 - 12 shards of each of sample and superpixels, and the two shards of the val superpixels.
    assert ended.kinds()["sample"] == 33
    assert ended.kinds()["superpixels"] == 33 + 2
    assert not ended.failed


def test_what_is_done_is_cached_and_a_longer_prefix_is_partly_done(storage: Storage) -> None:
    execute(plan(storage, images=200), storage, FakeWorker(storage))
    again = plan(storage, images=200)
    assert again.pending == []
    assert all(counts["to_run"] == 0 for counts in again.counts().values())
    longer = plan(storage, images=500)
    assert only(longer, "sample").finished_images(Ledger(storage)) == 12 * 16
    assert only(longer, "cluster").finished_images(Ledger(storage)) == 0
    assert longer.counts()["superpixels"] == {"named": 2, "distinct": 2, "cached": 1, "to_run": 1}


def test_more_images_than_there_are_is_the_whole_pool(storage: Storage) -> None:
    made = plan(storage, {"labels.images": [600, 9999, None]})
    assert len({cell.roles["sample"].key for cell in made.cells}) == 1
    assert only(made, "sample").images.available == 600


def test_missing_weights_leave_the_other_rows_alone(storage: Storage, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pth")
    grid = {"labels.extractor": [{"arch": "filters"}, {"arch": "resnet18", "weights": missing}]}
    made = plan(storage, grid)
    assert made.cells[0].error is None
    assert made.cells[1].error is not None
    assert "missing.pth" in str(made.cells[1].error)
    assert made.cells[1].roles == {}
    assert distinct(made) == {"sample": 1, "superpixels": 2, "cluster": 1, "label": 2, "score": 1}


def test_when_no_row_can_be_planned_all_reasons_are_given_once(storage: Storage, tmp_path: Path) -> None:
    rows = [{"arch": "resnet18", "weights": str(tmp_path / name)} for name in ("one.pth", "two.pth")]
    with pytest.raises(InputError) as caught:
        plan(storage, {"labels.extractor": rows, "labels.outliers": [0.0, 0.1]})
    assert [name in str(caught.value) for name in ("one.pth", "two.pth")] == [True, True]
    assert len(str(caught.value).splitlines()) == 2


def test_equal_weights_at_two_places_are_the_same_work(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"weights")
    (tmp_path / "deep").mkdir()
    shutil.copy(tmp_path / "a.pth", tmp_path / "deep" / "b.pth")
    (tmp_path / "c.pth").write_bytes(b"others!")
    rows = [{"arch": "resnet18", "weights": str(tmp_path / name)} for name in ("a.pth", "deep/b.pth", "c.pth")]
    keys = [cell.roles["sample"].key for cell in plan(storage, {"labels.extractor": rows}).cells]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"name": "folder"}, "dataset.root: is missing"),
        ({"name": "folder", "root": "nowhere"}, "nowhere does not exist"),
        ({"name": "scenes", "root": "."}, "scenes are generated"),
        ({"name": "scenes", "pool": "trian"}, r"'trian'.*train, val"),
    ],
    ids=str,
)
def test_a_data_set_that_cannot_be_opened_is_an_input_error(
    storage: Storage, dataset: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_plan({"name": "x", "dataset": dataset}, storage, write_listings=False)


def pictures(root: Path, count: int) -> None:
    root.mkdir()
    for number in range(count):
        Image.fromarray(np.full((40, 40, 3), number, dtype=np.uint8)).save(root / f"{number}.png")


def test_a_folder_without_classes_needs_a_number_of_clusters(storage: Storage, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 3)
    dataset = {"name": "folder", "root": str(tmp_path / "pictures")}
    with pytest.raises(InputError, match=r"labels\.clustering\.k_per_class: .*labels\.clustering\.k "):
        make_plan({"name": "x", "dataset": dataset}, storage, write_listings=False)
    by_count = {"name": "x", "dataset": dataset, "labels": {"clustering": {"k": 6}}}
    by_class = {"name": "x", "dataset": dataset | {"num_classes": 4}}
    for document in (by_count, by_class):
        made = make_plan(document, storage, write_listings=False)
        assert list(made.cells[0].roles) == ["sample", "superpixels", "cluster", "label"]
    clusters = [
        only(make_plan(document, storage, write_listings=False), "cluster").meaning["clusters"]
        for document in (by_count, by_class)
    ]
    assert clusters == [6, 6]


def test_a_cell_that_would_compute_nothing_is_refused(storage: Storage, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 3)
    document = {
        "name": "x",
        "dataset": {"name": "folder", "root": str(tmp_path / "pictures")},
        "labels": {"source": "pixel"},
    }
    with pytest.raises(InputError, match=r"labels\.source: 'pixel' .*no ground truth"):
        make_plan(document, storage, write_listings=False)


def test_a_labelled_image_of_another_size_is_another_training(tmp_path: Path) -> None:
    write_camvid(tmp_path / "camvid")
    document = {**DOCUMENT, "dataset": {"name": "camvid", "root": str(tmp_path / "camvid")}}

    def key() -> str:
        (step,) = make_plan(document, Storage(str(tmp_path / "storage")), write_listings=False).steps.values()
        return step.key

    before = key()
    image = tmp_path / "camvid" / "train" / "0.png"
    image.write_bytes(image.read_bytes() + b"more")
    assert key() != before
