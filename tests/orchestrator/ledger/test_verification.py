"""Verifying: every kind of damage is found and named, and repairing forgets just what is needed."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.trainings import KilledError, Listener, make_job
from support.trainings import run as train
from support.without_ray import Ended, run

from orchestrator.ledger import verification
from orchestrator.ledger.layout import (
    cluster_state_path,
    history_path,
    listing_path,
    manifest_path,
    model_path,
    outcome_path,
    record_path,
    shard_path,
    state_path,
    stop_mark_path,
)
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.training_states import read_outcome
from orchestrator.ledger.verification import verify
from orchestrator.steps.step import Step
from orchestrator.storage.store import Storage

TINY: dict[str, Any] = {
    "name": "tiny",
    "dataset": {"name": "scenes", "image_size": [64, 96], "num_train": 8, "num_val": 4},
    "labels": {
        "extractor": {"output_stride": 8, "batch_size": 2},
        "sampling": {"pixels_per_image": 20},
        "superpixels": {"n_segments": 30},
    },
    "compute": {"shard_images": 4},
}
# Two sample shards, three of superpixels, three of labels, and the cluster model.
SHARDS = 2 + 3 + 3 + 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    ended = run(TINY, Storage(str(tmp_path_factory.mktemp("finished"))))
    assert ended.failed == []
    return ended


@pytest.fixture
def storage(finished: Ended, tmp_path: Path) -> Storage:
    """A storage of its own with everything done."""
    shutil.copytree(finished.execution.ledger.storage.uri, tmp_path / "storage")
    return Storage(str(tmp_path / "storage"))


def step_of(finished: Ended, role: str) -> Step:
    return finished.plan.cells[0].roles[role]


def shard_of(finished: Ended, role: str, index: int = 0) -> str:
    return finished.plan.done[step_of(finished, role).key].records[index].path


def manifest_of(finished: Ended, role: str) -> str:
    step = step_of(finished, role)
    return manifest_path(step.kind, step.key)


def record_of(finished: Ended, role: str, index: int = 0) -> str:
    step = step_of(finished, role)
    return record_path(step.stream, step.images.shards[index].digest)


def flip(storage: Storage, path: str) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(storage.read(path))
    data[len(data) // 2] ^= 1
    Path(storage.locate(path)).write_bytes(data)


def truncate(storage: Storage, path: str) -> None:
    os.truncate(storage.locate(path), len(storage.read(path)) - 1)


def rerun_kinds(storage: Storage) -> dict[str, int]:
    """How many items of each kind the next run needs."""
    ended = run(TINY, storage)
    assert ended.failed == []
    return ended.kinds()


def test_a_sound_storage_is_sound(finished: Ended, storage: Storage) -> None:
    found = verify(storage, repair=False)
    assert (found.steps, found.shards) == (7, SHARDS)
    assert found.bytes == sum(
        file.size
        for folder in ("shards", "models")
        for file in storage.files(folder, deep=True)
        if file.path.endswith(".arrow")
    )
    assert found.damaged == {}
    assert found.leftovers == []
    before = {file.path for file in storage.files("", deep=True)}
    assert verify(storage, repair=True).repaired == []
    assert {file.path for file in storage.files("", deep=True)} == before


def test_an_empty_storage_is_sound(tmp_path: Path) -> None:
    found = verify(Storage(str(tmp_path / "nothing")), repair=True)
    assert (found.steps, found.shards, found.damaged, found.repaired) == (0, 0, {}, [])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (flip, "has another SHA-256 than what was written"),
        (truncate, "bytes, written were"),
        (lambda storage, path: storage.delete(path), "is missing"),
        (lambda storage, path: storage.replace(path, b""), "has 0 bytes, written were"),
    ],
    ids=["a flipped bit", "truncated", "deleted", "emptied"],
)
@pytest.mark.parametrize(
    ("role", "needed"),
    [
        ("sample", {"sample": 1}),
        ("superpixels", {"superpixels": 1}),
        ("label", {"label": 1}),
        ("cluster", {"cluster": 1}),
    ],
)
def test_a_damaged_shard_is_named_and_done_again_alone(
    finished: Ended, storage: Storage, damage: Any, problem: str, role: str, needed: dict[str, int]
) -> None:
    path = shard_of(finished, role)
    sound = storage.read(path)
    damage(storage, path)
    found = verify(storage, repair=False)
    assert list(found.damaged) == [path]
    assert problem in found.damaged[path]
    assert found.repaired == []
    assert Ledger(storage).manifest(step_of(finished, role).kind, step_of(finished, role).key) is not None

    repaired = verify(storage, repair=True)
    expected = {path, manifest_of(finished, role)}
    if role != "cluster":
        expected.add(record_of(finished, role))
    assert set(repaired.repaired) == expected
    assert verify(storage, repair=False).damaged == {}
    assert rerun_kinds(storage) == needed
    remade = Ledger(storage).manifest(step_of(finished, role).kind, step_of(finished, role).key)
    assert remade is not None
    assert storage.read(remade.records[0].path) == sound


@pytest.mark.parametrize(
    "garbage", [b"", b"{", b"null", b"[1]", b'"text"', b"\xff\x00", b'{"format": 1, "shards": [3]}']
)
def test_a_garbled_manifest_is_named_and_made_again_from_its_shards(
    finished: Ended, storage: Storage, garbage: bytes
) -> None:
    path = manifest_of(finished, "label")
    Path(storage.locate(path)).write_bytes(garbage)
    found = verify(storage, repair=True)
    assert list(found.damaged) == [path]
    assert found.damaged[path].startswith("cannot be read")
    assert found.repaired == [path]
    assert rerun_kinds(storage) == {}
    assert Ledger(storage).manifest("label", step_of(finished, "label").key) is not None
    assert verify(storage, repair=False).damaged == {}


def test_a_garbled_score_is_scored_again(finished: Ended, storage: Storage) -> None:
    path = manifest_of(finished, "score")
    truncate(storage, path)
    assert verify(storage, repair=True).repaired == [path]
    assert rerun_kinds(storage) == {"score": 1}
    again = Ledger(storage).manifest("score", step_of(finished, "score").key)
    assert again is not None
    assert again.results == finished.plan.done[step_of(finished, "score").key].results


def test_a_garbled_record_of_a_finished_step_costs_nothing(finished: Ended, storage: Storage) -> None:
    path = record_of(finished, "sample")
    Path(storage.locate(path)).write_bytes(b"{}")
    found = verify(storage, repair=True)
    assert list(found.damaged) == [path]
    assert found.repaired == [path]
    assert rerun_kinds(storage) == {}


@pytest.mark.parametrize("damage", [flip, truncate, lambda storage, path: storage.replace(path, b"ARROW1")])
def test_a_damaged_listing_of_images_is_named_and_written_again(finished: Ended, storage: Storage, damage: Any) -> None:
    path = step_of(finished, "sample").images.listing
    sound = storage.read(path)
    if damage is flip:
        # Names lie in the middle of a longer file than this; aim at one.
        data = bytearray(sound)
        data[data.index(b"0000003") + 6] ^= 1
        Path(storage.locate(path)).write_bytes(data)
    else:
        damage(storage, path)
    found = verify(storage, repair=True)
    assert list(found.damaged) == [path]
    assert found.repaired == [path]
    assert rerun_kinds(storage) == {}
    assert storage.read(path) == sound


def test_a_manifest_cannot_make_a_repair_delete_files_elsewhere(finished: Ended, storage: Storage) -> None:
    outside = Path(storage.uri).parent / "diary.txt"
    outside.write_text("dear diary")
    manifest = finished.plan.done[step_of(finished, "sample").key]
    forged = replace(manifest, shards=[replace(manifest.shards[0], path="../diary.txt")])
    storage.replace(manifest_of(finished, "sample"), forged.to_bytes())
    found = verify(storage, repair=True)
    assert found.repaired == [manifest_of(finished, "sample")]
    assert "outside of the folders" in found.damaged[manifest_of(finished, "sample")]
    assert outside.read_text() == "dear diary"


def test_leftovers_are_swept_when_nobody_can_be_writing_them(finished: Ended, storage: Storage) -> None:
    stream = record_of(finished, "sample").rsplit("/", 1)[0]
    old, new = (shard_path(stream.rsplit("/", 1)[1], "a" * 64) for _ in range(2))
    part = f"{stream}/.{old.rsplit('/', 1)[1]}.0123.part"
    models = [model_path("a" * 64, suffix) for suffix in ("pt", "arrow", "predictions.arrow", "png")]
    mine = [f"{stream}/notes.txt", "models/resnet50.pt"]
    for path in (old, new, part, *models, *mine):
        storage.replace(path, b"half")
    two_hours_ago = time.time() - 7200
    for path in (old, part, *models, *mine):
        os.utime(storage.locate(path), (two_hours_ago, two_hours_ago))
    found = verify(storage, repair=False)
    assert set(found.leftovers) == {old, part, *models}
    assert found.damaged == {}
    assert set(verify(storage, repair=True).repaired) == {old, part, *models}
    assert all(storage.exists(path) for path in (new, *mine))
    assert rerun_kinds(storage) == {}


def test_old_results_are_no_leftovers(finished: Ended, storage: Storage) -> None:
    long_ago = time.time() - 10 * 86400
    for file in storage.files("", deep=True):
        os.utime(storage.locate(file.path), (long_ago, long_ago))
    assert verify(storage, repair=True).repaired == []


def test_several_damages_are_found_at_once(finished: Ended, storage: Storage) -> None:
    damaged = {shard_of(finished, "sample", 1), shard_of(finished, "label"), manifest_of(finished, "score")}
    flip(storage, shard_of(finished, "sample", 1))
    storage.delete(shard_of(finished, "label"))
    storage.replace(manifest_of(finished, "score"), b"{")
    assert set(verify(storage, repair=True).damaged) == damaged
    assert rerun_kinds(storage) == {"sample": 1, "label": 1, "score": 1}
    assert {step.kind for step in finished.plan.steps.values()} == {
        "sample",
        "superpixels",
        "cluster",
        "label",
        "score",
    }


def test_a_network_that_is_not_committed_yet_is_no_leftover(storage: Storage) -> None:
    """Its driver died between the outcome and the commit: whoever runs the step next finds it."""
    job = make_job(storage, steps=1)
    train(job, Listener())
    outcome = read_outcome(storage, job.key)
    assert outcome is not None
    abandoned = model_path(job.key, "pt")
    storage.replace(abandoned, b"half")
    for file in storage.files("", deep=True):
        os.utime(storage.locate(file.path), (1.0, 1.0))
    assert verify(storage, repair=True).repaired == [abandoned]
    assert read_outcome(storage, job.key) == outcome
    flip(storage, outcome.files["network"].path)
    assert set(verify(storage, repair=True).repaired) == {outcome_path(job.key), outcome.files["network"].path}


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (state_path("ab" * 32), b"garbage"),
        (cluster_state_path("ab" * 32), b"garbage"),
        (outcome_path("ab" * 32), b"[]"),
        (stop_mark_path("ab" * 32), b'{"step": "all"}'),
        (history_path("ab" * 32), b"[1]"),
    ],
)
def test_what_a_killed_training_has_left_is_verified(storage: Storage, path: str, content: bytes) -> None:
    storage.replace(path, content)
    found = verify(storage, repair=True)
    assert list(found.damaged) == found.repaired == [path]
    assert found.damaged[path].startswith("cannot be read")


@pytest.mark.parametrize("damage", [flip, truncate])
def test_a_damaged_state_of_a_training_is_found(storage: Storage, damage: Any) -> None:
    job = make_job(storage)
    with pytest.raises(KilledError):
        train(job, Listener(2))
    assert verify(storage, repair=False).damaged == {}
    damage(storage, state_path(job.key))
    assert list(verify(storage, repair=False).damaged) == [state_path(job.key)]


@pytest.mark.parametrize(
    "path",
    [
        cluster_state_path("a" * 64),
        state_path("a" * 64),
        outcome_path("a" * 64),
        history_path("a" * 64),
        record_path("b" * 64, "c" * 64),
        listing_path("d" * 64),
        "inputs/seen/seen-0.arrow",
    ],
)
def test_what_a_run_deletes_after_it_was_listed_is_not_damaged(
    path: str, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.replace(path, b"half")
    assert set(verify(storage, repair=False).damaged) == {path}
    look = verification._look

    def late(storage: Storage, path: str) -> Any:
        storage.delete(path)
        return look(storage, path)

    monkeypatch.setattr(verification, "_look", late)
    assert verify(storage, repair=True).damaged == {}
