"""A careless user: every wrong input gets one readable message and an exit code, and leaves nothing half done."""

import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from command_line import HEIGHT, WIDTH, Answer, Commands, mounted, run_here, write_camvid, write_experiment
from PIL import Image

MOBILENET = ("labels.extractor.arch=mobilenet_v2", "labels.extractor.output_stride=16")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_camvid(tmp_path / "camvid")
    write_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOOKBEYOND_STORAGE", raising=False)
    return tmp_path


@pytest.fixture
def command(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setattr("orchestrator.cluster.rounds.run_plan", run_here)
    return Commands(folder, capsys)


def refused(answer: Answer, *parts: str) -> None:
    """Exit code 2 and one message with all these parts."""
    assert answer.code == 2
    assert len(answer.messages) == 1, answer.err
    for part in parts:
        assert part in answer.messages[0]


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
        (["dataset.root=null"], ["dataset.root", "missing"]),
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
        (["export", "labels", "small.yaml", "out"], ["labels of this cell are not done", "`lookbeyond run`"]),
        (["export", "labels", "small.yaml", "out", "--cell", "3"], ["--cell 3", "allowed: 0 to 0"]),
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
    assert "labels.images: 500 requested, 4 available in pool train; using 4" in answer.err
    images = command.results()["cells"][0]["images"]["sample"]
    assert (images["requested"], images["available"], images["used"]) == (500, 4, 4)


def test_a_validation_pool_without_labels_is_said(command: Commands) -> None:
    shutil.rmtree(command.folder / "camvid/valannot")
    answer = command("run", "small.yaml")
    assert answer.code == 0
    assert "camvid has no labelled pool 'val': labels are made, PmIoU is not" in answer.err
    assert command.results()["cells"][0]["metrics"]["pmiou"] is None


LABEL = Path("camvid/valannot/0.png")


def _remove() -> None:
    LABEL.unlink()


def _shrink() -> None:
    Image.fromarray(np.zeros((HEIGHT // 2, WIDTH), dtype=np.uint8)).save(LABEL)


def _overflow() -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 200, dtype=np.uint8)).save(LABEL)


def _colour() -> None:
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)).save(LABEL)


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (_remove, ["valannot/0.png is missing"]),
        (_shrink, ["valannot/0.png", f"labels are {HEIGHT // 2} x {WIDTH}", f"the image is {HEIGHT} x {WIDTH}"]),
        (_overflow, ["valannot/0.png", "label value 200 not allowed", "allowed: 0-10 (classes), 11 (ignored)"]),
        (_colour, ["valannot/0.png", "holds RGB samples", "one value a pixel"]),
    ],
    ids=["missing", "other-size", "out-of-range", "colours"],
)
def test_a_wrong_label_file_fails_the_score_and_only_that(
    command: Commands, spoil: Callable[[], None], parts: list[str]
) -> None:
    good = LABEL.read_bytes()
    spoil()
    looked_at = command("check", "small.yaml")
    assert looked_at.code == 2
    assert all(part in looked_at.out for part in parts)

    refused(command("run", "small.yaml"), *parts)
    (cell,) = command.results()["cells"]
    assert (cell["status"], cell["metrics"]) == ("failed", {})
    assert all(part in cell["error"] for part in parts)
    command.assert_nothing_half_written()

    LABEL.write_bytes(good)
    mended = command("run", "small.yaml")
    assert mended.code == 0
    assert "7 distinct steps, 1 to run" in mended.err
    assert command.results()["cells"][0]["metrics"]["pmiou"] > 0


def spoil_images(train: Path) -> None:
    """One truncated JPEG, one text file, one image of a single pixel; one image stays whole."""
    Image.open(train / "0.png").save(train / "0.jpg")
    (train / "0.png").unlink()
    (train / "0.jpg").write_bytes((train / "0.jpg").read_bytes()[:700])
    (train / "1.png").write_text("<html>404 not found</html>")
    Image.new("RGB", (1, 1)).save(train / "2.png")


BROKEN = {
    "0": "cannot be decoded",
    "1": "is not an image (PNG, JPEG, BMP, WEBP, TIFF, PPM are read)",
    "2": "1x1 pixels; the extractor needs 32 on each side",
}


def test_broken_images_are_set_aside_named_and_counted(command: Commands, ray_session: None) -> None:
    spoil_images(command.folder / "camvid/train")
    answer = command("run", "small.yaml")
    refused(answer, "3 of 4 images of pool train are broken", "allowed are 1 (compute.quarantine_limit=0.01)")
    for image, reason in BROKEN.items():
        assert f"{image}: {reason}" in answer.messages[0]
    assert command.results()["cells"][0]["status"] == "failed"
    command.assert_nothing_half_written()

    allowed = command.on_ray("run", "small.yaml", "compute.quarantine_limit=0.8")
    assert allowed.code == 0
    (cell,) = command.results()["cells"]
    assert cell["status"] == "done"
    assert [line.split(": ", 1)[0] for line in cell["quarantined"]] == ["0", "1", "2"]
    for image, reason in BROKEN.items():
        assert any(line.startswith(f"{image}: {reason}") for line in cell["quarantined"])
        assert f"set aside in sample: {image}: {reason}" in allowed.err
    command.assert_nothing_half_written()
    exported = command("export", "labels", "small.yaml", "out")
    assert exported.out.startswith("1 label maps")


def test_check_tells_of_broken_images_before_the_run(command: Commands) -> None:
    spoil_images(command.folder / "camvid/train")
    Image.new("L", (1, 1)).save(command.folder / "camvid/trainannot/2.png")
    looked_at = command("check", "small.yaml")
    assert looked_at.code == 2
    assert "train: 0 is broken: cannot be decoded" in looked_at.out
    assert "train: 1 is broken: is not an image" in looked_at.out
    assert "train: 2 of 4 images are broken, allowed are 1 (compute.quarantine_limit=0.01)" in looked_at.out
    looked_at = command("check", "small.yaml", "compute.quarantine_limit=0.8")
    assert "1 images are smaller than 32x32, which filters needs (1x1); they are set aside" in looked_at.out


def test_alpha_greyscale_and_sixteen_bits_are_converted_and_said(command: Commands) -> None:
    train = command.folder / "camvid/train"
    pixels = np.array(Image.open(train / "0.png"))
    Image.fromarray(np.dstack([pixels, pixels[..., :1]])).save(train / "0.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(train / "1.png")
    Image.fromarray(pixels[..., 0]).save(train / "2.png")
    looked_at = command("check", "small.yaml")
    assert looked_at.code == 0
    assert "train: 1 images are alpha; they are converted to 8-bit RGB" in looked_at.out
    assert "train: 2 images are greyscale; they are converted to 8-bit RGB" in looked_at.out
    assert "train: 1 images are 16-bit; they are converted to 8-bit RGB" in looked_at.out
    assert command("run", "small.yaml").code == 0
    assert command.results()["cells"][0]["quarantined"] == []
    assert command("export", "labels", "small.yaml", "out").out.startswith("4 label maps")


class Hostile:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights files of one network, most of them wrong."""
    place = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    whole = torchvision.models.mobilenet_v2(weights=None).state_dict()
    torch.save(whole, place / "whole.pth")
    torch.save({f"other.{name}": tensor for name, tensor in whole.items()}, place / "other.pth")
    torch.save({f"features.new.{name}": tensor for name, tensor in whole.items()}, place / "renamed.pth")
    torch.save(whole | {"features.0.0.weight": whole["features.0.0.weight"] * torch.nan}, place / "nan.pth")
    torch.save(whole | {"features.0.1.running_var": -whole["features.0.1.running_var"]}, place / "negative.pth")
    torch.save({"state_dict": Hostile()}, place / "hostile.pth")
    (place / "pickle.pth").write_bytes(pickle.dumps(Hostile()))
    (place / "empty.pth").write_bytes(b"")
    (place / "cut.pth").write_bytes((place / "whole.pth").read_bytes()[:100_000])
    return place


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("other.pth", ["labels.extractor.weights", "other.pth", "no known format", "other.features.0.0.weight"]),
        ("renamed.pth", ["labels.extractor.weights", "renamed.pth", "0 of 255 tensors matched", "255 missing"]),
        ("nan.pth", ["labels.extractor.weights", "nan.pth", "NaN or infinity in 1 of", "features.0.0.weight"]),
        ("negative.pth", ["features are not finite", "mobilenet_v2"]),
        ("hostile.pth", ["labels.extractor.weights", "hostile.pth", "could run code", "mkdir"]),
        ("pickle.pth", ["labels.extractor.weights", "pickle.pth", "not a checkpoint", "could run code"]),
        ("empty.pth", ["labels.extractor.weights", "empty.pth is empty (0 bytes)"]),
        ("cut.pth", ["labels.extractor.weights", "cut.pth is not a checkpoint", "damaged"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_weights_that_cannot_be_used(command: Commands, weights: Path, name: str, parts: list[str]) -> None:
    chosen = (*MOBILENET, f"labels.extractor.weights={weights / name}")
    looked_at = command("check", "small.yaml", *chosen)
    assert looked_at.code == 2
    assert all(part in looked_at.out for part in parts)

    refused(command("run", "small.yaml", *chosen), *parts)
    assert not (command.folder / "owned").exists()
    command.assert_nothing_half_written()
    if (command.folder / "storage/results").exists():
        (cell,) = command.results()["cells"]
        assert (cell["status"], cell["metrics"]) == ("failed", {})


def test_one_failed_cell_does_not_sink_the_others(command: Commands, weights: Path) -> None:
    files = ", ".join(str(weights / name) for name in ("whole.pth", "other.pth", "gone.pth"))
    arguments = ("run", "small.yaml", *MOBILENET, f"grid.labels.extractor.weights=[{files}]")
    answer = command(*arguments)
    assert answer.code == 1
    assert len(answer.messages) == 2
    cells = command.results()["cells"]
    assert [cell["status"] for cell in cells] == ["done", "failed", "failed"]
    assert cells[0]["error"] is None
    assert "no known format" in cells[1]["error"]
    assert "no file" in cells[2]["error"]
    command.assert_nothing_half_written()
    assert [cell["status"] for cell in _again(command, arguments, 1)] == ["cached", "failed", "failed"]


def _again(command: Commands, arguments: tuple[str, ...], code: int) -> Any:
    assert command(*arguments).code == code
    return command.results()["cells"]


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


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    place = folder / "small-disk"
    unmount = mounted(place, "size=72k")
    yield place
    unmount()


def test_a_full_storage_stops_the_run_and_the_same_command_goes_on(
    command: Commands, small_disk: Path, ray_session: None
) -> None:
    arguments = ("run", "small.yaml", "--storage", str(small_disk))
    answer = command.on_ray(*arguments)
    assert answer.code == 2
    assert answer.messages
    assert all(f"storage {small_disk} is full: no room for" in message for message in answer.messages)
    assert list(small_disk.glob("shards/*/*.arrow"))
    command.assert_nothing_half_written("small-disk")

    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert command(*arguments).code == 0
    command.assert_nothing_half_written("small-disk")
    assert command.results(storage="small-disk")["cells"][0]["status"] == "done"
