"""Experiments from Python: what the command line plans, runs and writes, as types and arrays."""

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command_line import Commands, run_here

import lookbeyond
from lookbeyond import experiments
from orchestrator.results.cells import Status
from workloads.errors import InputError

OVERRIDES = {
    "grid": {"labels.clustering.k": [3, 4]},
    "labels.extractor.arch": "filters",
}


@pytest.fixture
def ran(folder: Path, monkeypatch: pytest.MonkeyPatch) -> lookbeyond.ExperimentResults:
    """Two cells on a small CamVid tree, run without Ray."""
    monkeypatch.setattr("orchestrator.cluster.run.run_plan", run_here)
    return lookbeyond.run("small.yaml", OVERRIDES, until="labels")


def test_results_are_those_of_the_command(ran: lookbeyond.ExperimentResults, command: Commands) -> None:
    assert command("run", "small.yaml", "grid.labels.clustering.k=[3, 4]", "--until", "labels", "--json").code == 0
    for found in (
        ran,
        lookbeyond.open_results(),
        lookbeyond.open_results("small"),
        lookbeyond.open_results("small.yaml"),
    ):
        assert (found.name, len(found)) == ("small", 2)
        assert [cell.values for cell in found] == [{"labels.clustering.k": k} for k in (3, 4)]
        assert {cell.status for cell in found} <= {Status.DONE, Status.CACHED}
        expected = [cell["metrics"]["pmiou"] for cell in command.results()["cells"]]
        assert [cell.metrics.pmiou for cell in found] == expected
    plan = lookbeyond.plan(Path("small.yaml"), OVERRIDES)
    assert plan.pending == []
    assert lookbeyond.plan("small.yaml", OVERRIDES | {"seed": 1}).counts()["label"]["to_run"] == 4


def test_label_maps_are_arrays_of_what_is_exported(ran: lookbeyond.ExperimentResults, command: Commands) -> None:
    options = ("grid.labels.clustering.k=[3, 4]", "--cell", "1", "--pool", "val")
    assert command("export", "labels", "small.yaml", "out", *options).code == 0
    maps = dict(ran[1].label_maps("val"))
    assert sorted(maps) == ["0", "1"]
    for image, labels in maps.items():
        assert labels.dtype == np.uint16
        indexed = np.asarray(Image.open(command.folder / "out" / f"{image}.png"))
        np.testing.assert_array_equal(np.where(labels == lookbeyond.IGNORED, 255, labels), indexed)
    with pytest.raises(InputError, match=r"cell .* has no step finetune; its steps: sample, superpixels"):
        ran[0].network()
    with pytest.raises(InputError, match="2 cells of small have the row None"):
        ran.row(None)  # type: ignore[arg-type]


def test_an_experiment_is_a_file_or_what_one_would_hold(folder: Path) -> None:
    document: dict[str, Any] = {"extends": "small.yaml", "labels": {"clustering": {"k": 5}}}
    made = lookbeyond.plan(document, {"labels.images": 2})
    assert document == {"extends": "small.yaml", "labels": {"clustering": {"k": 5}}}
    assert made.document["labels"]["clustering"]["k"] == 5
    assert {step.images.count for step in made.steps.values() if step.kind == "cluster"} == {2}
    same = lookbeyond.plan("small.yaml", {"labels.images": 2, "labels.clustering.k": 5})
    assert same.steps.keys() == made.steps.keys()
    with pytest.raises(InputError, match=r"labels\.clustering\.kk"):
        lookbeyond.plan(document, {"labels.clustering.kk": 5})


def test_results_that_are_not_there_are_named(folder: Path, ran: lookbeyond.ExperimentResults) -> None:
    with pytest.raises(InputError, match=r"no results of 'other' .* there are: small"):
        lookbeyond.open_results("other")
    with pytest.raises(InputError, match="must be said; there are: none at all"):
        lookbeyond.open_results(storage="nowhere")


def test_labels_of_arrays_are_those_of_a_run_on_their_files(command: Commands) -> None:
    files = sorted((command.folder / "camvid" / "train").iterdir())
    dataset = "dataset={name: folder, root: camvid/train}"
    assert command("run", "small.yaml", dataset).code == 0
    overrides: dict[str, Any] = {"labels.sampling.pixels_per_image": 20, "labels.superpixels.n_segments": 20}
    overrides["labels.extractor"] = {"arch": "filters", "output_stride": 8, "batch_size": 2}
    ours = lookbeyond.label_maps(command.folder / "camvid" / "train", 3, overrides=overrides)
    for image, labels in lookbeyond.open_results("small")[0].label_maps():
        np.testing.assert_array_equal(ours[image], labels)
    arrays = lookbeyond.label_maps([np.asarray(Image.open(path)) for path in files], 3, overrides=overrides)
    assert list(arrays) == ["0", "1", "2", "3"]
    for path in files:
        np.testing.assert_array_equal(arrays[path.stem], ours[path.name])


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images: image 0 is float64 \(2, 2, 3\); uint8 of shape \(H, W, 3\), RGB"):
        lookbeyond.label_maps([np.zeros((2, 2, 3))], 3)
    with pytest.raises(InputError, match="is empty"):
        lookbeyond.label_maps(tmp_path, 3)


def test_the_examples_of_the_docstrings_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = doctest.testmod(experiments, raise_on_error=False)
    assert ended.failed == 0 and ended.attempted > 5
