"""`lookbeyond export model`: the network of a cell, ready to use without a storage, with what must be known of it."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from support.command_line import FINE_TUNED, refused

import lookbeyond

if TYPE_CHECKING:
    from support.command_line import Commands

TRAINED = [
    *FINE_TUNED,
    "grid=[{seed: [0], finetune: [null]}, {seed: [1, 2], labels.source: [pixel]}]",
]


def test_the_network_of_a_cell_is_loaded_without_a_storage_and_says_what_it_is(
    command: "Commands", folder: Path
) -> None:
    assert command("run", "small.yaml", *TRAINED).code == 0
    refused(command("export", "model", "small.yaml", "out", *TRAINED), "2 cells of small are meant", "--cell 1")
    answer = command("export", "model", "small.yaml", "out", "--cell", "2", *TRAINED)
    assert answer.code == 0, answer.err
    miou = command.results()["cells"][2]["metrics"]["miou"]
    assert f"mIoU {miou:.2f}" in answer.out
    assert {path.name for path in (folder / "out").iterdir()} >= {"model.safetensors", "model.json", "README.md"}
    card = (folder / "out" / "README.md").read_text()
    assert f"{miou:.2f} % single scale" in card and "resized to 32 x 48 pixels" in card and "sky, building" in card
    # As `predict` gives them.
    assert command("predict", "small.yaml", "camvid/val", "predicted", "--cell", "2", *TRAINED).code == 0
    model = lookbeyond.load_model(folder / "out")
    for picture in (folder / "camvid" / "val").iterdir():
        assert np.array_equal(model.predict(picture), Image.open(folder / "predicted" / "masks" / picture.name))
    # Again is no error; another format needs a folder of its own.
    assert command("export", "model", "small.yaml", "out", "--cell", "2", *TRAINED).code == 0
    other = command("export", "model", "small.yaml", "out", "--cell", "2", "--format", "onnx", *TRAINED)
    refused(other, "out holds other files")
