"""Images, ground truth, weights and disks that are not as they should be: what is wrong is named, what can be done is
done, and nothing is left half done.
"""

import contextlib
import os
import pickle
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from support.command_line import HEIGHT, MOBILENET, WIDTH, Commands, mounted, refused, run_here

from orchestrator.cluster.run import RunReport
from orchestrator.planning.plan import Plan
from orchestrator.storage.store import Storage

pytestmark = pytest.mark.slow

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
    "1": "is not an image (PNG, JPEG, BMP, WEBP, TIFF, PPM, GIF, JPEG2000 are read)",
    "2": "1x1 pixels; the extractor needs 32 on each side",
}


def test_broken_images_are_quarantined_named_and_counted(command: Commands, ray_session: None) -> None:
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
        assert f"quarantined in sample: {image}: {reason}" in allowed.err
    command.assert_nothing_half_written()
    exported = command("export", "labels", "small.yaml", "out")
    assert exported.out.startswith("1 label map,")


def test_check_tells_of_broken_images_before_the_run(command: Commands) -> None:
    spoil_images(command.folder / "camvid/train")
    Image.new("L", (1, 1)).save(command.folder / "camvid/trainannot/2.png")
    looked_at = command("check", "small.yaml")
    assert looked_at.code == 2
    assert "train: 0 is broken: cannot be decoded" in looked_at.out
    assert "train: 1 is broken: is not an image" in looked_at.out
    found = "2 of 4 images of pool train are broken, allowed are 1 (compute.quarantine_limit=0.01)"
    advice = "mend or remove them, or go on without them with compute.quarantine_limit=0.5"
    assert f"{found}; {advice}" in looked_at.out
    assert command("check", "small.yaml", "compute.quarantine_limit=0.5").code == 0, "as it says"
    looked_at = command("check", "small.yaml", "compute.quarantine_limit=0.8")
    assert "1 image smaller than 32x32, which filters needs (1x1); quarantined" in looked_at.out


def test_alpha_greyscale_and_sixteen_bits_are_converted_and_said(command: Commands) -> None:
    train = command.folder / "camvid/train"
    pixels = np.array(Image.open(train / "0.png"))
    Image.fromarray(np.dstack([pixels, pixels[..., :1]])).save(train / "0.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(train / "1.png")
    Image.fromarray(pixels[..., 0]).save(train / "2.png")
    looked_at = command("check", "small.yaml")
    assert looked_at.code == 0
    assert "train: 1 image is alpha, converted to 8-bit RGB" in looked_at.out
    assert "train: 2 images are greyscale, converted to 8-bit RGB" in looked_at.out
    assert "train: 1 image is 16-bit, converted to 8-bit RGB" in looked_at.out
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
    torch.save(whole | {"features.0.0.weight": whole["features.0.0.weight"] * torch.nan}, place / "nan.pth")
    torch.save(whole | {"features.0.1.running_var": -whole["features.0.1.running_var"]}, place / "negative.pth")
    torch.save({"state_dict": Hostile()}, place / "hostile.pth")
    (place / "pickle.pth").write_bytes(pickle.dumps(Hostile()))
    (place / "cut.pth").write_bytes((place / "whole.pth").read_bytes()[:100_000])
    return place


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("other.pth", ["labels.extractor.weights", "other.pth", "no known format", "other.features.0.0.weight"]),
        ("nan.pth", ["labels.extractor.weights", "nan.pth", "NaN or infinity in 1 of", "features.0.0.weight"]),
        ("negative.pth", ["features are not finite", "mobilenet_v2"]),
        ("hostile.pth", ["labels.extractor.weights", "hostile.pth", "could run code", "mkdir"]),
        ("pickle.pth", ["labels.extractor.weights", "pickle.pth", "not a checkpoint", "could run code"]),
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


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    place = folder / "small-disk"
    unmount = mounted(place, "size=72k")
    yield place
    unmount()


@pytest.mark.parametrize("left", [0, 200_000])
def test_a_full_disk_is_named_whatever_found_no_room_and_what_is_done_is_kept(
    command: Commands, small_disk: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """As when the disk is full while a training is about to begin: Ray reads half of what it has just written."""
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)

    def labels_and_no_more(plan: Plan, storage: Storage, *_: Any, **__: Any) -> RunReport:
        run_here(plan, storage)
        del plan.done[plan.cells[0].roles["score"].key]
        free = os.statvfs(small_disk)
        with contextlib.suppress(OSError):
            (small_disk / "filling").write_bytes(bytes(free.f_bavail * free.f_frsize - left))
        raise EOFError("Ran out of input")

    monkeypatch.setattr("orchestrator.cluster.run.run_plan", labels_and_no_more)
    answer = command("run", "small.yaml", "--storage", str(small_disk))
    assert answer.code == 2
    assert any(f"the storage is full: {small_disk} has 0." in message for message in answer.messages), answer.err
    assert any("(EOFError where something was to be written); make room" in message for message in answer.messages)
    assert "failed" in answer.out, "the table is shown"
    if left:
        assert command.results(storage="small-disk")["cells"][0]["status"] == "failed"
    else:
        assert any("the results could not be written: storage" in message for message in answer.messages)
    (small_disk / "filling").unlink()
    monkeypatch.setattr("orchestrator.cluster.run.run_plan", run_here)
    assert command("run", "small.yaml", "--storage", str(small_disk)).code == 0
    assert command.results(storage="small-disk")["cells"][0]["status"] == "cached"


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
