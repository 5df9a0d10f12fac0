"""A network fine-tuned here as the feature extractor ("DeepLabV3 (*)"): it sees its column's labels and no others."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from support.star import EXPERIMENT
from support.without_ray import Ended, run

from orchestrator.execution.progress import Progress
from orchestrator.ledger.layout import labelled_list_path
from orchestrator.ledger.shards import read_maps, read_samples
from orchestrator.planning.cells import StepNotDoneError
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.results.backbone_export import export_backbone
from orchestrator.results.figures import write_predictions
from orchestrator.results.label_export import LabelMaps, export_label_maps
from orchestrator.steps.finetune import FinetuneStep
from orchestrator.steps.step import Step
from orchestrator.storage.store import Storage
from workloads.datasets import open_dataset
from workloads.datasets.fractions import parse_labelled_list
from workloads.errors import InputError
from workloads.features.extractors import build_extractor


def plan(storage: Storage, **changes: Any) -> Plan:
    document = copy.deepcopy(EXPERIMENT)
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        place = document
        for name in path:
            place = place[name]
        place[last] = value
    return make_plan(document, storage, write_listings=True)


def labelled(step: Step, storage: Storage) -> tuple[str, ...]:
    assert isinstance(step, FinetuneStep)
    listed = parse_labelled_list(storage.read(labelled_list_path(step.labelled.sha256)).decode())
    assert listed == step.labelled
    return listed.ids


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Storage]:
    """One column, run to its end in this process."""
    storage = Storage(str(tmp_path_factory.mktemp("star") / "storage"))
    document = copy.deepcopy(EXPERIMENT) | {"grid": {"finetune.fraction": [0.5]}}
    return run(document, storage), storage


def test_the_extractor_of_a_column_sees_exactly_the_labels_of_the_column(storage: Storage) -> None:
    made = plan(storage)
    small, large = made.cells
    for cell, count in ((small, 3), (large, 6)):
        own, extractor = (labelled(cell.roles[role], storage) for role in ("finetune", "extractor_finetune"))
        assert extractor == own
        assert len(own) == count
    assert set(labelled(small.roles["finetune"], storage)) < set(labelled(large.roles["finetune"], storage))
    assert small.roles["sample"].key != large.roles["sample"].key, "features of two columns are not the same"


@pytest.mark.parametrize("subset", [{"fraction": 1.0}, {"number": 12}])
def test_an_extractor_cannot_ask_for_labels_that_its_column_does_not_have(storage: Storage, subset: Any) -> None:
    with pytest.raises(InputError, match=r"an extractor may see the labels of its own cell only, so leave it out"):
        plan(storage, labels__extractor__finetune=subset)


def test_the_baseline_row_and_the_extractor_are_one_training(storage: Storage) -> None:
    """Without a recipe of its own, the extractor is the network that the row without pre-training fine-tunes."""
    made = plan(storage, grid=[{"pretrain": [None]}, {"labels.outliers": [0.05]}])
    baseline, ours = made.cells
    assert ours.roles["extractor_finetune"].key == baseline.roles["finetune"].key
    assert ours.roles["finetune"].key != baseline.roles["finetune"].key


def test_an_own_recipe_is_merged_into_that_of_the_cell(storage: Storage) -> None:
    made = plan(storage, labels__extractor__finetune={"steps": 1, "segmentor": {"head": "pspnet"}})
    work = made.cells[0].roles["extractor_finetune"]
    assert isinstance(work, FinetuneStep)
    assert (work.config.steps, work.config.segmentor.head, work.config.batch_size) == (1, "pspnet", 2)
    network = made.cells[0].cell.entry.labels.extractor.config.network
    assert network == work.config.segmentor, "features are taken from the network that is trained"


def test_without_a_finetune_there_is_no_network_to_extract_with(storage: Storage) -> None:
    with pytest.raises(InputError, match="weights 'finetuned' needs a finetune"):
        plan(storage, finetune=None, grid=None)


def test_finetune_of_an_extractor_needs_weights_finetuned(storage: Storage) -> None:
    with pytest.raises(InputError, match="nothing else takes one"):
        plan(storage, labels__extractor={"arch": "filters", "finetune": {"recipe": "small"}})


def test_the_whole_chain_runs_in_order(ended: tuple[Ended, Storage]) -> None:
    done, storage = ended
    assert done.failed == []
    order = [step.key for step in done.finished]
    roles = done.plan.cells[0].roles
    chain = ["extractor_finetune", "sample", "cluster", "label", "pretrain", "finetune"]
    assert [roles[role].key for role in chain] == sorted((roles[role].key for role in chain), key=order.index)
    assert make_plan(done.plan.document, storage, write_listings=False).pending == []


def test_features_come_from_the_trained_network(ended: tuple[Ended, Storage]) -> None:
    done, storage = ended
    cell = done.plan.cells[0]
    trained = done.plan.done[cell.roles["extractor_finetune"].key].file("network").path
    extractor = build_extractor(cell.cell.entry.labels.extractor.config, storage.locate(trained), "cpu")
    dataset = open_dataset(cell.cell.entry.dataset.config, None)
    shard = done.plan.done[cell.roles["sample"].key].shards[0].path
    images = list(read_samples(storage, shard))[:2]
    features = extractor.features([dataset.read_image("train", name) for name, _, _ in images])
    for dense, (_, cells, sampled) in zip(features, images, strict=True):
        np.testing.assert_allclose(dense.flatten(1).T[cells], sampled, atol=1e-5)


def test_a_fine_tuning_leaves_predictions_of_the_judged_images(ended: tuple[Ended, Storage]) -> None:
    done, storage = ended
    manifest = done.plan.done[done.plan.cells[0].roles["finetune"].key]
    maps = dict(read_maps(storage, manifest.file("predictions").path))
    assert len(maps) == 4
    assert all(found.shape == (64, 96) and found.max() < 10 for found in maps.values())
    (place,) = write_predictions(done.plan, storage)
    with Image.open(place) as picture:
        assert picture.width > 3 * 256 and picture.height > 4 * 64


def test_a_backbone_loads_strictly_into_torchvision(ended: tuple[Ended, Storage], tmp_path: Path) -> None:
    done, storage = ended
    cell = done.plan.cells[0]
    for stage in ("pretrain", "finetune"):
        with pytest.raises(InputError, match="is where the card would be"):
            export_backbone(done.plan, cell, stage, storage, tmp_path / f"{stage}.json")
        (tmp_path / "theirs.json").write_text("{}")
        with pytest.raises(InputError, match=r"theirs\.json, where the card would be, is a file of somebody else"):
            export_backbone(done.plan, cell, stage, storage, tmp_path / "theirs.pth")
        card_place = export_backbone(done.plan, cell, stage, storage, tmp_path / f"{stage}.pth")
        state = torch.load(tmp_path / f"{stage}.pth", weights_only=True)
        torchvision.models.mobilenet_v2().load_state_dict(state, strict=True)
        stored = torch.load(
            storage.locate(done.plan.done[cell.roles[stage].key].file("network").path), weights_only=True
        )
        name = "features.17.conv.1.0.weight"
        assert torch.equal(state[name], stored[f"backbone.{name}"])
        card = json.loads(card_place.read_text())
        assert card["step"]["key"] == cell.roles[stage].key
        assert "classifier.1.weight" in card["untrained"] and name not in card["untrained"]


def test_a_backbone_of_a_cell_without_training_is_refused(storage: Storage, tmp_path: Path) -> None:
    made = plan(storage, grid=[{"pretrain": [None]}])
    with pytest.raises(InputError, match="--stage pretrain: this cell has no such step; it has finetune"):
        export_backbone(made, made.cells[0], "pretrain", storage, tmp_path / "backbone.pth")
    with pytest.raises(StepNotDoneError, match="the finetune step of this cell is not done") as refused:
        export_backbone(made, made.cells[0], "finetune", storage, tmp_path / "backbone.pth")
    # Whoever knows where it was read says it of a copy.
    assert str(refused.value.read_from("a.yaml")) == f"a.yaml: {refused.value}"


def test_labels_of_such_a_cell_are_exported_like_any_others(ended: tuple[Ended, Storage], tmp_path: Path) -> None:
    done, storage = ended
    with Progress() as progress:
        count = export_label_maps(
            LabelMaps(done.plan, done.plan.cells[0], "train", storage), tmp_path / "out", progress
        )
    assert count == 12
    first = np.asarray(Image.open(next((tmp_path / "out").rglob("*.png"))))
    assert first.shape == (64, 96)
