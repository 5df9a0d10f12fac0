"""`lookbeyond init`: a folder as somebody has it, and an experiment file that `check` has nothing against."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml
from PIL import Image

from workloads.formats import counted

if TYPE_CHECKING:
    from support.command_line import Commands

CAMVID_COLOURS = np.random.default_rng(3).integers(1, 255, (11, 3)).astype(np.uint8)


def images_and_masks(mine: Path, number: int, pool: str, picture: Image.Image, mask: Image.Image) -> None:
    save(picture, mine / "images" / pool / f"{number}.jpg")
    save(mask, mine / "masks" / pool / f"{number}.png")


def side_by_side(mine: Path, number: int, pool: str, picture: Image.Image, mask: Image.Image) -> None:
    save(picture, mine / f"{pool}_{number}.png")
    save(mask, mine / f"{pool}_{number}_mask.png")


def colours_of_one_pool(mine: Path, number: int, pool: str, picture: Image.Image, mask: Image.Image) -> None:
    save(picture, mine / "photos" / f"{pool}-{number}.png")
    save(Image.fromarray(CAMVID_COLOURS[np.asarray(mask)]), mine / "labels" / f"{pool}-{number}_L.png")


def palettes_by_city(mine: Path, number: int, pool: str, picture: Image.Image, mask: Image.Image) -> None:
    indexed = Image.fromarray(np.where(np.asarray(mask) == 0, 255, mask).astype(np.uint8), mode="P")
    # A palette of 256 colours: with fewer, values would be cut to fewer bits.
    indexed.putpalette(np.resize(CAMVID_COLOURS, (256, 3)).reshape(-1).tolist())
    save(picture, mine / pool / "left" / f"{number}_left.png")
    save(indexed, mine / pool / "truth" / f"{number}_truth.png")


def few_masks(mine: Path, number: int, pool: str, picture: Image.Image, mask: Image.Image) -> None:
    save(picture, mine / "photos" / f"{pool}-{number}.jpg")
    if number < 2:
        save(mask, mine / "masks" / f"{pool}-{number}.png")


def save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def rearranged(folder: Path, way: Callable[..., None]) -> Path:
    """The folder's CamVid images, in another layout below ``mine``."""
    for pool in ("train", "val"):
        for path in (folder / "camvid" / pool).iterdir():
            mask = Image.open(folder / "camvid" / f"{pool}annot" / f"{path.stem}.png")
            way(folder / "mine", int(path.stem), pool, Image.open(path), mask)
    return folder / "mine"


@pytest.mark.parametrize(
    ("way", "pools", "ignored"),
    [
        (images_and_masks, {"train": 4, "val": 2}, []),
        (side_by_side, {"train": 5, "val": 1}, []),
        (colours_of_one_pool, {"train": 5, "val": 1}, []),
        (palettes_by_city, {"train": 4, "val": 2}, [255]),
        (few_masks, {"train": 6, "labelled": 3, "val": 1}, []),
    ],
)
def test_pairs_of_images_and_masks_are_found_whatever_the_layout(
    way: Callable[..., None], pools: dict[str, int], ignored: list[int], command: "Commands", folder: Path
) -> None:
    rearranged(folder, way)
    answer = command("init", "mine")
    assert answer.code == 0, answer.err
    assert "images and masks: " + ", ".join(f"{pool} {count}" for pool, count in pools.items()) in answer.out
    document = yaml.safe_load((folder / "experiment.yaml").read_text())
    assert document["dataset"]["ignore"] == ignored
    assert document["finetune"].get("pool", "train") == ("labelled" if "labelled" in pools else "train")
    # So few images hold every class, for all that is known of them.
    assert len(document["dataset"]["classes"]) == 11 - len(ignored)
    checked = command("check", "experiment.yaml", "--json")
    assert checked.code == 0, checked.out
    for pool, count in pools.items():
        assert f"masks {pool}: {counted(count, 'image')}, {count} read" in checked.out
    assert ("; 2 more in its folder have no mask" in checked.out) == ("labelled" in pools)
    assert command("init", "mine").code == 2, "a file that is there is not written over"


def test_an_unlabelled_folder_gets_an_experiment_too(command: "Commands", folder: Path) -> None:
    for path in (folder / "camvid" / "train").iterdir():
        save(Image.open(path), folder / "mine" / "deep" / path.name)
    answer = command("init", "mine", "-o", "labels.yaml")
    assert answer.code == 0, answer.err
    assert "images, no masks: train 4" in answer.out
    assert command("check", "labels.yaml").code == 0
    assert command("run", "labels.yaml", "labels.clustering.k=3", "labels.superpixels.n_segments=40").code == 0


@pytest.mark.parametrize(("number", "pools"), [(2, "labelled 1, val 1"), (1, "labelled 1, val 1")])
def test_two_masks_or_one_are_enough_to_begin(number: int, pools: str, command: "Commands", folder: Path) -> None:
    for path in (folder / "camvid" / "train").iterdir():
        save(Image.open(path), folder / "mine" / "photos" / path.name)
    for path in sorted((folder / "camvid" / "trainannot").iterdir())[:number]:
        save(Image.open(path), folder / "mine" / "masks" / path.name)
    answer = command("init", "mine")
    assert f"images and masks: train 4, {pools}" in answer.out
    warned = "one image alone has a mask" in (folder / "experiment.yaml").read_text()
    assert warned == (number == 1)
    assert command("check", "experiment.yaml").code == 0


def as_they_are(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(labels)


def shifted(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.where(labels == 11, 255, labels + 40).astype(np.uint8))


def colours(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.vstack([CAMVID_COLOURS, [[0, 0, 0]]]).astype(np.uint8)[labels])


def palette(labels: np.ndarray) -> Image.Image:
    indexed = Image.fromarray(labels, mode="P")
    indexed.putpalette(np.resize(CAMVID_COLOURS, (256, 3)).reshape(-1).tolist())
    return indexed


def test_labels_and_scores_are_those_of_camvid_however_masks_are_written(command: "Commands", folder: Path) -> None:
    """One edit at most: what is ignored, where that is no value that says so."""
    for path in (folder / "camvid").glob("*annot/*.png"):
        mask = np.array(Image.open(path))
        mask[:4] = 11
        Image.fromarray(mask).save(path)
    cheap = ["labels.sampling.pixels_per_image=20", "labels.superpixels.n_segments=20", "labels.clustering={k: 6}"]
    cheap += ["labels.extractor={arch: filters, output_stride: 8, batch_size: 2}", "--until", "labels"]
    assert command("run", "small.yaml", *cheap).code == 0
    assert command("export", "labels", "small.yaml", "expected", *cheap[:-2], "--pool", "val").code == 0
    expected = {path.name: path.read_bytes() for path in (folder / "expected").glob("[0-9]*.png")}
    assert len(expected) == 2
    score = command.results()["cells"][0]["metrics"]["pmiou"]
    for way in (as_they_are, shifted, colours, palette):
        mine, end = folder / way.__name__, "_mask" if way is palette else ""
        for pool in ("train", "val"):
            for path in (folder / "camvid" / pool).iterdir():
                save(Image.open(path), mine / "images" / pool / path.name)
                mask = np.asarray(Image.open(folder / "camvid" / f"{pool}annot" / path.name))
                save(way(mask), mine / "masks" / pool / f"{path.stem}{end}.png")
        names = (f"images/train/{path.name}\n" for path in sorted((mine / "images" / "train").iterdir()))
        (mine / "train.txt").write_text("".join(names))
        file = f"{way.__name__}.yaml"
        assert command("init", mine.name, "-o", file).code == 0
        text = (folder / file).read_text()
        edited = text.replace("11: class 11 ", "11: null ").replace("{name: class 0, colour: [0, 0, 0]}", BLACK)
        assert sum(one != other for one, other in zip(text.splitlines(), edited.splitlines(), strict=True)) <= 1
        (folder / file).write_text(edited)
        assert command("check", file, *cheap[:-2]).code == 0
        options = [*cheap, "--storage", f"storage-{way.__name__}"]
        assert command("run", file, *options).code == 0
        found = command.results(way.__name__, f"storage-{way.__name__}")["cells"][0]["metrics"]["pmiou"]
        assert found == pytest.approx(score, abs=1e-9)
        exported = [*cheap[:-2], "--storage", f"storage-{way.__name__}", "--pool", "val"]
        assert command("export", "labels", file, f"out-{way.__name__}", *exported).code == 0
        written = {path.name: path.read_bytes() for path in (folder / f"out-{way.__name__}").glob("[0-9]*.png")}
        assert written == expected


FILTERS = "labels.extractor={arch: filters}"
BLACK = "{name: null, colour: [0, 0, 0]}"


def test_masks_that_are_taken_for_pictures_are_noticed(command: "Commands", folder: Path) -> None:
    for path in (folder / "camvid" / "train").iterdir():
        save(Image.open(path), folder / "mine" / f"{path.stem}.jpg")
        save(Image.open(folder / "camvid" / "trainannot" / path.name), folder / "mine" / "truth" / f"x{path.name}")
    answer = command("init", "mine")
    assert answer.code == 0
    assert "truth/*.png look like masks, but no pictures go with them by name" in answer.err
    assert "# truth/*.png look like masks" in (folder / "experiment.yaml").read_text()
    checked = command("check", "experiment.yaml", FILTERS)
    assert "train: 4 images" in checked.out, "what looks like masks is no picture"
    everything = "dataset={name: folder, root: mine}"
    checked = command("check", "experiment.yaml", FILTERS, everything)
    assert "train: 4 of 8 pictures have so few colours that they look like masks, as truth/x" in checked.out
    assert "names occur twice" not in checked.out
    for path in (folder / "mine" / "truth").iterdir():
        path.rename(folder / "mine" / path.name.removeprefix("x"))
    checked = command("check", "experiment.yaml", FILTERS, everything)
    assert "train: 4 names occur twice, as 0.jpg and 0.png: are some of them masks?" in checked.out
    pictures = command("check", "small.yaml", "dataset={name: folder, root: camvid/train}")
    assert "look like masks" not in pictures.out


def test_images_of_sixteen_bits_get_a_scaling(command: "Commands", folder: Path) -> None:
    for path in (folder / "camvid" / "train").iterdir():
        grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
        save(Image.fromarray(grey * 16), folder / "mine" / path.name)
    assert command("init", "mine").code == 0
    dataset = yaml.safe_load((folder / "experiment.yaml").read_text())["dataset"]
    assert dataset == {"name": "folder", "root": "mine", "sixteen_bit": "percentile"}
    assert command("check", "experiment.yaml", FILTERS).code == 0
    refused = command("check", "experiment.yaml", FILTERS, "dataset.sixteen_bit=null")
    assert refused.code == 2
    assert "give the data set's sixteen_bit: full, percentile or [LOW, HIGH]" in refused.out


@pytest.mark.parametrize(("name", "said"), [("nowhere", "does not exist"), ("empty", "holds no image")])
def test_a_folder_without_images_is_refused(name: str, said: str, command: "Commands", folder: Path) -> None:
    (folder / "empty").mkdir()
    answer = command("init", name)
    assert answer.code == 2
    assert said in answer.err
    assert not (folder / "experiment.yaml").exists()
