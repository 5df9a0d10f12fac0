"""Every command as a user types it: what it prints and what it writes."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from support.command_line import EXPERIMENT, Commands, refused, run_here, write_camvid, write_experiment

from orchestrator.cli import parser as cli
from orchestrator.ledger.layout import lease_path
from orchestrator.ledger.leases import Holder
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.shards import read_maps
from orchestrator.storage.store import Storage

GRID = "grid.labels.outliers=[0.0, 0.1]"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the experiment has been run once."""
    folder = tmp_path_factory.mktemp("finished")
    write_camvid(folder / "camvid")
    write_experiment(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("orchestrator.cluster.run.run_plan", run_here)
        assert cli.main(["run", "small.yaml", GRID]) == 0
    return folder


@pytest.fixture
def command(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Commands:
    """Commands in a copy of that folder."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("LOOKBEYOND_STORAGE", raising=False)
    monkeypatch.setattr("orchestrator.cluster.run.run_plan", run_here)
    return Commands(folder, capsys)


def bytes_of_shards(folder: Path, step: str) -> list[bytes]:
    """The shards of a step, in the order of its manifest."""
    (manifest,) = folder.glob(f"storage/steps/*/{step}.json")
    return [(folder / "storage" / shard["path"]).read_bytes() for shard in json.loads(manifest.read_text())["shards"]]


def test_the_plan_of_a_new_storage_counts_what_is_to_run(command: Commands) -> None:
    answer = command("plan", "small.yaml", GRID, "--storage", "new", "--json")
    document = json.loads(answer.out)
    assert (answer.code, answer.err) == (0, "")
    assert document["experiment"] == "small"
    assert [cell["cell"] for cell in document["cells"]] == [{"labels.outliers": 0.0}, {"labels.outliers": 0.1}]
    # Two cells share everything but the labels and the score; superpixels and labels are made of two pools.
    assert document["steps"] == {
        "sample": {"named": 2, "distinct": 1, "cached": 0, "to_run": 1},
        "superpixels": {"named": 4, "distinct": 2, "cached": 0, "to_run": 2},
        "cluster": {"named": 2, "distinct": 1, "cached": 0, "to_run": 1},
        "label": {"named": 4, "distinct": 4, "cached": 0, "to_run": 4},
        "score": {"named": 2, "distinct": 2, "cached": 0, "to_run": 2},
    }
    assert document["estimate"]["bytes"] > 0
    assert not (command.folder / "new").exists()


def test_the_plan_of_an_extended_grid_runs_only_the_new_cell(command: Commands) -> None:
    extended = "grid.labels.outliers=[0.0, 0.1, 0.2]"
    counts = json.loads(command("plan", "small.yaml", extended, "--json").out)["steps"]
    to_run = {kind: count["to_run"] for kind, count in counts.items()}
    assert to_run == {"sample": 0, "superpixels": 0, "cluster": 0, "label": 2, "score": 1}
    text = command("plan", "small.yaml", extended).out
    rows = {row[0]: row[1:5] for line in text.splitlines() if len(row := re.findall(r"\w+", line)) >= 6}
    assert rows["label"] == ["6", "6", "4", "2"]
    assert "small: 3 cells, 13 distinct steps" in text


def test_check_of_a_good_set_says_what_was_looked_at(command: Commands) -> None:
    answer = command("check", "small.yaml", "--json")
    document = json.loads(answer.out)
    assert answer.code == 0
    assert (document["ok"], document["problems"]) == (True, [])
    assert [(pool["pool"], pool["available"], pool["examined"]) for pool in document["pools"]] == [
        ("train", 4, 4),
        ("val", 2, 2),
    ]
    text = command("check", "small.yaml").out
    assert "camvid train: 4 images, 4 read, 32x48" in text
    assert "nothing wrong was found" in text


def test_check_of_a_bad_set_collects_every_problem(command: Commands) -> None:
    (command.folder / "camvid/valannot/0.png").unlink()
    Image.fromarray(np.full((32, 48), 99, dtype=np.uint8)).save(command.folder / "camvid/valannot/1.png")
    answer = command("check", "small.yaml", "--json")
    document = json.loads(answer.out)
    assert (answer.code, document["ok"]) == (2, False)
    assert len(document["problems"]) == 2
    assert "0.png is missing" in document["problems"][0]
    assert "label value 99 not allowed" in document["problems"][1]


def test_explain_names_the_key_that_changed(command: Commands) -> None:
    cached = command("explain", "small.yaml", GRID)
    assert cached.code == 0
    assert {line.split(maxsplit=2)[2] for line in cached.out.splitlines()} == {"cached"}
    lines = command("explain", "small.yaml", "labels.superpixels.n_segments=30").out.splitlines()
    reasons = {kind: [line for line in lines if line.startswith(f"{kind} ")] for kind in ("sample", "superpixels")}
    assert all(line.endswith("cached") for line in reasons["sample"])
    assert all("superpixels.n_segments: 20 -> 30" in line for line in reasons["superpixels"])
    assert "is computed from labels" in next(line for line in lines if line.startswith("score"))


def test_a_damaged_shard_is_found_forgotten_and_made_again(command: Commands) -> None:
    step = command.results()["cells"][0]["steps"]["label"]
    before = bytes_of_shards(command.folder, step)
    (manifest,) = command.folder.glob(f"storage/steps/label/{step}.json")
    name = json.loads(manifest.read_text())["shards"][1]["path"]
    shard = command.folder / "storage" / name
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    # A new file: the old one may be mapped into memory.
    shard.unlink()
    shard.write_bytes(data)

    found = command("verify", "storage", "--json")
    assert found.code == 1
    assert json.loads(found.out)["damaged"] == {name: "has another SHA-256 than what was written"}
    assert f"damaged: {name}" in command("verify", "storage").out

    mended = command("verify", "storage", "--repair")
    assert mended.code == 0
    assert "`lookbeyond run` computes again what is missing" in mended.out
    assert "1 to run" in command("run", "small.yaml", GRID).err
    assert bytes_of_shards(command.folder, step) == before
    assert command("verify", "storage").code == 0


def test_a_missing_shard_is_told_by_who_needs_it(command: Commands) -> None:
    step = command.results()["cells"][0]["steps"]["label"]
    (manifest,) = command.folder.glob(f"storage/steps/label/{step}.json")
    shard = command.folder / "storage" / json.loads(manifest.read_text())["shards"][0]["path"]
    shard.unlink()
    answer = command("export", "labels", "small.yaml", "out", GRID, "--cell", "0")
    assert answer.code == 2
    assert f"{shard} is missing; `lookbeyond verify" in answer.messages[0]
    shard.write_bytes(b"not what it was")
    answer = command("export", "labels", "small.yaml", "out2", GRID, "--cell", "0")
    assert answer.code == 2
    assert f"{shard} is damaged" in answer.messages[0]


def test_exported_labels_are_indexed_pictures_with_a_legend(command: Commands) -> None:
    answer = command("export", "labels", "small.yaml", "out", GRID, "--cell", "1", "--pool", "val")
    assert (answer.code, answer.out) == (0, "2 label maps, legend.json and legend.png in out\n")
    step = command.results()["cells"][1]["steps"]["label_val"]
    storage = Storage("storage")
    manifest = Ledger(storage).manifest("label", step)
    assert manifest is not None
    maps = {name: values for shard in manifest.shards for name, values in read_maps(storage, shard.path)}
    legend = json.loads((command.folder / "out/legend.json").read_text())
    assert set(maps) == {"0", "1"}
    for name, values in maps.items():
        picture = Image.open(command.folder / "out" / f"{name}.png")
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.where(values == 65535, 255, values), np.array(picture))
        palette = np.array(picture.getpalette()).reshape(-1, 3)
        for entry in legend["labels"]:
            assert palette[entry["label"]].tolist() == entry["colour"]
    assert (legend["step"], legend["ignore"], legend["cell"]) == (step, 255, {"labels.outliers": 0.1})
    assert [entry["label"] for entry in legend["labels"]] == [0, 1, 2]
    matching = command.results()["cells"][1]["metrics"]["matching"]
    assert {entry["label"] for entry in legend["labels"] if entry["class"]} == {int(label) for label in matching}
    assert Image.open(command.folder / "out/legend.png").size[0] > 0


def test_an_export_is_not_laid_over_another(command: Commands) -> None:
    for _ in range(2):
        assert command("export", "labels", "small.yaml", "out", GRID, "--cell", "0").code == 0
    for options in (["--cell", "0", "--pool", "val"], ["--cell", "1"]):
        answer = command("export", "labels", "small.yaml", "out", GRID, *options)
        assert answer.code == 2
        assert "folder out holds the labels of another cell or pool" in answer.messages[0]
    answer = command("export", "labels", "small.yaml", "camvid", GRID, "--cell", "0")
    assert "folder camvid holds other files" in answer.messages[0]


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], ["demo", "check", "plan", "run", "explain", "export", "verify", "--version", "exit codes"]),
        (["demo"], ["key=value", "--storage", "--address", "--dashboard", "--json"]),
        (["check"], ["experiment", "key=value", "--storage", "--json", "--images"]),
        (["plan"], ["experiment", "key=value", "--storage", "--json"]),
        (["run"], ["experiment", "key=value", "--storage", "--address", "--dashboard", "--json", "--until", "labels"]),
        (["explain"], ["experiment", "key=value", "--storage"]),
        (["predict"], ["experiment", "images", "output", "key=value", "--storage", "--row", "--cell", "--what"]),
        (["export"], ["labels"]),
        (["export", "labels"], ["experiment", "output", "key=value", "--storage", "--cell", "--pool"]),
        (["verify"], ["storage", "--repair", "--json"]),
    ],
    ids=lambda value: " ".join(value) if value and len(value) < 3 else "",
)
def test_help_mentions_every_option(command: Commands, arguments: list[str], options: list[str]) -> None:
    answer = command(*arguments, "--help")
    assert answer.code == 0
    for option in options:
        assert option in answer.out


def test_options_and_overrides_come_in_any_order(command: Commands) -> None:
    keys = [
        json.loads(command(*arguments).out)["cells"]
        for arguments in (
            ("plan", "small.yaml", "labels.images=3", "labels.outliers=0.2", "--storage", "new", "--json"),
            ("plan", "--json", "--storage", "new", "small.yaml", "labels.images=3", "labels.outliers=0.2"),
            ("plan", "small.yaml", "labels.images=3", "--storage", "new", "labels.outliers=0.2", "--json"),
        )
    ]
    assert keys[0] == keys[1] == keys[2]


def test_several_experiments_are_one_plan_with_results_each(command: Commands) -> None:
    more = {**EXPERIMENT, "grid": {"labels.outliers": [0.05, 0.1]}}
    (command.folder / "more.yaml").write_text(yaml.safe_dump(more))
    answer = command("run", "small.yaml", "more.yaml", "labels.images=3")
    assert answer.code == 0
    assert sum(line.startswith("results ") for line in answer.out.splitlines()) == 2
    (small,), (same, other) = (command.results(name)["cells"] for name in ("small", "more"))
    assert small["steps"] == same["steps"]
    assert small["metrics"] == same["metrics"]
    assert (small["status"], other["steps"]["sample"]) == ("done", small["steps"]["sample"])
    assert other["steps"]["label"] != small["steps"]["label"]
    # Shared shards were made once.
    assert len(list(command.folder.glob("storage/shards/*/*.arrow"))) == len(
        list(command.folder.glob("storage/shards/*/*.json"))
    )
    (command.folder / "more.yaml").write_text(yaml.safe_dump(more | {"compute": {"shard_images": 2, "workers": 1}}))
    refused(command("run", "small.yaml", "more.yaml"), "compute.workers", "they run together")
    refused(command("run", "small.yaml", "small.yaml"), "name", "small")
    assert command("run", "small.yaml", "more.yaml", "compute.workers=1").code == 0


def test_the_results_file_says_everything(command: Commands) -> None:
    document = command.results()
    assert set(document) == {"experiment", "cells", "provenance"}
    assert document["experiment"]["dataset"] == {"name": "camvid", "root": "camvid"}
    assert [cell["cell"] for cell in document["cells"]] == [{"labels.outliers": 0.0}, {"labels.outliers": 0.1}]
    for cell in document["cells"]:
        assert {"cell", "status", "error", "metrics", "steps", "seconds"} <= set(cell)
        assert (cell["status"], cell["error"]) == ("done", None)
        assert {"pmiou", "coverage", "miou"} <= set(cell["metrics"])
        assert 0 < cell["metrics"]["pmiou"] <= 100
        assert 0 < cell["metrics"]["coverage"] <= 1
        assert cell["metrics"]["miou"] is None
        roles = {"sample", "superpixels", "cluster", "label", "superpixels_val", "label_val", "score"}
        assert set(cell["steps"]) == set(cell["seconds"]) == roles
        assert all(re.fullmatch("[0-9a-f]{64}", key) for key in cell["steps"].values())
        assert [cell[name] for name in ("row", "column", "paper", "substitutes")] == [None, None, None, []]
        scored = {"dataset": "camvid", "classes": 11, "split": "val", "scored_images": 2}
        assert {name: cell["metrics"]["protocol"][name] for name in scored} == scored
        assert cell["metrics"]["protocol"]["class_names"][0] == "sky"
    assert {"git", "versions", "seed", "started", "machines"} <= set(document["provenance"])
    assert {"python", "torch", "ray"} <= set(document["provenance"]["versions"])
    assert document["cells"][0]["metrics"]["coverage"] == 1


TABLE = """
extends: small.yaml
title: A table
layout: table2
weights: {moco: null, pixpro: stand-in:pixpro}
compute: {quarantine_limit: 0.5}
rows:
  - row: filters
    paper: {camvid: {"3": {pmiou: 12.5}, "4": {pmiou: <1}}}
  - {row: MoCo, set: {labels.extractor.arch: mobilenet_v2, labels.extractor.weights: $moco}}
  - row: PixPro
    set: {labels.extractor.arch: mobilenet_v2, labels.extractor.weights: $pixpro}
    notes: [a small network]
columns:
  - {column: 3, set: {labels.clustering.k: 3}}
  - {column: 4, set: {labels.clustering.k: 4}}
"""


def test_a_table_says_row_column_and_paper_and_a_row_without_weights_fails_alone(command: Commands) -> None:
    (command.folder / "table.yaml").write_text(TABLE)
    (command.folder / "camvid" / "val" / "0.png").write_bytes(b"no picture")
    answer = command("run", "table.yaml")
    assert answer.code == 1
    reason = "labels.extractor.weights: $moco is not at hand; give weights.moco=FILE, the path or URL of a checkpoint"
    assert answer.messages == [f"failed MoCo, 3; MoCo, 4: {reason}"]
    document = command.results("table")
    assert {name: document["experiment"][name] for name in ("title", "layout")} == {
        "title": "A table",
        "layout": "table2",
    }
    cells = document["cells"]
    assert [(cell["row"], cell["column"]) for cell in cells] == [
        (row, column) for row in ("filters", "MoCo", "PixPro") for column in ("3", "4")
    ]
    assert [cell["status"] for cell in cells] == ["done", "done", "failed", "failed", "done", "done"]
    assert [cell["paper"] for cell in cells] == [{"pmiou": 12.5}, {"pmiou": "<1"}, None, None, None, None]
    notes = ["a small network", "PixPro weights: random values in the official format"]
    assert [cell["substitutes"] for cell in cells] == [[], [], [], [], notes, notes]
    assert cells[4]["cell"]["labels.extractor.weights"] == "$pixpro"
    # One of the two images is broken, so one was scored.
    assert cells[0]["metrics"]["protocol"]["scored_images"] == 1
    assert re.search(r"│ PixPro +│ 4 +│ +4 │", answer.out)


def test_the_same_command_again_is_cached(command: Commands) -> None:
    before = command.results()
    answer = command("run", "small.yaml", GRID, "--json")
    assert answer.code == 0
    assert json.loads(answer.out) == command.results()
    after = command.results()
    assert [cell["status"] for cell in after["cells"]] == ["cached", "cached"]
    assert [cell["metrics"] for cell in after["cells"]] == [cell["metrics"] for cell in before["cells"]]
    assert "0 to run" in answer.err


def test_a_lease_that_a_killed_driver_left_of_a_step_that_is_done_does_not_stay(command: Commands) -> None:
    """Killed between the end of the step and that of the lease; the run after it has nothing to do."""
    storage, here = Storage(str(command.folder / "storage")), Holder.here()
    steps = {key for cell in command.results()["cells"] for key in cell["steps"].values()}
    for generation, holder in enumerate((replace(here, started=here.started + 1), here)):
        content = json.dumps({"holder": vars(holder), "run": "another", "beat": 1, "seconds": 600.0}).encode()
        for key in steps:
            storage.replace(lease_path(key, generation), content)
    assert command("run", "small.yaml", GRID).code == 0
    left = {file.path for file in storage.files("leases", deep=True)}
    assert left == {lease_path(key, 1) for key in steps}, "those of the living stay"
    for path in left:
        storage.delete(path)


def test_the_report_of_a_run_shows_its_numbers_and_pictures(command: Commands) -> None:
    answer = command("report", "storage")
    assert (answer.code, answer.err) == (0, "")
    page = (command.folder / "storage/report/small.html").read_text()
    for cell in command.results()["cells"]:
        assert f">{cell['metrics']['pmiou']:.2f}</a>" in page
        assert all(f'id="step-{key}"' in page for key in cell["steps"].values())
    gallery = json.loads((command.folder / "storage/figures/small.json").read_text())
    tiles = [tile for setting in gallery["settings"] for image in setting["tiles"] for tile in image]
    assert len(tiles) == 8, "labels, and labels as classes, of two settings and two images"
    assert all(tile["data"] in page for tile in tiles)
    assert command("report", "small.yaml", GRID, "--output", "elsewhere").code == 0
    assert (command.folder / "elsewhere/small.html").read_text() == page
    assert command("report", "storage", "labels.images=1").messages == [
        "override 'labels.images=1' belongs to an experiment, and storage is a storage; "
        "give an experiment file to set its keys"
    ]


def test_without_sheets_the_report_draws_labels_from_their_shards(command: Commands) -> None:
    for name in ("small.png", "small.json"):
        (command.folder / "storage/figures" / name).unlink()
    shutil.rmtree(command.folder / "camvid")
    assert command("report", "storage").code == 0
    page = (command.folder / "storage/report/small.html").read_text()
    found = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert found and "drawn from the label shards" in page
    with Image.open(io.BytesIO(base64.b64decode(found.group(1)))) as picture:
        # Two cells and two images, each as wide as the sheet draws them.
        assert picture.width > 2 * 256 and picture.height > 2 * 256 * 32 // 48


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "lookbeyond", "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"lookbeyond \d+\.\d+\.\d+\S*\n", done.stdout)
