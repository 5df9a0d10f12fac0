"""Folders of images and masks by description: however they are written, they are the data set that they came from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter

from workloads.datasets import Dataset, DatasetConfig, open_dataset
from workloads.datasets.camvid import CLASSES
from workloads.datasets.classes import ClassConfig, ClassTable
from workloads.errors import InputError

HEIGHT, WIDTH = 24, 32
NAMES = list(CLASSES)
COLOURS = [list(colour) for colour in CLASSES.values()]
IGNORED = [0, 0, 0]


def described(root: Path, **options: Any) -> Dataset:
    config: Any = TypeAdapter(DatasetConfig).validate_python({"name": "masks", **options})
    return open_dataset(config, root)


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """A CamVid tree of five images."""
    random = np.random.default_rng(0)
    for pool, count in (("train", 3), ("val", 2)):
        (tmp_path / "camvid" / pool).mkdir(parents=True)
        (tmp_path / "camvid" / f"{pool}annot").mkdir()
        for number in range(count):
            labels = random.integers(0, 12, (HEIGHT, WIDTH)).astype(np.uint8)
            pixels = random.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "camvid" / pool / f"0016_{number}.png")
            Image.fromarray(labels).save(tmp_path / "camvid" / f"{pool}annot" / f"0016_{number}.png")
    return tmp_path / "camvid"


def values(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(labels)


def shifted(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.where(labels == 11, 255, labels + 40).astype(np.uint8))


def deep(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.where(labels == 11, 65535, labels.astype(np.uint16) * 1000).astype(np.uint16))


def coloured(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.array([*COLOURS, IGNORED], np.uint8)[labels])


def palette(labels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette([part for colour in (*COLOURS, IGNORED) for part in colour])
    return picture


WRITTEN: dict[str, tuple[Callable[[np.ndarray], Image.Image], dict[str, Any]]] = {
    "values": (values, {"classes": NAMES, "ignore": [11]}),
    "shifted": (shifted, {"classes": {40 + k: name for k, name in enumerate(NAMES)}, "ignore": [255]}),
    "16 bits": (deep, {"classes": {1000 * k: name for k, name in enumerate(NAMES)}, "ignore": [65535]}),
    "RGB": (
        coloured,
        {
            "classes": [{"name": name, "colour": colour} for name, colour in zip(NAMES, COLOURS, strict=True)],
            "ignore": ["#000000"],
        },
    ),
    "palette": (palette, {"classes": dict(enumerate([*NAMES, None]))}),
    "colours of a palette": (
        palette,
        {
            "classes": [
                {"name": name, "colour": colour}
                for name, colour in zip([None, *NAMES], [IGNORED, *COLOURS], strict=True)
            ],
        },
    ),
}


@pytest.mark.parametrize("way", WRITTEN)
def test_however_masks_are_written_they_are_the_same_data_set(way: str, camvid: Path, tmp_path: Path) -> None:
    write, options = WRITTEN[way]
    root = tmp_path / "mine"
    original = open_dataset(TypeAdapter(DatasetConfig).validate_python({"name": "camvid"}), camvid)
    for pool in ("train", "val"):
        (root / "images" / pool).mkdir(parents=True)
        (root / "masks" / pool).mkdir(parents=True)
        for path in (camvid / pool).iterdir():
            (root / "images" / pool / path.name).write_bytes(path.read_bytes())
            labels = np.asarray(Image.open(camvid / f"{pool}annot" / path.name))
            write(labels).save(root / "masks" / pool / f"{path.stem}_mask.png")
    (root / "train.txt").write_text("".join(f"images/train/{path.name}\n" for path in (camvid / "train").iterdir()))
    pools = {
        "train": {"images": "train.txt", "masks": "masks/train/{stem}_mask.png"},
        "val": {"images": "images/val", "masks": "masks/val/{inside}/{stem}_mask.png"},
    }
    mine = described(root, pools=pools, **options)
    assert (mine.classes, mine.num_classes) == (original.classes, 11)
    for pool in ("train", "val"):
        assert mine.entries(pool) == original.entries(pool), "ids and sizes are what samples and orders are drawn by"
        for entry in mine.entries(pool):
            np.testing.assert_array_equal(mine.read_image(pool, entry.id), original.read_image(pool, entry.id))
            np.testing.assert_array_equal(
                mine.read_ground_truth(pool, entry.id), original.read_ground_truth(pool, entry.id)
            )


def write(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


GREY = np.zeros((4, 6), np.uint8)
PIXELS = np.zeros((4, 6, 3), np.uint8)


def test_a_folder_of_masks_mirrors_the_folder_of_images_at_any_depth(tmp_path: Path) -> None:
    write(tmp_path / "images" / "aachen" / "one.jpg", PIXELS)
    write(tmp_path / "images" / "ulm" / "one.PNG", PIXELS)
    write(tmp_path / "masks" / "aachen" / "one.png", GREY)
    write(tmp_path / "masks" / "ulm" / "one.png", GREY + 1)
    mine = described(tmp_path, pools={"train": {"images": "images", "masks": "masks"}}, classes=["a", "b"])
    assert [entry.id for entry in mine.entries("train")] == ["aachen/one", "ulm/one"]
    assert mine.read_ground_truth("train", "ulm/one").tolist() == (GREY + 1).tolist()
    assert mine.labelled("train")


def test_a_glob_finds_images_and_its_template_their_masks(tmp_path: Path) -> None:
    for city in ("aachen", "ulm"):
        write(tmp_path / "data" / city / "left" / "0.png", PIXELS)
        write(tmp_path / "data" / city / "left" / "0_L.png", GREY)
    pools = {"train": {"images": "data/*/left/?.png", "masks": "{parent}/{stem}_L.png"}, "raw": {"images": "data"}}
    mine = described(tmp_path, pools=pools, classes=["a"])
    assert [entry.id for entry in mine.entries("train")] == ["aachen/left/0", "ulm/left/0"]
    assert mine.read_ground_truth("train", "ulm/left/0").shape == (4, 6)
    assert len(mine.entries("raw")) == 2, "a mask of any pool is an image of none"
    assert not mine.labelled("raw")


def test_two_pools_are_the_beginning_and_the_end_of_one_folder(tmp_path: Path) -> None:
    for number in range(10):
        write(tmp_path / "images" / f"{number}.png", PIXELS)
    parts = {"train": [0, 0.8], "val": [0.8, 1]}
    mine = described(tmp_path, pools={pool: {"images": "images", "share": share} for pool, share in parts.items()})
    assert [[entry.id for entry in mine.entries(pool)] for pool in parts] == [list("01234567"), list("89")]
    with pytest.raises(ValueError, match=r"share: \[0\.8, 0\.2\] is not allowed"):
        described(tmp_path, pools={"train": {"images": "images", "share": [0.8, 0.2]}})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.txt", "road\nsky\n"),
        ("c.txt", "7 road\n9 sky\n"),
        ("c.txt", "128 64 128 road\n1 2 3\tsky\n"),
        ("c.txt", "road:128,64,128::\nsky:1,2,3::\n"),
        ("c.json", json.dumps([{"name": "road", "colour": [128, 64, 128]}, {"name": "sky", "values": [3]}])),
        ("c.yaml", "classes:\n  7: road\n  9: {name: sky, values: [9, 10]}\n"),
    ],
)
def test_classes_come_from_files_of_many_forms(name: str, text: str, tmp_path: Path) -> None:
    write(tmp_path / "images" / "0.png", PIXELS)
    (tmp_path / name).write_text(text)
    mine = described(tmp_path, pools={"train": {"images": "images"}}, classes=name)
    assert mine.classes == ("road", "sky")
    if "128" in text:
        assert mine.palette[0].tolist() == [128, 64, 128]


def test_several_values_are_one_class_when_they_have_one_name(tmp_path: Path) -> None:
    write(tmp_path / "images" / "0.png", PIXELS)
    write(tmp_path / "masks" / "0.png", np.array([[0, 1, 2, 3, 4, 9]] * 4, np.uint8))
    classes = {0: "road", 1: "car", 2: {"name": "car", "values": [2, 3]}, 4: "sky"}
    mine = described(tmp_path, pools={"train": {"images": "images", "masks": "masks"}}, classes=classes, ignore=[9])
    assert mine.classes == ("road", "car", "sky")
    assert mine.read_ground_truth("train", "0")[0].tolist() == [0, 1, 1, 1, 2, 255]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"pools": {"train": {"images": "images", "masks": "masks/{stem}.png"}}, "classes": ["a"]},
            r"pools\.train\.masks: .* gives .*/masks/0\.png for images/0\.png, which is not there; "
            r".*masks holds 0_L\.png",
        ),
        (
            {"pools": {"train": {"images": "images", "masks": "{city}.png"}}, "classes": ["a"]},
            r"dataset\.pools\.train\.masks: \{city\} is not known; allowed: \{stem\}, \{name\}, \{parent\}, \{inside\}",
        ),
        (
            {"pools": {"train": {"images": "images", "masks": "masks/{stem}_L.png"}}},
            r"dataset\.classes: is missing; pool train has masks",
        ),
        (
            {"pools": {"train": {"images": "images"}}, "classes": "none.txt"},
            r"dataset\.classes: file 'none\.txt' is not there",
        ),
        (
            {"pools": {"train": {"images": "images"}}, "classes": {0: "a", 1: "b"}, "ignore": [1]},
            r"value 1 stands for 'b' and for 'ignore'",
        ),
        (
            {"pools": {"train": {"images": "images"}}, "classes": ["a", "a"]},
            r"name 'a' stands for 'class 0' and for 'class 1'",
        ),
    ],
)
def test_a_wrong_description_gets_one_message(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    write(tmp_path / "images" / "0.png", PIXELS)
    write(tmp_path / "masks" / "0_L.png", GREY)
    with pytest.raises(InputError, match=said):
        described(tmp_path, **options)


def test_an_unknown_colour_or_value_is_named_with_what_is_allowed(tmp_path: Path) -> None:
    write(tmp_path / "images" / "0.png", PIXELS)
    write(tmp_path / "masks" / "0.png", PIXELS + 7)
    pools = {"train": {"images": "images", "masks": "masks"}}
    mine = described(tmp_path, pools=pools, classes=[{"name": "road", "colour": [1, 2, 3]}], ignore=[[0, 0, 0]])
    with pytest.raises(
        InputError, match=r"0\.png: colours \[7, 7, 7\] stand for no class; allowed: \[1, 2, 3\] \(road\)"
    ):
        mine.read_ground_truth("train", "0")


def test_an_id_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "outside.png", PIXELS)
    write(tmp_path / "root" / "images" / "0.png", PIXELS)
    (tmp_path / "root" / "train.txt").write_text("../outside.png\nimages/0.png\n../outside.png\n")
    with pytest.raises(InputError, match=r"leads out of its folder|same image id"):
        described(tmp_path / "root", pools={"train": {"images": "train.txt"}}).entries("train")


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sets(st.integers(0, 300), min_size=1, max_size=3), min_size=1, max_size=6), st.integers(0, 300))
def test_a_table_is_a_function_of_the_value(groups: list[set[int]], value: int) -> None:
    taken: set[int] = set()
    distinct = []
    for group in groups:
        if group - taken:
            distinct.append(group - taken)
            taken |= group
    classes = [ClassConfig(name=f"c{k}", values=tuple(sorted(group))) for k, group in enumerate(distinct)]
    table = ClassTable.of(classes, ())
    expected = next((k for k, group in enumerate(distinct) if value in group), -1)
    assert int(table.values[value]) == expected


def test_only_images_with_a_mask_are_kept_where_that_is_asked_for(camvid: Path) -> None:
    (camvid / "trainannot" / "0016_1.png").unlink()
    pool = {"images": "train", "masks": "trainannot"}
    pools = {"all": pool, "some": pool | {"only_masked": True}, "last": pool | {"only_masked": True, "share": [0.5, 1]}}
    dataset = described(camvid, pools=pools | {"unmasked": {"images": "train"}}, classes=[*NAMES, None])
    found = {name: [entry.id for entry in dataset.entries(name)] for name in dataset.pools}
    assert found == {
        "all": ["0016_0", "0016_1", "0016_2"],
        "some": ["0016_0", "0016_2"],
        "last": ["0016_2"],
        "unmasked": ["0016_0", "0016_1", "0016_2"],
    }
    assert dataset.read_ground_truth("some", "0016_2").shape == (HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="only_masked"):
        described(camvid, pools={"train": {"images": "train", "only_masked": True}}, classes=NAMES)
    with pytest.raises(InputError, match="which is not there"):
        described(camvid, pools={"train": pool | {"masks": "elsewhere/{stem}.png", "only_masked": True}}, classes=NAMES)


def test_a_pool_may_have_several_places_and_the_images_that_a_file_names(camvid: Path) -> None:
    (camvid / "names.txt").write_text("0016_1\ntrain/0016_0.png trainannot/0016_0.png\n")
    pools: dict[str, Any] = {
        "all": {"images": ["train", "val", "train/*_1.png"]},
        "named": {"images": "train", "masks": "trainannot", "only_listed": "names.txt"},
    }
    dataset = described(camvid, pools=pools, classes=[*NAMES, None])
    assert [entry.id for entry in dataset.entries("all")] == [
        "train/0016_0",
        "train/0016_1",
        "train/0016_2",
        "val/0016_0",
        "val/0016_1",
    ]
    assert dataset.image_path("all", "val/0016_1") == camvid / "val" / "0016_1.png"
    assert [entry.id for entry in dataset.entries("named")] == ["0016_0", "0016_1"]
    (camvid / "names.txt").write_text("0016_9\n")
    with pytest.raises(InputError, match=r"names\.txt names '0016_9', which is no image of the pool"):
        described(camvid, pools=pools, classes=[*NAMES, None]).entries("named")


def test_masks_among_the_images_are_images_of_no_pool(camvid: Path) -> None:
    pools = {
        "unmasked": {"images": "."},
        "folder": {"images": "train", "masks": "trainannot"},
        "template": {"images": "val", "masks": "valannot/{stem}.png"},
    }
    dataset = described(camvid, pools=pools, classes=[*NAMES, None])
    assert len(dataset.entries("unmasked")) == 5
