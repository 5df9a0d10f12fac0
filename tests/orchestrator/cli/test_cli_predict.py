"""`lookbeyond predict`: what an experiment learned, on a folder of images that it never saw."""

import json
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from support.command_line import FINE_TUNED

from orchestrator.ledger.manifests import Ledger
from orchestrator.steps.tensors import read_tensors
from orchestrator.storage.store import Storage
from workloads.configs.networks import SegmentorConfig
from workloads.configs.training import EvaluationConfig
from workloads.networks.segmentors import build_segmentor
from workloads.scoring.evaluation import predict

if TYPE_CHECKING:
    from support.command_line import Commands

# Three cells: one that only makes labels, and two networks.
ROWS = [
    "grid=[{seed: [0], finetune: [null]}, {seed: [1, 2], labels.source: [auxiliary]}]",
]


@pytest.fixture
def pictures(folder: Path) -> Path:
    """Pictures of two suffixes, one below another folder, one broken."""
    (folder / "new" / "more").mkdir(parents=True)
    random = np.random.default_rng(5)
    for name in ("a.png", "more/b.png", "more/c.bmp"):
        Image.fromarray(random.integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(folder / "new" / name)
    (folder / "new" / "broken.png").write_bytes(b"no picture")
    return folder / "new"


def test_classes_are_those_of_the_network_and_fill_the_legend(
    command: "Commands", folder: Path, pictures: Path
) -> None:
    assert command("run", "small.yaml", *FINE_TUNED).code == 0
    answer = command("predict", "small.yaml", "new", "out", *FINE_TUNED, "compute.quarantine_limit=0.5", "--confidence")
    assert answer.code == 0, answer.err
    assert "broken.png" in answer.err
    assert {str(path.relative_to(folder / "out")) for path in (folder / "out").rglob("*.png")} == {
        f"{kind}/{name}.png" for kind in ("masks", "overlays", "confidence") for name in ("a", "more/b", "more/c")
    }
    storage = Storage(str(folder / "storage"))
    (trained,) = (manifest for manifest in Ledger(storage).manifests() if manifest.kind == "finetune")
    config = SegmentorConfig.model_validate(
        {name: value for name, value in trained.meaning["config"]["segmentor"].items() if name != "type"}
    )
    network = build_segmentor(config, 11)
    network.load_state_dict(read_tensors(storage, trained.file("network").path))
    for name in ("a.png", "more/c.bmp"):
        picture = np.asarray(Image.open(pictures / name))
        torch.set_num_threads(1)
        expected = predict(network, [picture], EvaluationConfig(image_size=(32, 48)))[0]
        mask = Image.open(folder / "out" / "masks" / Path(name).with_suffix(".png"))
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), expected)
    legend = json.loads((folder / "out" / "legend.json").read_text())
    assert [entry["value"] for entry in legend["classes"]] == list(range(11))
    assert legend["miou"] == trained.results["miou"]
    assert list(legend["quarantined"]) == ["broken.png"]
    again = command("predict", "small.yaml", "new", "out", *FINE_TUNED, "compute.quarantine_limit=0.5")
    assert again.code == 0
    assert "0 steps to run" in again.err
    others = [*FINE_TUNED, "finetune.seed=3"]
    other = command("predict", "small.yaml", "new", "elsewhere", *others)
    assert other.code == 2
    assert "the finetune step of this cell is not done" in other.err
    assert f"were made with {shlex.join(FINE_TUNED)}: give the same here" in other.err
    assert "nowhere" in command("predict", "small.yaml", "nowhere", "elsewhere", *others).err


def test_labels_of_new_images_have_the_numbers_of_the_experiment(
    command: "Commands", folder: Path, bucket: str
) -> None:
    assert command("run", "small.yaml").code == 0
    assert command("export", "labels", "small.yaml", "known").code == 0
    written = sorted(path.name for path in (folder / "known").glob("*.png"))
    shutil.copytree(folder / "camvid" / "train", folder / "new")
    (folder / "new.csv").write_text("\n".join(["image", *(f"new/{path.name}" for path in (folder / "new").iterdir())]))
    remote = Storage(f"s3://{bucket}/new")
    for path in (folder / "new").iterdir():
        remote.replace(path.name, path.read_bytes())
    for number, images in enumerate(("new", "new/?.png", "new.csv", remote.uri)):
        out = folder / f"out{number}"
        assert command("predict", "small.yaml", images, out.name, "--what", "labels").code == 0
        assert sorted(path.name for path in out.glob("*.png")) == written
        for name in written:
            np.testing.assert_array_equal(
                np.asarray(Image.open(out / name)), np.asarray(Image.open(folder / "known" / name))
            )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], ["2 cells of small are meant", "--cell 1", "--cell 2"]),
        (["--cell", "0"], ["this cell of small has a step finetune"]),
        (["--cell", "7"], ["--cell: 7 is not allowed", "allowed: 0 to 2"]),
        (["--row", "ours"], ["--row: 'ours' is not allowed", "rows: none"]),
    ],
)
def test_the_cell_is_never_a_guess(command: "Commands", pictures: Path, options: list[str], said: list[str]) -> None:
    answer = command("predict", "small.yaml", "new", "out", *FINE_TUNED, *ROWS, *options)
    assert answer.code == 2
    for part in said:
        assert part in answer.err
