"""The pictures of an experiment one by one: what is shared, what each setting makes of the images, with and without
ground truth."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command_line import run_here

from orchestrator.planning.plan import Plan, make_plan
from orchestrator.results.cell_maps import CellMaps, dataset_of
from orchestrator.results.cluster_sheets import write_cluster_sheets
from orchestrator.results.figures import write_sheets
from orchestrator.results.gallery import Gallery, Tile, read_gallery, write_gallery
from orchestrator.storage.store import Storage
from workloads.figures import distinct_colours
from workloads.ignored import IGNORE_LABEL

Document = dict[str, Any]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def run(document: Document, storage: Storage) -> tuple[Plan, Gallery]:
    plan = make_plan(document, storage, write_listings=True)
    run_here(plan, storage)
    write_gallery(plan, storage)
    gallery = read_gallery(storage, plan.name)
    assert gallery is not None
    return plan, gallery


def decoded(tile: Tile) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(tile.data))) as picture:
        assert (picture.width, picture.height) == (tile.width, tile.height)
        return np.asarray(picture.convert("RGB"))


def test_settings_share_image_and_truth_and_keep_the_colours_of_labels(tiny: Document, storage: Storage) -> None:
    tiny["dataset"] |= {"num_train": 4, "num_val": 2}
    tiny["grid"] = {"labels.outliers": [0.0, 0.2], "seed": [0, 1]}
    plan, gallery = run(tiny, storage)
    assert [setting.name for setting in gallery.settings] == ["outliers 0.0", "outliers 0.2"]
    assert [[tile.title for tile in tiles] for tiles in gallery.shared] == 2 * [["image", "ground truth"]]
    maps, cell = CellMaps(plan, storage), plan.cells[0]
    dataset = dataset_of(cell)
    assert [name for name, _ in gallery.legend] == list(dataset.classes)
    for place, (name, labels) in enumerate(maps.first(maps.labels(cell), 2).items()):
        assert gallery.images[place] == name
        own, classes = gallery.settings[0].tiles[place]
        assert (own.title, classes.title) == ("labels", "labels as classes")
        assert np.array_equal(decoded(own), distinct_colours(maps.num_clusters(cell))[labels])
        difference = np.abs(decoded(gallery.shared[place][0]) - dataset.read_image("val", name).astype(int))
        assert difference.mean() < 8, "a photograph, but for what JPEG leaves out"


def test_without_truth_labels_lie_over_the_image_at_half_strength(
    tiny: Document, storage: Storage, pictures: Path
) -> None:
    tiny |= {"dataset": {"name": "folder", "root": str(pictures)}, "grid": {}}
    tiny["labels"]["clustering"] = {"k": 3}
    plan, gallery = run(tiny, storage)
    assert [[tile.title for tile in tiles] for tiles in gallery.shared] == 3 * [["image"]]
    (setting,) = gallery.settings
    own, over = setting.tiles[0]
    assert (own.title, over.title, gallery.legend) == ("labels", "labels over the image", [])
    picture = dataset_of(plan.cells[0]).read_image("train", gallery.images[0])
    expected = (picture.astype(int) + decoded(own)) / 2
    assert np.abs(decoded(over) - expected).mean() < 25
    (sheet,) = write_sheets(plan, storage)
    (clusters,) = write_cluster_sheets(plan, storage)
    assert Path(sheet).name == "tiny.png" and Path(clusters).name == "tiny-clusters.png"
    maps = CellMaps(plan, storage)
    seen = {int(label) for _, labels in maps.maps(maps.labels(plan.cells[0])) for label in np.unique(labels)}
    with Image.open(clusters) as drawn:
        assert drawn.height > 96 * len(seen - {IGNORE_LABEL}), "a row for every label"
        assert drawn.width > 96 * 10


def test_what_is_scored_has_no_sheet_of_clusters_and_a_damaged_gallery_is_none(
    tiny: Document, storage: Storage
) -> None:
    tiny["dataset"] |= {"num_train": 4, "num_val": 2}
    plan, _ = run(tiny | {"grid": {}}, storage)
    assert write_cluster_sheets(plan, storage) == []
    storage.replace("figures/tiny.json", b"{}")
    assert read_gallery(storage, "tiny") is None
