"""What `lookbeyond init` makes of folders as people have them: every picture in a pool, every mask with its image."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter

from orchestrator.planning.proposal import Proposal, propose
from orchestrator.planning.proposal_text import as_experiment
from workloads.datasets import Dataset, DatasetConfig, open_dataset
from workloads.errors import InputError

SIZE = (24, 32)
Values = Sequence[int]


def picture(path: Path) -> None:
    """As a photograph: thousands of colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(str(path)))
    smooth = np.asarray(Image.fromarray(random.integers(0, 256, (4, 5, 3), np.uint8)).resize(SIZE[::-1]))
    Image.fromarray(np.clip(smooth + random.integers(0, 9, (*SIZE, 3)), 0, 255).astype(np.uint8)).save(path)


def mask(path: Path, values: Values = (0, 1, 2), colours: Sequence[Sequence[int]] | None = None) -> None:
    """Stripes of these values, or of these colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stripes = np.repeat(np.arange(len(values)), -(-SIZE[1] // len(values)))[: SIZE[1]]
    labels = np.tile(np.asarray(values, np.uint16 if max(values) > 255 else np.uint8)[stripes], (SIZE[0], 1))
    pixels = labels if colours is None else np.tile(np.asarray(colours, np.uint8)[stripes], (SIZE[0], 1, 1))
    Image.fromarray(pixels).save(path)


def of(root: Path) -> tuple[Proposal, dict[str, Any], Dataset]:
    """What is proposed, the experiment that comes of it, and the data set that this opens."""
    found = propose(root)
    document = yaml.safe_load(as_experiment(found, "mine", str(root)))
    options = dict(document["dataset"])
    config: Any = TypeAdapter(DatasetConfig).validate_python({k: v for k, v in options.items() if k != "root"})
    return found, document, open_dataset(config, options["root"])


def sizes(root: Path) -> dict[str, int]:
    """The pools' images, as they are said and as the data set finds them, each of the masked ones with its mask."""
    found, _, dataset = of(root)
    said = {name: pool.count for name, pool in found.pools.items()}
    assert said == {pool: len(dataset.entries(pool)) for pool in dataset.pools}
    for pool in dataset.pools:
        for entry in dataset.entries(pool):
            assert len(np.unique(dataset.read_image(pool, entry.id))) > 64, "a mask is no picture"
            if dataset.labelled(pool):
                assert dataset.read_ground_truth(pool, entry.id).shape == SIZE
    return said


def pascal_voc(root: Path) -> None:
    for number in range(8):
        picture(root / "VOC2012" / "JPEGImages" / f"2007_{number:06d}.jpg")
    for number in range(5):
        mask(root / "VOC2012" / "SegmentationClass" / f"2007_{number:06d}.png", (0, 3, 255, 7))
        mask(root / "VOC2012" / "SegmentationObject" / f"2007_{number:06d}.png", (0, 1, 255))
    lists = root / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000000\n2007_000001\n2007_000004\n")
    (lists / "val.txt").write_text("2007_000002\n2007_000003\n")


def supervisely(root: Path) -> None:
    for part in ("ds1", "ds2"):
        for number in range(3):
            name = f"{part}_pic{number}.jpg"
            picture(root / part / "img" / name)
            mask(root / part / "masks_machine" / f"{name}.png", (0, 1), [(0, 0, 0), (1, 1, 1)])
            mask(root / part / "masks_human" / f"{name}.png", (0, 1), [(0, 0, 0), (9, 99, 200)])


def cityscapes_names(root: Path) -> None:
    for split, number in (("train", 4), ("val", 2)):
        for index in range(number):
            stem = f"aachen_{index:06d}_000019"
            picture(root / "img_dir" / split / "aachen" / f"{stem}_leftImg8bit.png")
            mask(root / "ann_dir" / split / "aachen" / f"{stem}_gtFine_labelTrainIds.png")


def folders_by_date(root: Path) -> None:
    for day in ("2024-01-03", "2024-01-04", "2024-02-11"):
        for number in range(3):
            picture(root / day / "rgb" / f"IMG_{number:04d}.JPG")
            mask(root / day / "mask" / f"IMG_{number:04d}.png")


def deep_trees(root: Path) -> None:
    for day in ("05/01", "05/02"):
        for frame in range(2):
            for side in ("left", "right"):
                picture(root / "raw" / "2024" / day / f"frame_{frame:06d}" / f"{side}.jpg")
                mask(root / "labels" / "2024" / day / f"frame_{frame:06d}" / f"{side}.png")


def beside_unlabelled(root: Path) -> None:
    for number in range(4):
        picture(root / "labelled" / "images" / f"a{number}.jpg")
        mask(root / "labelled" / "masks" / f"a{number}.png")
    for number in range(6):
        picture(root / "more" / f"b{number}.jpg")
    for number in range(3):
        picture(root / "test" / f"c{number}.jpg")


def some_masked_beside(root: Path) -> None:
    for number in range(6):
        picture(root / f"im{number}.png")
    for number in range(3):
        mask(root / f"im{number}_mask.png")


def only_val_masked(root: Path) -> None:
    for number in range(5):
        picture(root / "train" / "images" / f"t{number}.jpg")
    for number in range(2):
        picture(root / "val" / "images" / f"v{number}.jpg")
        mask(root / "val" / "masks" / f"v{number}.png")


def words_that_are_no_split(root: Path) -> None:
    for number in range(5):
        picture(root / "valley_photos" / f"{number}.jpg")
        mask(root / "valley_masks" / f"{number}.png")


def sequences(root: Path) -> None:
    for sequence in range(30):
        for frame in range(2):
            picture(root / "JPEGImages" / "480p" / f"bear{sequence}x" / f"{frame:05d}.jpg")
            mask(root / "Annotations" / "480p" / f"bear{sequence}x" / f"{frame:05d}.png")


def a_folder_each(root: Path) -> None:
    for number in range(5):
        picture(root / f"case_{number}" / "image.png")
        mask(root / f"case_{number}" / "mask.png")


def masks_of_all_splits_together(root: Path) -> None:
    for number in range(6):
        picture(root / "images" / ("train" if number < 4 else "val") / f"a{number}.jpg")
        mask(root / "masks" / f"a{number}.png")


def suffixes_of_all_kinds(root: Path) -> None:
    for number, suffix in enumerate((".jpg", ".JPG", ".jpeg", ".png", ".jpg")):
        picture(root / "images" / f"{number}{suffix}")
        mask(root / "masks" / f"{number}.png")


def val_among_cities(root: Path) -> None:
    for number in range(6):
        place = ("aachen", "bonn", "val")[number % 3]
        picture(root / "images" / place / f"a{number}.jpg")
        mask(root / "masks" / place / f"a{number}.png")


def depth_beside(root: Path) -> None:
    for number in range(5):
        picture(root / "rgb" / f"{number}.jpg")
        mask(root / "masks" / f"{number}.png")
        (root / "depth").mkdir(exist_ok=True)
        deep = np.random.default_rng(number).integers(0, 60_000, SIZE).astype(np.uint16)
        Image.fromarray(deep).save(root / "depth" / f"{number}.png")


def one_folder(root: Path) -> None:
    for number in range(5):
        picture(root / f"{number}.jpg")
        mask(root / f"{number}.png")


def an_orphan(root: Path) -> None:
    for number in range(5):
        picture(root / "images" / f"{number}.jpg")
    for name in ("1", "2", "3", "99"):
        mask(root / "masks" / f"{name}.png")


@pytest.mark.parametrize(
    ("layout", "pools"),
    [
        (pascal_voc, {"train": 8, "labelled": 3, "val": 2}),
        (supervisely, {"train": 5, "val": 1}),
        (cityscapes_names, {"train": 4, "val": 2}),
        (folders_by_date, {"train": 7, "val": 2}),
        (deep_trees, {"train": 6, "val": 2}),
        (beside_unlabelled, {"train": 10, "labelled": 3, "val": 1, "test": 3}),
        (some_masked_beside, {"train": 6, "labelled": 2, "val": 1}),
        (only_val_masked, {"train": 5, "val": 2}),
        (words_that_are_no_split, {"train": 4, "val": 1}),
        (an_orphan, {"train": 5, "labelled": 2, "val": 1}),
        (sequences, {"train": 48, "val": 12}),
        (a_folder_each, {"train": 4, "val": 1}),
        (masks_of_all_splits_together, {"train": 4, "val": 2}),
        (suffixes_of_all_kinds, {"train": 4, "val": 1}),
        (val_among_cities, {"train": 4, "val": 2}),
        (depth_beside, {"train": 4, "val": 1}),
        (one_folder, {"train": 4, "val": 1}),
    ],
)
def test_every_picture_is_in_a_pool_and_every_mask_with_its_image(
    layout: Callable[[Path], None], pools: dict[str, int], tmp_path: Path
) -> None:
    layout(tmp_path)
    assert sizes(tmp_path) == pools


def test_what_is_fine_tuned_on_follows_from_where_the_masks_are(tmp_path: Path) -> None:
    tuned = {}
    for layout in (beside_unlabelled, words_that_are_no_split, only_val_masked):
        layout(tmp_path / layout.__name__)
        found = of(tmp_path / layout.__name__)[1].get("finetune")
        tuned[layout] = found and {key: found[key] for key in ("recipe", "pool") if key in found}
    assert tuned == {
        beside_unlabelled: {"recipe": "small", "pool": "labelled"},
        words_that_are_no_split: {"recipe": "small"},
        only_val_masked: None,
    }


@pytest.mark.parametrize(
    ("values", "classes", "ignored"),
    [
        ((0, 255), [0, 255], []),
        ((0, 1, 255), [0, 1], [255]),
        ((0, 1000, 65535), [0, 1000], [65535]),
        ((1, 2), [1, 2], []),
    ],
)
def test_255_is_ignored_unless_it_is_one_of_two_values(
    values: Values, classes: list[int], ignored: list[int], tmp_path: Path
) -> None:
    for number in range(3):
        picture(tmp_path / "images" / f"{number}.jpg")
        mask(tmp_path / "masks" / f"{number}.png", values)
    dataset = of(tmp_path)[1]["dataset"]
    assert (list(dataset["classes"]), dataset["ignore"]) == (classes, ignored)


def test_names_of_classes_are_read_where_they_lie_beside_the_masks(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "cvat" / "images" / f"{number}.jpg")
        mask(tmp_path / "cvat" / "SegmentationClass" / f"{number}.png", (0, 1), [(0, 0, 0), (250, 50, 83)])
        picture(tmp_path / "roboflow" / "train" / f"{number}.jpg")
        mask(tmp_path / "roboflow" / "train" / f"{number}_mask.png")
    (tmp_path / "cvat" / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nnone:0,0,0::\ncar:250,50,83::\n")
    (tmp_path / "roboflow" / "train" / "_classes.csv").write_text(_ROBOFLOW)
    assert of(tmp_path / "cvat")[2].classes == ("none", "car")
    assert of(tmp_path / "roboflow")[2].classes == ("none", "car", "road", "sky")


_ROBOFLOW = "Pixel Value, Class\n0, none\n1, car\n2, road\n3, sky\n"


def several_files_an_image(root: Path) -> None:
    for number in range(4):
        picture(root / "images" / f"im{number}.png")
        for cell in range(3):
            mask(root / "masks" / f"im{number}" / f"cell{cell}.png", (0, 255))


def a_file_a_class(root: Path) -> None:
    for number in range(4):
        picture(root / "images" / f"im{number}.png")
        for name in ("car", "road", "sky"):
            mask(root / "masks" / f"im{number}_{name}.png", (0, 255))


def lossy_masks(root: Path) -> None:
    for number in range(4):
        picture(root / "images" / f"{number}.png")
        (root / "masks").mkdir(exist_ok=True)
        down, right = np.indices((96, 128))
        circles = np.where(np.hypot(down - 40, right - 50 - number) < 30, 120, 0) + 135 * (np.hypot(down, right) < 20)
        Image.fromarray(circles.astype(np.uint8)).save(root / "masks" / f"{number}.jpg", quality=85)


def values_and_colours(root: Path) -> None:
    for number in range(6):
        picture(root / "images" / f"{number}.jpg")
        mask(root / "masks" / f"{number}.png", (0, 1), [(0, 0, 0), (9, 9, 200)] if number % 2 else None)


def names_that_do_not_meet(root: Path) -> None:
    for number in range(4):
        picture(root / "images" / f"image_{number:03d}.png")
        mask(root / "labels" / f"label_{number:03d}.png")


def lists_of_others(root: Path) -> None:
    lists_of_some(root)
    (root / "train.txt").write_text("".join(f"{number}\n" for number in (0, 1, 3, 4, 5) * 3) + "nobody\n")


def lists_of_some(root: Path) -> None:
    for number in range(6):
        picture(root / "images" / f"{number}.jpg")
        mask(root / "masks" / f"{number}.png")
    (root / "train.txt").write_text("images/0.jpg masks/0.png\nimages/1.jpg masks/1.png\n")
    (root / "val.txt").write_text("2\n")


def json_alone(root: Path) -> None:
    picture(root / "a.jpg")
    (root / "a.json").write_text(json.dumps({"shapes": []}))


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (several_files_an_image, "3 masks for im0, as masks/im0/cell0.png: one mask an image is read"),
        (a_file_a_class, "other masks beside masks/*_car.png, and one is read: masks/*_sky.png, masks/*_road.png"),
        (lossy_masks, "they were blurred by JPEG or by resizing, and have to be saved again"),
        (values_and_colours, "3 are in colours and not in values as the others"),
        (names_that_do_not_meet, "labels/*.png look like masks, but no pictures go with them by name"),
        (an_orphan, "1 mask, as masks/99.png, goes with no picture by name"),
        (json_alone, "annotations in JSON, as a.json, are not read"),
        (depth_beside, "5 pictures, as depth/0.png, would go with the masks of rgb/"),
        (lists_of_others, "names 'nobody', which is no image of the pool; the lists are left aside"),
        (lists_of_some, "3 pictures, as images/"),
    ],
)
def test_what_is_not_as_it_should_be_is_said_once(layout: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    layout(tmp_path)
    found, document, dataset = of(tmp_path)
    assert len([note for note in found.notes if said in note]) == 1, found.notes
    assert f"# {next(note for note in found.notes if said in note)}." in as_experiment(found, "mine", str(tmp_path))
    assert document["name"] == "mine"
    masks = {path.relative_to(tmp_path) for folder in ("masks", "labels") for path in (tmp_path / folder).rglob("*.*")}
    for pool in dataset.pools:
        images = {dataset.image_path(pool, entry.id).relative_to(tmp_path) for entry in dataset.entries(pool)}  # type: ignore[attr-defined]
        assert not images & masks, "a mask is no picture"


@pytest.mark.parametrize("name", ["a [raw] b", "{masks}", "two\nlines"])
def test_a_folder_that_no_description_can_name_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    picture(tmp_path / name / "a.jpg")
    with pytest.raises(InputError, match="rename the folder"):
        propose(tmp_path)


@pytest.mark.parametrize("name", ["a: b", "# c", "'d'", '"e"', "- f", " g ", "1", "no", "x & y"])
def test_what_folders_are_called_comes_back_from_the_experiment(name: str, tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / name / f"{number}.jpg")
        mask(tmp_path / f"{name}_masks" / f"{number}.png")
    assert sizes(tmp_path) == {"train": 2, "val": 1}


names = st.text("abc_-01 ", min_size=1, max_size=6).map(str.strip).filter(bool)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stems=st.sets(names, min_size=3, max_size=6),
    folders=st.tuples(names, names).filter(lambda pair: pair[0] != pair[1]),
    end=st.sampled_from(["", "_mask", "_L", ".jpg"]),
    # A day that is called as a folder of images is would leave it open which of both is meant.
    days=st.lists(names.map("day {}".format), min_size=1, max_size=3, unique=True),
    day_first=st.booleans(),
)
def test_whatever_folders_and_names_are_called_images_find_their_own_masks(
    stems: set[str],
    folders: tuple[str, str],
    end: str,
    days: list[str],
    day_first: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("folder")
    for place, day in enumerate(days):
        parts = [(day, folder) if day_first else (folder, day) for folder in folders]
        for number, stem in enumerate(sorted(stems)):
            picture(root.joinpath(*parts[0]) / f"{stem}.jpg")
            mask(root.joinpath(*parts[1]) / f"{stem}{end}.png", (0, 1 + place, 100 + number))
    _, _, dataset = of(root)
    pools = [pool for pool in dataset.pools if dataset.labelled(pool)]
    found = {}
    for pool in pools:
        for entry in dataset.entries(pool):
            path = dataset.image_path(pool, entry.id).relative_to(root)  # type: ignore[attr-defined]
            label = dataset.label_path(pool, entry.id).relative_to(root)  # type: ignore[attr-defined]
            found[path.as_posix()] = label.as_posix()
    expected = {}
    for day in days:
        parts = [(day, folder) if day_first else (folder, day) for folder in folders]
        for stem in stems:
            expected["/".join((*parts[0], f"{stem}.jpg"))] = "/".join((*parts[1], f"{stem}{end}.png"))
    assert found == expected
