"""Label maps in the formats of other tools, read back by what those tools read them with."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.command_line import Commands

from orchestrator.results.label_formats import FORMATS, Exported
from orchestrator.storage.store import Storage
from workloads.errors import InputError
from workloads.figures import distinct_colours
from workloads.ignored import IGNORE_LABEL

NAMES = ("0 road", "label 1", "2 sky", "label 3")


def maps(num_labels: int = 4) -> dict[str, np.ndarray]:
    """Label maps of two images of two sizes; label 3 occurs in one, and each has ignored pixels."""
    random = np.random.default_rng(0)
    drawn = {}
    for name, size, most in (("ulm/0_a", (17, 23), num_labels), ("1", (9, 30), 3)):
        labels = random.integers(0, most, size).astype(np.uint16)
        labels[random.random(size) < 0.2] = IGNORE_LABEL
        drawn[name] = labels
    return drawn


def written(kind: str, folder: Path, num_labels: int = 4) -> Path:
    names = NAMES if num_labels == 4 else tuple(f"label {number}" for number in range(num_labels))
    writer = FORMATS[kind](Storage(str(folder)), Exported("train", "images/train", names, distinct_colours(num_labels)))
    for name, labels in maps(num_labels).items():
        writer.add(name, ".jpg", labels)
    writer.finish()
    return folder


def coco_maps(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    from pycocotools.coco import COCO

    coco = COCO(str(folder / "annotations" / "instances_train.json"))
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(NAMES)
    for image in coco.loadImgs(coco.getImgIds()):
        labels = np.full((image["height"], image["width"]), IGNORE_LABEL, np.uint16)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            mask = coco.annToMask(annotation).astype(bool)
            assert annotation["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            left, top, width, height = annotation["bbox"]
            assert (left, top, left + width, top + height) == (
                columns.min(),
                rows.min(),
                columns.max() + 1,
                rows.max() + 1,
            )
            assert (labels[mask] == IGNORE_LABEL).all(), "no pixel has two labels"
            labels[mask] = annotation["category_id"] - 1
        assert image["file_name"].endswith(".jpg")
        yield image["file_name"].removesuffix(".jpg"), labels


def cvat_maps(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    lines = (folder / "labelmap.txt").read_text().splitlines()[1:]
    declared = [line.split(":") for line in lines]
    assert [name for name, *_ in declared] == ["background", *NAMES, "ignored"]
    values = {
        tuple(int(part) for part in colour.split(",")): IGNORE_LABEL if name == "ignored" else number - 1
        for number, (name, colour, _, _) in enumerate(declared)
    }
    assert len(values) == len(NAMES) + 2
    for name in (folder / "ImageSets" / "Segmentation" / "train.txt").read_text().splitlines():
        pixels = np.asarray(Image.open(folder / "SegmentationClass" / f"{name}.png").convert("RGB"))
        # A colour that is not declared is a KeyError, as it is an error of CVAT's.
        yield name, np.apply_along_axis(lambda pixel: values[tuple(pixel.tolist())], 2, pixels)


def mmseg_maps(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    found: dict[str, object] = {}
    exec((folder / "mmseg_config.py").read_text(), found)
    config = found["train_dataloader"]["dataset"]  # type: ignore[index]
    assert config["metainfo"]["classes"] == NAMES
    assert config["metainfo"]["palette"] == distinct_colours(4).tolist()
    assert (config["img_suffix"], config["data_prefix"]["img_path"]) == (".jpg", "images/train")
    for name in (folder / config["ann_file"]).read_text().splitlines():
        path = folder / config["data_prefix"]["seg_map_path"] / f"{name}{config['seg_map_suffix']}"
        values = np.asarray(Image.open(path)).astype(np.uint16)
        yield name, np.where(values == config["ignore_index"], IGNORE_LABEL, values)


def png_maps(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    for path in folder.rglob("*.png"):
        values = np.asarray(Image.open(path)).astype(np.uint16)
        name = str(path.relative_to(folder).with_suffix(""))
        yield name, np.where(values == 255, IGNORE_LABEL, values)


READERS = {"png": png_maps, "coco": coco_maps, "cvat": cvat_maps, "mmseg": mmseg_maps}


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_written_is_read_back_as_it_was(kind: str, tmp_path: Path) -> None:
    expected = maps()
    found = dict(READERS[kind](written(kind, tmp_path)))
    assert found.keys() == expected.keys()
    for name, labels in expected.items():
        np.testing.assert_array_equal(found[name], labels)


@pytest.mark.parametrize("kind", ["png", "coco", "cvat"])
def test_more_labels_than_8_bits_hold_are_written_too(kind: str, tmp_path: Path) -> None:
    written(kind, tmp_path, num_labels=300)
    with pytest.raises(InputError, match=r"--format: 300 labels do not fit the 8 bits .*; allowed: at most 255"):
        written("mmseg", tmp_path / "other", num_labels=300)
    assert not (tmp_path / "other").exists()


def test_without_the_package_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(InputError, match=r"needs pycocotools, which is not installed; install lookbeyond\[coco\]"):
        written("coco", tmp_path)


def test_the_command_writes_each_format_into_a_folder_of_its_own(command: Commands) -> None:
    assert command("run", "small.yaml").code == 0
    stems = {"0", "1", "2", "3"}
    for kind, names in (
        ("coco", lambda folder: {Path(name).stem for name, _ in _coco_files(folder)}),
        ("cvat", lambda folder: {path.stem for path in (folder / "SegmentationClass").iterdir()}),
        ("mmseg", lambda folder: {path.stem for path in (folder / "annotations" / "train").iterdir()}),
    ):
        answer = command("export", "labels", "small.yaml", kind, "--format", kind)
        assert answer.code == 0, answer.err
        assert names(command.folder / kind) == stems
        legend = json.loads((command.folder / kind / "legend.json").read_text())
        assert legend["ignored_colour"] == ([255, 255, 255] if kind == "cvat" else [0, 0, 0])
        assert (command.folder / kind / "legend.png").exists()
    refused = command("export", "labels", "small.yaml", "cvat", "--format", "coco")
    assert refused.code == 2
    assert "as cvat; give an empty or a new one" in refused.err
    assert all(width == 48 for _, width in _coco_files(command.folder / "coco"))


def _coco_files(folder: Path) -> list[tuple[str, int]]:
    document = json.loads((folder / "annotations" / "instances_train.json").read_text())
    return [(image["file_name"], image["width"]) for image in document["images"]]
