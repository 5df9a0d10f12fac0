"""A network that is trained again may come out otherwise: nothing of the former is mixed with the new."""

import copy
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.star import EXPERIMENT
from support.without_ray import Ended, run

from orchestrator.ledger.layout import cluster_state_path, model_path, state_path
from orchestrator.ledger.manifests import Ledger, OutdatedError
from orchestrator.ledger.shards import read_arrays, read_samples, write_arrays
from orchestrator.ledger.training_states import leave_outcome, read_outcome
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.steps.finetune import FinetuneStep
from orchestrator.steps.jobs import WorkerCache
from orchestrator.steps.step import Step
from orchestrator.steps.tensors import write_tensors
from orchestrator.storage.store import Storage
from workloads.datasets import open_dataset
from workloads.features.extractors import build_extractor
from workloads.labels import kmeans
from workloads.labels.kmeans import fit_kmeans

AFTER = ("cluster", "label", "label_val", "score")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Storage]:
    storage = Storage(str(tmp_path_factory.mktemp("retrained") / "storage"))
    document = copy.deepcopy(EXPERIMENT) | {"grid": {"finetune.fraction": [0.5]}}
    return run(document, storage, until="labels"), storage


@pytest.fixture
def storage(ended: tuple[Ended, Storage], tmp_path: Path) -> Storage:
    """A storage on which the labels are done, of the test's own."""
    shutil.copytree(ended[1].uri, tmp_path / "storage")
    return Storage(str(tmp_path / "storage"))


@pytest.fixture
def plan(ended: tuple[Ended, Storage], storage: Storage) -> Plan:
    return make_plan(ended[0].plan.document, storage, write_listings=True, until="labels")


def roles(plan: Plan) -> dict[str, Step]:
    return plan.cells[0].roles


def forget(plan: Plan, storage: Storage, *named: str) -> None:
    for role in named:
        Ledger(storage).forget(roles(plan)[role].kind, roles(plan)[role].key)


def train_again(plan: Plan, storage: Storage) -> None:
    """Put another network in place of the extractor, as a training of other last bits would."""
    manifest = plan.done[roles(plan)["extractor_finetune"].key]
    state = torch.load(io.BytesIO(storage.read(manifest.file("network").path)), weights_only=True)
    first = next(iter(state))
    state[first] = state[first] + 0.5
    record = write_tensors(storage, model_path(manifest.key, "pt"), state)
    forget(plan, storage, "extractor_finetune")
    Ledger(storage).commit(replace(manifest, files=manifest.files | {"network": record}))


def test_shards_of_the_former_network_are_computed_again(plan: Plan, storage: Storage) -> None:
    """The run was ended in the middle of the sample; the extractor was damaged, and trained again."""
    sample, label = roles(plan)["sample"], roles(plan)["label"]
    former = {record.path for record in plan.done[sample.key].shards}
    forget(plan, storage, "sample", *AFTER)
    for step in (sample, label):
        Ledger(storage).forget_shard(step.stream, step.images.shards[0].digest)
    train_again(plan, storage)

    again = run(plan.document, storage, until="labels")
    trained = again.plan.done[roles(plan)["extractor_finetune"].key].file("network").path
    entry = again.plan.cells[0].cell.entry
    extractor = build_extractor(entry.labels.extractor.config, storage.locate(trained), "cpu")
    dataset = open_dataset(entry.dataset.config, None)
    records = again.plan.done[sample.key].shards
    assert len(records) == 3 and former.isdisjoint(record.path for record in records)
    for record in records:
        for name, cells, sampled in read_samples(storage, record.path):
            (dense,) = extractor.features([dataset.read_image("train", name)])
            np.testing.assert_allclose(dense.flatten(1).T[cells], sampled, atol=1e-4)
    old, new = (each.done[label.key].shards for each in (plan, again.plan))
    assert len({record.origin for record in (*old, *new)}) == 2
    assert {record.path for record in old}.isdisjoint(record.path for record in new)
    assert run(plan.document, storage, until="labels").tasks == []


def test_what_is_left_of_a_run_with_the_same_network_stands(plan: Plan, storage: Storage) -> None:
    forget(plan, storage, "sample", *AFTER)
    sample = roles(plan)["sample"]
    Ledger(storage).forget_shard(sample.stream, sample.images.shards[0].digest)
    kinds = run(plan.document, storage, until="labels").kinds()
    assert kinds["sample"] == 1


def test_all_that_was_made_of_the_former_network_is_made_again(plan: Plan, storage: Storage) -> None:
    """Nothing was lost but the network: what stands says what it was made of, down to the score."""
    train_again(plan, storage)
    outdated = {roles(plan)[role].key for role in ("sample", *AFTER)}
    again = make_plan(plan.document, storage, write_listings=False, until="labels")
    assert {step.key for step in again.pending} == outdated
    assert Ledger(storage).manifest("sample", roles(plan)["sample"].key) is not None, "a plan takes nothing away"
    done = run(plan.document, storage, until="labels")
    assert {step.key for step in done.finished} == outdated
    label = roles(plan)["label"].key
    assert done.plan.done[label].content != plan.done[label].content
    assert make_plan(plan.document, storage, write_listings=False, until="labels").pending == []


def test_a_shard_that_is_mended_by_the_same_network_outdates_nothing(plan: Plan, storage: Storage) -> None:
    label = roles(plan)["label"]
    before = plan.done[label.key]
    forget(plan, storage, "label")
    Ledger(storage).forget_shard(label.stream, label.images.shards[0].digest)
    done = run(plan.document, storage, until="labels")
    assert [step.key for step in done.finished] == [label.key]
    assert done.plan.done[label.key].content == before.content
    assert set(before.made_of) >= {"network", "cluster"}


def test_clusters_of_the_former_network_label_nothing(plan: Plan, storage: Storage) -> None:
    label = roles(plan)["label"]
    train_again(plan, storage)
    job = label.job(storage, (label,), label.images.shards[0], "cpu")
    with pytest.raises(OutdatedError, match="trained again since, and came out otherwise; the same command again"):
        job.run(WorkerCache())


def test_the_state_of_a_fit_is_of_its_features(plan: Plan, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = roles(plan)["cluster"]
    place = cluster_state_path(cluster.key)
    delete = Storage.delete
    monkeypatch.setattr(Storage, "delete", lambda self, path: path == place or delete(self, path))

    resumed = []

    def fit_and_tell(*args: Any, **options: Any) -> Any:
        resumed.append(options["resume"] is not None)
        return fit_kmeans(*args, **options)

    monkeypatch.setattr(kmeans, "fit_kmeans", fit_and_tell)

    def centres() -> np.ndarray:
        outcome = cluster.job(storage, (cluster,), None, "cpu").run(WorkerCache())
        return read_arrays(storage, outcome.files["clusters"].path)["points"]

    fitted = centres()
    state = {name: np.array(array) for name, array in read_arrays(storage, place).items()}
    moved = state | {"centers": state["centers"] + np.float32(1)}
    del (unsealed := dict(state))["sha256"]
    for left in (state, moved, unsealed):
        storage.replace(place, write_arrays(left))
        np.testing.assert_array_equal(centres(), fitted)
    assert resumed == [False, True, False, False], "a fit goes on from its own state, whole"
    storage.replace(place, write_arrays(state))
    sample = Ledger(storage).finished("sample", roles(plan)["sample"].key)
    forget(plan, storage, "sample")
    Ledger(storage).commit(replace(sample, shards=[replace(one, origin="0" * 64) for one in sample.shards]))
    np.testing.assert_array_equal(centres(), fitted)
    assert resumed[-1] is False, "and not from that of other features"


def test_a_training_goes_on_from_what_it_was_computed_from_and_from_nothing_else(plan: Plan, storage: Storage) -> None:
    step = roles(plan)["extractor_finetune"]
    assert isinstance(step, FinetuneStep)
    job = replace(step.training_job(storage), origin="a" * 64)
    outcome = job.run(WorkerCache())
    leave_outcome(storage, job.key, outcome)
    assert read_outcome(storage, job.key, "a" * 64) == outcome
    assert read_outcome(storage, job.key, "b" * 64) is None
    assert not storage.exists(state_path(job.key))
