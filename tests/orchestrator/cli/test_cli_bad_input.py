"""A careless user: every wrong key, file and place gets one readable message and an exit code, and nothing is run."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.command_line import HEIGHT, MOBILENET, WIDTH, Commands, mounted, refused


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["labels.image=3"], ["unknown key labels.image", "did you mean labels.images?"]),
        (["labels.images=many"], ["labels.images", "'many'", "integer"]),
        (["labels.images=0"], ["labels.images", "0", "greater than or equal to 1"]),
        (["labels.outliers=1.5"], ["labels.outliers", "1.5", "less than 1"]),
        (["grid.labels.outliers=0.1"], ["grid.labels.outliers", "0.1", "list"]),
        (["labels.images"], ["'labels.images'", "key=value"]),
        (["dataset.root=nowhere"], ["dataset.root", "nowhere", "does not exist"]),
        (["dataset.root="], ["dataset.root", "missing"]),
        (["dataset.root=small.yaml"], ["dataset.root", "small.yaml", "is not a folder"]),
        (["dataset.root=storage-of-nothing"], ["dataset.root", "storage-of-nothing"]),
        (["dataset.pool=trian"], ["dataset.pool", "'trian'", "train, val"]),
        (["dataset.val=vall"], ["dataset.val", "'vall'", "train, val"]),
        (["dataset.name=camvit"], ["dataset.name", "'camvit'", "'camvid'"]),
        (["labels.clustering.k=81"], ["labels.clustering.k", "K = 81", "80 pixels", "allowed: K of 1 to 80"]),
        (["labels.clustering={k_per_class: 8}"], ["labels.clustering.k_per_class", "K = 88", "1 to 80"]),
        (["labels.extractor.weights=w.pth"], ["labels.extractor.weights", "'w.pth'", "filters has no weights"]),
        (list(MOBILENET), ["labels.extractor.weights", "mobilenet_v2 needs 'random'", "a path or a URL"]),
        ([*MOBILENET, "labels.extractor.weights=gone.pth"], ["labels.extractor.weights", "no file gone.pth"]),
        ([*MOBILENET, "labels.extractor.weights=camvid"], ["labels.extractor.weights", "camvid is a directory"]),
        ([*MOBILENET, "labels.extractor.weights=IMAGENET1K_V9"], ["'IMAGENET1K_V9'", "IMAGENET1K_V1"]),
        (["compute.shard_images=3"], ["compute.shard_images", "3", "multiple of labels.extractor.batch_size (2)"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) and "=" in value[-1] else "",
)
def test_a_wrong_key_or_value_is_named_and_nothing_is_run(
    command: Commands, overrides: list[str], parts: list[str]
) -> None:
    refused(command("run", "small.yaml", *overrides), *parts)
    assert not (command.folder / "storage" / "steps").exists()
    assert not (command.folder / "storage" / "results").exists()
    refused(command("plan", "small.yaml", *overrides), *parts)
    looked_at = command("check", "small.yaml", *overrides)
    assert looked_at.code == 2
    for part in parts:
        assert part in looked_at.out + looked_at.err


def test_all_wrong_keys_are_named_at_once(command: Commands) -> None:
    answer = command("run", "small.yaml", "sed=1", "labels.images=0")
    assert answer.code == 2
    assert [message.split(" ", 2)[:2] for message in answer.messages] == [["labels.images:", "0"], ["unknown", "key"]]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["wrong.yaml does not exist", "there are small.yaml"]),
        (b"", ["wrong.yaml must hold a mapping"]),
        (b"- a\n- b\n", ["wrong.yaml must hold a mapping", "list"]),
        (b"\xff\xd8\xff\xe0", ["wrong.yaml cannot be read"]),
    ],
    ids=["missing", "empty", "list", "picture"],
)
def test_an_experiment_file_that_is_none(command: Commands, content: bytes | None, parts: list[str]) -> None:
    if content is not None:
        (command.folder / "wrong.yaml").write_bytes(content)
    for name in ("run", "plan", "check", "explain"):
        refused(command(name, "wrong.yaml"), *parts)


def test_yaml_that_runs_code_is_refused(command: Commands) -> None:
    (command.folder / "wrong.yaml").write_text("dataset: !!python/object/apply:os.mkdir [owned]\n")
    answer = command("run", "wrong.yaml")
    assert answer.code == 2
    assert "wrong.yaml is not YAML" in answer.messages[0]
    assert not (command.folder / "owned").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["verify", "nowhere"], ["nowhere does not exist"]),
        (["verify", "small.yaml"], ["small.yaml is a file"]),
        (["run", "small.yaml", "--storage", "small.yaml"], ["small.yaml is a file", "a folder"]),
        (["plan", "small.yaml", "--storage", "small.yaml"], ["small.yaml is a file", "a folder"]),
        (["run", "small.yaml", "--storage", ""], ["storage ''", "a path"]),
        (["run", "small.yaml", "--storage", "ftp://x/y"], ["storage 'ftp://x/y'", "allowed: a path, s3:// or gs://"]),
        (["export", "labels", "small.yaml", "out"], ["the label step of this cell is not done", "`lookbeyond run`"]),
        (["export", "labels", "small.yaml", "out", "--cell", "3"], ["--cell: 3 is not allowed", "allowed: 0 to 0"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and len(value) > 1 else "",
)
def test_a_wrong_place(command: Commands, arguments: list[str], parts: list[str]) -> None:
    refused(command(*arguments), *parts)
    assert not (command.folder / "nowhere").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["check", "small.yaml", "--images", "0"], ["--images", "'0'", "1 or more"]),
        (["check", "small.yaml", "--images", "few"], ["--images", "'few'", "1 or more"]),
        (["run", "small.yaml", "--until", "lunch"], ["--until", "'lunch'", "labels"]),
        (["run"], ["experiment"]),
        (["run", "small.yaml", "--storrage", "x"], ["--storrage"]),
        (["run", "small.yaml", "--json", "labels.images"], ["labels.images"]),
        (["verify", "storage", "labels.images=3"], ["labels.images=3"]),
    ],
    ids=" ".join,
)
def test_a_wrong_option(command: Commands, arguments: list[str], parts: list[str]) -> None:
    answer = command(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    for part in parts:
        assert part in answer.err.splitlines()[-1]


def test_a_pool_without_images_is_empty(command: Commands) -> None:
    for path in (command.folder / "camvid/train").iterdir():
        path.unlink()
    (command.folder / "camvid/train/readme.txt").write_text("images come later")
    parts = ("dataset.pool", "'train' is empty", "camvid/train")
    refused(command("run", "small.yaml"), *parts)
    looked_at = command("check", "small.yaml")
    assert looked_at.code == 2
    assert all(part in looked_at.out for part in parts)
    assert not (command.folder / "storage" / "results").exists()


def test_more_images_than_there_are_is_said_and_recorded(command: Commands) -> None:
    answer = command("run", "small.yaml", "labels.images=500")
    assert answer.code == 0
    assert "images: 500 requested, 4 available in pool train; using 4" in answer.err
    images = command.results()["cells"][0]["images"]["sample"]
    assert (images["requested"], images["available"], images["used"]) == (500, 4, 4)


def test_a_validation_pool_without_labels_is_said(command: Commands) -> None:
    shutil.rmtree(command.folder / "camvid/valannot")
    answer = command("run", "small.yaml")
    assert answer.code == 0
    assert "camvid has no labelled pool 'val': labels are made, PmIoU is not" in answer.err
    assert command.results()["cells"][0]["metrics"]["pmiou"] is None


def test_a_validation_pool_without_a_single_labelled_pixel_is_an_error(command: Commands) -> None:
    for file in (command.folder / "camvid/valannot").iterdir():
        Image.fromarray(np.full((HEIGHT, WIDTH), 11, dtype=np.uint8)).save(file)
    looked_at = command("check", "small.yaml")
    assert looked_at.code == 2
    assert "val: no pixel of any class in what was read (2 of 2 label files)" in looked_at.out
    refused(command("run", "small.yaml"), "dataset.val: pool 'val' has no pixel with a class, and PmIoU needs one")
    assert command.results()["cells"][0]["status"] == "failed"


def test_more_clusters_than_distinct_samples(command: Commands) -> None:
    for path in (command.folder / "camvid/train").iterdir():
        Image.new("RGB", (WIDTH, HEIGHT), "grey").save(path)
    refused(command("run", "small.yaml", "labels.clustering.k=70"), "labels.clustering: k 70", "distinct samples")
    assert command.results()["cells"][0]["status"] == "failed"
    command.assert_nothing_half_written()


@pytest.fixture
def read_only(folder: Path) -> Iterator[Path]:
    place = folder / "read-only"
    unmount = mounted(place, "ro,size=1m")
    yield place
    unmount()


def test_a_read_only_storage_is_refused_before_any_work(command: Commands, read_only: Path) -> None:
    parts = (str(read_only), "cannot be written", "Read-only", "--storage")
    refused(command("run", "small.yaml", "--storage", str(read_only)), *parts)
    looked_at = command("check", "small.yaml", "--storage", str(read_only))
    assert looked_at.code == 2
    assert all(part in looked_at.out for part in parts)
    assert command("plan", "small.yaml", "--storage", str(read_only)).code == 0
    assert list(read_only.iterdir()) == []


def test_an_output_folder_that_cannot_be_written(command: Commands, read_only: Path) -> None:
    assert command("run", "small.yaml").code == 0
    refused(command("export", "labels", "small.yaml", str(read_only / "out")), str(read_only / "out"), "Read-only")
    refused(command("export", "labels", "small.yaml", "small.yaml"), "small.yaml is a file")


def test_credentials_in_a_url_of_weights_are_neither_said_nor_written(command: Commands) -> None:
    place = "https://me:SECRET@127.0.0.1:1/w.pth?token=SECRET"
    grid = f"grid={{labels.extractor.weights: [random, '{place}']}}"
    asked = ("small.yaml", *MOBILENET, grid)
    answers = [command(verb, *asked) for verb in ("check", "plan", "explain")]
    answers += [
        command("run", *asked),
        command("report", "storage"),
        command("run", "small.yaml", *MOBILENET, f"labels.extractor.weights={place}"),
    ]
    assert [answer.code for answer in answers] == [2, 0, 0, 1, 0, 2]
    assert "***@127.0.0.1:1/w.pth?token=***" in answers[3].err
    assert "token=***" in str(command.results())
    for answer in answers:
        assert "SECRET" not in answer.out + answer.err
    for path in (command.folder / "storage").rglob("*"):
        assert "SECRET" not in path.name and (path.is_dir() or b"SECRET" not in path.read_bytes()), path
