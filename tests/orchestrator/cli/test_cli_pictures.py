"""A folder of one's own pictures: what a run and an export write among them, and pictures that cannot be drawn."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from support.command_line import EXPERIMENT, Commands

FOLDER = {**EXPERIMENT, "dataset": {"name": "folder", "root": "."}}


@pytest.fixture
def pictures(command: Commands) -> Path:
    """The folder of the commands, with six pictures and an experiment in it, and nothing else."""
    for path in (command.folder / "camvid").rglob("*.png"):
        path.unlink()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(command.folder / f"{number}.png")
    (command.folder / "own.yaml").write_text(yaml.safe_dump(FOLDER))
    return command.folder


@pytest.mark.parametrize("storage", ["storage", "."])
def test_what_a_run_draws_and_exports_is_no_image_of_the_next_run(
    command: Commands, pictures: Path, storage: str
) -> None:
    for _ in range(2):
        answer = command("run", "own.yaml", "--storage", storage)
        assert answer.code == 0, answer.err
        assert command.results("own", storage)["cells"][0]["images"]["label"]["available"] == 6
        assert (pictures / storage / "figures/own.png").exists()
        assert command("export", "labels", "own.yaml", "out", "--storage", storage).out.startswith("6 label maps")


def test_an_export_that_was_killed_is_repeated_by_the_same_command(command: Commands, pictures: Path) -> None:
    assert command("run", "own.yaml").code == 0
    assert command("export", "labels", "own.yaml", "out").code == 0
    whole = {path.name: path.read_bytes() for path in (pictures / "out").iterdir()}
    for name in ("legend.json", "legend.png", "3.png"):
        (pictures / "out" / name).unlink()
    assert command("export", "labels", "own.yaml", "out").code == 0
    assert {path.name: path.read_bytes() for path in (pictures / "out").iterdir()} == whole


def test_a_folder_with_a_number_of_classes_ends_well(command: Commands, pictures: Path) -> None:
    answer = command("run", "own.yaml", "labels.clustering={method: kmeans}", "dataset.num_classes=3")
    assert (answer.code, answer.messages) == (0, [])
    assert "figures/own.png" in answer.out


def test_a_picture_that_cannot_be_drawn_does_not_undo_the_run(command: Commands, pictures: Path) -> None:
    assert command("run", "own.yaml").code == 0
    shutil.rmtree(pictures / "storage/figures")
    (pictures / "storage/figures").write_text("in the way")
    answer = command("run", "own.yaml")
    assert answer.code == 0
    assert len(answer.messages) == 1 and "a picture could not be made: " in answer.messages[0]
    assert command.results("own")["cells"][0]["status"] == "cached"


def test_files_that_are_passed_over_are_said_by_check_and_by_run(command: Commands, pictures: Path) -> None:
    (pictures / "a.heic").write_bytes(b"x")
    line = "1 file in . passed over (1 .heic)"
    assert line in command("check", "own.yaml").out
    assert line in command("run", "own.yaml").err
