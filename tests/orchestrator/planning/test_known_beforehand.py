"""What can be known before anything is computed is said then, by `check` and by `run` alike."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from support.command_line import HEIGHT, MOBILENET, WIDTH, Commands, refused

GONE = (*MOBILENET, "labels.extractor.weights=gone.pth")
TRAINING = ("finetune.recipe=small", "finetune.steps=2", "finetune.batch_size=2")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ResNet-18 and a MobileNetV2 as torchvision would save them."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("resnet18", "mobilenet_v2"):
        torch.save(torchvision.models.get_model(name, weights=None).state_dict(), folder / f"{name}.pth")
    return folder


def problems(command: Commands, *words: str) -> str:
    looked_at = command("check", "small.yaml", *words)
    assert looked_at.code == 2, looked_at.out
    return looked_at.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["finetune.batch_size=1"],
            "finetune.batch_size 1 cannot be split among 1 workers (compute.train_workers);",
        ),
        (["finetune.batch_size=3", "compute.train_workers=2"], "finetune.batch_size 3 cannot be split among 2 workers"),
        (
            ["pretrain.recipe=small", "pretrain.batch_size=3", "compute.train_workers=2"],
            "pretrain.batch_size 3 cannot be split among 2 workers (compute.train_workers); allowed is a multiple of 2",
        ),
        (["compute.max_cost=3"], "compute.max_cost adds up what the machines of a cluster cost; give compute.cluster"),
    ],
)
def test_what_a_training_cannot_be_started_with(command: Commands, words: list[str], said: str) -> None:
    assert said in problems(command, *TRAINING, *words)
    refused(command("run", "small.yaml", *TRAINING, *words), said)
    assert not (command.folder / "storage/shards").exists()


def test_first_weights_that_do_not_fit_fail_their_cell_before_anything_is_computed(
    command: Commands, weights: Path
) -> None:
    network = ("finetune.segmentor.backbone=mobilenet_v2", "finetune.init=file")
    wrong = f"finetune.weights={weights}/resnet18.pth"
    said = "resnet18.pth does not fit mobilenet_v2: 0 of"
    assert said in problems(command, *TRAINING, *network, wrong)
    refused(command("run", "small.yaml", *TRAINING, *network, wrong), "finetune.weights: ", said)
    assert not (command.folder / "storage/shards").exists()
    grid = f"grid={{finetune.weights: [{weights}/mobilenet_v2.pth, {weights}/resnet18.pth]}}"
    assert said in problems(command, *TRAINING, *network, grid)
    answer = command("run", "small.yaml", *TRAINING, *network, grid, "--until", "labels")
    assert answer.code == 0, "no training is asked for"


def test_one_broken_file_hides_nothing_that_is_wrong_elsewhere(command: Commands) -> None:
    for place in (command.folder / "camvid/valannot").iterdir():
        Image.fromarray(np.full((HEIGHT, WIDTH), 99, dtype=np.uint8)).save(place)
    out = problems(command, *GONE)
    assert "99" in out and "no file gone.pth" in out
    (command.folder / "in-the-way").write_text("a file where a folder would be")
    out = problems(command, *GONE, "--storage", "in-the-way/storage")
    assert "99" in out and "no file gone.pth" in out and "cannot be written" in out


def test_more_clusters_than_an_image_has_places(command: Commands) -> None:
    """4 images of 4 x 6 places at stride 8; the sample asks for 20 of each."""
    words = ("labels.sampling.pixels_per_image=1000", "labels.clustering.k=97")
    assert (
        "K = 97 is larger than the sample can be: 4 images with 24 feature places each; allowed: 1 to 96"
        in problems(command, *words)
    )
    looked_at = command("check", "small.yaml", words[0], "labels.clustering.k=96")
    assert looked_at.code == 0, looked_at.out


def test_the_pool_of_a_fine_tuning_is_looked_at_too(command: Commands) -> None:
    assert "camvid test: 2 images" not in command("check", "small.yaml").out
    for kind in ("test", "testannot"):
        (command.folder / f"camvid/{kind}").mkdir()
        for name in ("0.png", "1.png"):
            (command.folder / f"camvid/{kind}" / name).write_bytes(
                (command.folder / f"camvid/{kind.replace('test', 'val')}" / name).read_bytes()
            )
    Image.fromarray(np.full((HEIGHT, WIDTH), 99, dtype=np.uint8)).save(command.folder / "camvid/testannot/1.png")
    out = problems(command, *TRAINING, "finetune.pool=test")
    assert "camvid test: 2 images" in out and "test: " in out and "99" in out


SMALL = ("finetune.augmentation={image_size: [32, 48], crop: [25, 33]}", "finetune.evaluation={image_size: [32, 48]}")


def test_a_training_without_a_labelled_pixel_is_an_error(command: Commands) -> None:
    for place in (command.folder / "camvid/trainannot").iterdir():
        Image.fromarray(np.full((HEIGHT, WIDTH), 11, dtype=np.uint8)).save(place)
    assert "train: no pixel of any class in what was read (4 of 4 label files)\n1 problem" in problems(
        command, *TRAINING
    )
    said = "finetune.pool: pool 'train' has no pixel with a class in the 4 images of this training"
    refused(command("run", "small.yaml", *TRAINING, *SMALL, "finetune.evaluation_multi_scale="), said)
    assert command.results()["cells"][0]["status"] == "failed"


def test_a_pipe_is_one_broken_file_and_is_not_waited_for(command: Commands) -> None:
    place = command.folder / "camvid/valannot/0.png"
    place.unlink()
    os.mkfifo(place)
    said = "0: label file camvid/valannot/0.png cannot be read: it is a pipe, a socket or a device"
    assert said in problems(command)
    refused(command("run", "small.yaml"), "0: label file ", "0.png cannot be read: it is a pipe, a socket or a device")


def test_a_home_folder_that_a_shell_left_alone_is_filled_in(command: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(command.folder))
    for words in (
        ["run", "~/small.yaml", "dataset.root=~/camvid", "--storage", "~/st"],
        ["export", "labels", "small.yaml", "~/out", "--storage", "~/st"],
        ["report", "~/st", "--output", "~/pages"],
        ["init", "~/camvid/train", "--output", "~/new.yaml"],
    ):
        answer = command(*words)
        assert answer.code == 0, answer.err
    refused(command("plan", "small.yaml", "--rates", "~/none.yaml"), f"{command.folder}/none.yaml")
    refused(command("run", "small.yaml", "compute.max_cost=3", "compute.cluster_config=~/none.yaml"), "none.yaml")
    refused(command("run", "~nobody-here/small.yaml"), "~nobody-here")
    there = {path.name for path in command.folder.iterdir()}
    assert {"st", "out", "pages", "new.yaml"} <= there and "~" not in there
