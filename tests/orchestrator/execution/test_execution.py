"""An execution: everything that can be done is done, and a failure reaches what was computed from it and no further."""

import copy
import hashlib
from pathlib import Path
from typing import Any

import pytest
from support.without_ray import Ended, FakeWorker, execute, run

from orchestrator.execution.execution import Task
from orchestrator.ledger.layout import record_path
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.shards import read_judged_labels, read_maps
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.steps.step import Step
from orchestrator.storage.store import Storage
from workloads.errors import InputError


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


def plan(document: dict[str, Any], storage: Storage) -> Plan:
    return make_plan(document, storage, write_listings=True)


def roles(ended: Ended, status: list[Step]) -> list[set[str]]:
    """For every cell, the roles of its steps that ended in a way."""
    keys = {step.key for step in status}
    return [{role for role, step in cell.roles.items() if step.key in keys} for cell in ended.plan.cells]


def test_everything_completes_and_is_committed_once(tiny: dict[str, Any], storage: Storage) -> None:
    made = plan(tiny, storage)
    ended = execute(made, storage, FakeWorker(storage))
    assert {step.key for step in ended.finished} == set(made.steps)
    assert len(ended.finished) == len(made.steps)
    assert ended.failed == []
    ledger = Ledger(storage)
    for step in made.steps.values():
        manifest = ledger.manifest(step.kind, step.key)
        assert manifest is not None
        assert len(manifest.shards) == (len(step.images.shards) if step.stream else 0)
        assert list(manifest.files) == (["clusters"] if step.kind == "cluster" else [])
        assert manifest.provenance["images"]["used"] == step.images.count
    # Six train shards and two val shards; each pool's four labellings are one pass, one item a shard.
    assert ended.kinds() == {"sample": 6, "superpixels": 8, "cluster": 2, "label": 8, "score": 2}
    assert all(len(task.steps) == 4 for task in ended.tasks if task.kind == "label")
    assert plan(tiny, storage).pending == []


def test_a_step_is_finished_after_what_it_is_computed_from(tiny: dict[str, Any], storage: Storage) -> None:
    ended = execute(plan(tiny, storage), storage, FakeWorker(storage))
    order = [step.key for step in ended.finished]
    for step in ended.finished:
        assert all(order.index(key) < order.index(step.key) for key in step.input_keys.values())


def test_a_failed_fit_fails_its_own_cells_alone(tiny: dict[str, Any], storage: Storage) -> None:
    made = plan(tiny, storage)
    broken = made.cells[0].roles["cluster"].key
    worker = FakeWorker(storage)
    worker.fail_when = lambda task: RuntimeError("out of memory") if task.steps[0].key == broken else None
    ended = execute(made, storage, worker)
    affected = {"cluster", "label", "label_val", "score"}
    assert [one & affected for one in roles(ended, ended.failed)] == [affected, affected, set(), set()]
    assert {step.key for step in ended.failed} | {step.key for step in ended.finished} == set(made.steps)
    assert set(ended.execution.failed.values()) == {"out of memory"}
    assert ended.execution.input_errors == set()
    assert all(made.done.keys() >= {step.key for step in cell.roles.values()} for cell in made.cells[2:])


def test_a_failed_shard_fails_what_is_computed_from_it_and_only_that(tiny: dict[str, Any], storage: Storage) -> None:
    made = plan(tiny, storage)
    worker = FakeWorker(storage)
    worker.fail_when = lambda task: (
        InputError("val is wrong") if task.kind == "superpixels" and task.images == 4 and is_val(task) else None
    )
    ended = execute(made, storage, worker)
    # Cells 1 and 3 vote with superpixels; their training labels do not need those of val.
    voted = {"superpixels_val", "label_val", "score"}
    assert roles(ended, ended.failed) == [set(), voted, set(), voted]
    assert ended.execution.input_errors == {step.key for step in ended.failed}


def is_last_sample(task: Task) -> bool:
    return task.kind == "sample" and task.shard is not None and task.shard.start == 20


def is_val(task: Task) -> bool:
    return task.steps[0].images.pool == "val"


def test_when_the_first_item_fails_everything_ends_and_nothing_hangs(tiny: dict[str, Any], storage: Storage) -> None:
    made = plan(tiny, storage)
    worker = FakeWorker(storage)
    worker.fail_when = lambda task: RuntimeError("no") if task.kind == "sample" else None
    ended = execute(made, storage, worker)
    assert {step.kind for step in ended.finished} == {"superpixels"}
    assert "cluster" not in ended.kinds()
    assert "label" not in ended.kinds()
    assert len(ended.failed) == len({step.key for step in ended.failed})
    assert {step.key for step in ended.failed} | {step.key for step in ended.finished} == set(made.steps)


def test_what_failed_is_tried_again_by_the_next_run_and_the_rest_is_not(tiny: dict[str, Any], storage: Storage) -> None:
    worker = FakeWorker(storage)
    worker.fail_when = lambda task: RuntimeError("no") if is_last_sample(task) else None
    assert execute(plan(tiny, storage), storage, worker).failed
    worker.fail_when = lambda task: None
    ended = execute(plan(tiny, storage), storage, worker)
    assert ended.failed == []
    # Of six sample shards five were finished by the run that failed.
    assert ended.kinds() == {"sample": 1, "cluster": 2, "label": 8, "score": 2}
    assert execute(plan(tiny, storage), storage, worker).tasks == []


def test_too_many_broken_images_fail_the_step_and_name_some(tiny: dict[str, Any], storage: Storage) -> None:
    tiny["compute"]["quarantine_limit"] = 0.1  # of 24 images 2.4, rounded up: three may be broken
    worker = FakeWorker(storage)
    worker.broken = lambda step, number: step.kind == "sample" and number < 3
    ended = execute(plan(tiny, storage), storage, worker)
    assert ended.failed == []
    sample = next(step for step in ended.finished if step.kind == "sample")
    assert [item.image for item in ended.plan.done[sample.key].quarantined] == ["image 0", "image 1", "image 2"]

    more = Storage(storage.uri + "-more")
    worker = FakeWorker(more)
    worker.broken = lambda step, number: step.kind == "sample" and number < 7
    ended = execute(plan(tiny, more), more, worker)
    failed = {step.kind for step in ended.failed}
    assert failed == {"sample", "cluster", "label", "score"}
    (message,) = set(ended.execution.failed.values())
    assert message.startswith("7 of 24 images of pool train are broken, allowed are 3 (compute.quarantine_limit=0.1); ")
    assert "image 4: truncated and 2 more" in message
    assert ended.execution.input_errors == set(ended.execution.failed)

    # Only the shards that hold broken images are looked at again, since the images may have been mended.
    again = execute(plan(tiny, more), more, worker)
    assert again.kinds() == {"sample": 2}
    assert {step.key for step in again.failed} == {step.key for step in ended.failed}
    assert len(again.failed) == len(ended.failed)
    assert again.finished == []

    tiny["compute"]["quarantine_limit"] = 0.5
    relaxed = execute(plan(tiny, more), more, worker)
    assert relaxed.failed == []
    assert relaxed.kinds()["sample"] == 2


def test_a_step_whose_input_fails_at_the_start_is_not_finished(tiny: dict[str, Any], storage: Storage) -> None:
    """All shards of sample and labels are there, but no manifest, and the sample has too many broken images now."""
    worker = FakeWorker(storage)
    worker.broken = lambda step, number: step.kind == "superpixels" and number < 2
    tiny["compute"]["quarantine_limit"] = 0.5
    ended = execute(plan(tiny, storage), storage, worker)
    assert ended.failed == []
    for step in ended.finished:
        if step.kind in ("superpixels", "label"):
            Ledger(storage).forget(step.kind, step.key)
    tiny["compute"]["quarantine_limit"] = 0.0
    again = execute(plan(tiny, storage), storage, worker)
    assert roles(again, again.failed)[1] == {"superpixels", "label", "superpixels_val", "label_val"}
    assert roles(again, again.finished)[1] == set()


def test_without_a_limit_not_even_one_broken_image_is_allowed(tiny: dict[str, Any], storage: Storage) -> None:
    tiny["compute"]["quarantine_limit"] = 0
    worker = FakeWorker(storage)
    worker.broken = lambda step, number: step.kind == "sample" and number == 23
    ended = execute(plan(tiny, storage), storage, worker)
    assert "1 of 24 images of pool train is broken, allowed are 0" in next(iter(ended.execution.failed.values()))


def test_a_pool_of_broken_images_fails_whatever_the_limit(tiny: dict[str, Any], storage: Storage) -> None:
    tiny["compute"]["quarantine_limit"] = 1.0
    worker = FakeWorker(storage)
    worker.broken = lambda step, number: step.images.pool == "val"
    ended = execute(plan(tiny, storage), storage, worker)
    assert {step.images.pool for step in ended.failed} == {"val"}
    assert {step.images.pool for step in ended.finished} == {"train"}


def test_scores_are_split_over_the_cores_there_are(tiny: dict[str, Any], storage: Storage) -> None:
    made = plan(tiny, storage)
    ended = execute(made, storage, FakeWorker(storage), groups=3)
    assert [len(task.steps) for task in ended.tasks if task.kind == "score"] == [2, 2]


def label_bytes(ended: Ended, storage: Storage, role: str) -> list[str]:
    """For every cell, a digest of all its label maps in order."""
    found = []
    for cell in ended.plan.cells:
        hasher = hashlib.sha256()
        for record in ended.plan.done[cell.roles[role].key].shards:
            for stored in read_judged_labels(storage, record.path):
                hasher.update(stored.image.encode() + stored.values.tobytes())
        found.append(hasher.hexdigest())
    return found


def metrics(ended: Ended) -> list[dict[str, Any]]:
    return [ended.plan.done[cell.roles["score"].key].results for cell in ended.plan.cells]


def test_a_real_run_is_the_same_however_it_is_cut(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Shards of other sizes give the same labels, though the superpixels they are voted with were cut elsewhere."""
    tiny["dataset"] |= {"num_train": 12, "num_val": 4}
    whole = run(tiny, Storage(str(tmp_path / "whole")))
    assert whole.failed == []
    assert all(0 < one["pmiou"] < 100 for one in metrics(whole))

    mixed = Storage(str(tmp_path / "mixed"))
    superpixels_only = copy.deepcopy(tiny) | {"grid": {"labels.source": ["superpixel"]}}
    assert run(superpixels_only, mixed).failed == []
    other = copy.deepcopy(tiny)
    other["compute"]["shard_images"] = 6
    ended = run(other, mixed)
    assert ended.failed == []
    assert "superpixels" not in ended.kinds()
    for role in ("label", "label_val"):
        assert label_bytes(ended, mixed, role) == label_bytes(whole, Storage(str(tmp_path / "whole")), role)
    assert metrics(ended) == metrics(whole)
    # Voting changes labels, so an unvoted map would have been noticed.
    assert len(set(label_bytes(ended, mixed, "label"))) == 4


def test_data_sets_whose_images_share_names_are_judged_by_their_own_truth(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["dataset"] |= {"num_train": 4, "num_val": 4}
    tiny["grid"] = {"dataset.seed": [0, 1]}
    together = run(tiny, Storage(str(tmp_path / "together")))
    assert together.failed == []
    alone = []
    for seed in (0, 1):
        document = copy.deepcopy(tiny) | {"grid": {"dataset.seed": [seed]}}
        alone += metrics(run(document, Storage(str(tmp_path / f"alone-{seed}"))))
    assert metrics(together) == alone
    assert alone[0] != alone[1]


def test_pools_whose_images_share_names_are_labelled_each_by_its_own(tiny: dict[str, Any], tmp_path: Path) -> None:
    """With one image a shard, equal names make equal shards, which lie at other places of the two pools' orders."""
    tiny["compute"]["shard_images"] = 1
    tiny["labels"]["extractor"]["batch_size"] = 1
    tiny["grid"] = {}
    storage = Storage(str(tmp_path / "ones"))
    ended = run(tiny, storage)
    assert ended.failed == []
    for role in ("label", "label_val"):
        step = ended.plan.cells[0].roles[role]
        named = [
            stored.image
            for record in ended.plan.done[step.key].shards
            for stored in read_judged_labels(storage, record.path)
        ]
        assert len(set(named)) == step.images.count
        for shard, image in zip(step.images.shards, named, strict=True):
            record = Ledger(storage).shard(step.stream, shard.digest)
            assert record is not None
            assert [found.image for found in read_judged_labels(storage, record.path)] == [image]
    assert names(storage, ended, "superpixels") == names(storage, ended, "label")


def names(storage: Storage, ended: Ended, role: str) -> list[str]:
    shards = ended.plan.done[ended.plan.cells[0].roles[role].key].shards
    return [image for record in shards for image, _ in read_maps(storage, record.path)]


def test_a_shard_that_another_run_finished_is_not_done_again(tiny: dict[str, Any], storage: Storage) -> None:
    made = plan(tiny, storage)
    sample = next(step for step in made.steps.values() if step.kind == "sample")
    worker = FakeWorker(storage)
    for shard in sample.images.shards[:4]:
        worker(Task((sample,), shard), (sample,))
    ended = execute(made, storage, worker)
    assert ended.kinds()["sample"] == 2
    assert len(made.done[sample.key].shards) == 6
    assert storage.exists(record_path(sample.stream, sample.images.shards[0].digest))
