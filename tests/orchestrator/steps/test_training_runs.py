"""A training job on one worker, without Ray: what it keeps, how it goes on, and what it says when it cannot."""

import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.command_line import mounted
from support.trainings import STEPS, KilledError, Listener, assert_equal, make_job, run

from orchestrator.ledger.documents import write_document
from orchestrator.ledger.layout import history_path, lease_path, outcome_path, state_path
from orchestrator.ledger.leases import LeaseLostError, Leases
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.training_states import forget_outcome, leave_outcome, read_history, read_outcome
from orchestrator.steps.training import DistributedContext, TrainingJob
from orchestrator.steps.training_runs import train
from orchestrator.steps.true_labels import TrueLabels
from orchestrator.storage.store import Storage, StorageFullError
from workloads.errors import InputError
from workloads.training.batches import Sample
from workloads.training.collectives import SingleProcess
from workloads.training.decoded import DecodedCache
from workloads.training.loop import LossNotFiniteError, Machine, StepReport

STATE_BYTES = 18_000_000


def kept_state(job: TrainingJob) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(job.storage.read(state_path(job.key))), weights_only=True)
    return state


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return run(make_job(Storage(str(tmp_path_factory.mktemp("undisturbed")))), Listener())


def test_a_balanced_fine_tuning_weighs_the_classes_of_its_own_labelled_images(storage: Storage) -> None:
    job = make_job(storage, class_balance="log_inverse", number=2)
    loop = job.build(DistributedContext(Machine(), SingleProcess(), None))
    assert len(loop.source.ids) == 2
    truth = [job.source.open().read_ground_truth("train", image_id) for image_id in loop.source.ids]
    pixels = np.concatenate([labels.ravel() for labels in truth])
    known = pixels[pixels != 255]
    expected = [1 / np.log(1.02 + np.mean(known == number)) for number in range(job.num_classes)]
    np.testing.assert_allclose(loop.objective.class_weights, expected, rtol=1e-5)
    plain = make_job(storage, number=2).build(DistributedContext(Machine(), SingleProcess(), None))
    assert plain.objective.class_weights is None


class OneOfTwo(SingleProcess):
    """Keeps what it is asked to add to the other's."""

    size = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.added: list[torch.Tensor] = []

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        self.added.append(tensor)
        return tensor


def test_workers_share_the_counting_of_classes(storage: Storage) -> None:
    job = make_job(storage, class_balance="log_inverse", number=5)
    both = OneOfTwo(0), OneOfTwo(1)
    for one in both:
        loop = job.build(DistributedContext(Machine(), one, None))
    (first,), (second,) = (one.added for one in both)
    truth = [job.source.open().read_ground_truth("train", image_id) for image_id in loop.source.ids]
    pixels = [sum(int((labels == number).sum()) for labels in truth) for number in range(len(first))]
    assert (first + second).tolist() == pixels
    assert 0 < first.sum() < sum(pixels)


def test_a_training_is_charged_its_steps_and_its_evaluation_once_though_it_was_cut_off(storage: Storage) -> None:
    job = make_job(storage)
    with pytest.raises(KilledError):
        run(job, Listener(3))
    begun = time.perf_counter()
    outcome = train(job, DistributedContext(Machine(), SingleProcess(), None), Listener(), 0.0)
    rest = time.perf_counter() - begun
    assert outcome is not None
    history = read_history(storage, job.key)
    # One report a step, of four images each.
    steps = [4 / row["images_per_second"] for row in history]
    network, predictions = outcome.files["network"], outcome.files["predictions"]
    cores = torch.get_num_threads()
    assert [row["step"] for row in history] == [1, 2, 3, 4, 5]
    assert sum(steps) * cores < network.seconds < (sum(steps[:3]) + rest) * cores + 0.01
    assert predictions.seconds == 0.0


@pytest.mark.parametrize("last", [1, 3])
def test_a_run_that_was_cut_off_goes_on_with_the_same_bits(
    last: int, storage: Storage, undisturbed: dict[str, torch.Tensor]
) -> None:
    job = make_job(storage)
    with pytest.raises(KilledError):
        run(job, Listener(last))
    again = Listener()
    assert_equal(run(job, again), undisturbed)
    assert again.steps == list(range(last + 1, STEPS + 1)), "steps that were done are not done again"
    assert [row["step"] for row in read_history(storage, job.key)] == list(range(1, STEPS + 1))
    assert not storage.exists(state_path(job.key)), "nothing is left to go on from"


def test_decoded_images_that_are_kept_change_no_bit(
    storage: Storage, undisturbed: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    load = TrueLabels.load

    def counted(images: TrueLabels, image_id: str) -> Sample:
        if images.source.pool == "train":
            decoded.append(image_id)
        return load(images, image_id)

    monkeypatch.setattr(TrueLabels, "load", counted)
    assert_equal(run(make_job(storage), Listener(), cache=DecodedCache(1.0)), undisturbed)
    assert len(decoded) == len(set(decoded)) == 8


def test_without_a_state_yet_the_run_starts_anew(storage: Storage, undisturbed: dict[str, torch.Tensor]) -> None:
    job = make_job(storage)
    with pytest.raises(KilledError):
        run(job, Listener(3), checkpoint_seconds=3600)
    assert_equal(run(job, Listener()), undisturbed)
    assert [row["step"] for row in read_history(storage, job.key)] == list(range(1, STEPS + 1))


def test_an_outcome_stands_until_the_step_is_declared_finished(storage: Storage) -> None:
    job = make_job(storage, steps=1)
    assert read_outcome(storage, job.key) is None
    run(job, Listener())
    left = read_outcome(storage, job.key)
    assert left is not None
    assert left.results[job.key]["images_trained"] == 4
    storage.delete(left.files["network"].path)
    assert read_outcome(storage, job.key) is None, "a model that is gone is no outcome"
    forget_outcome(storage, job.key)
    assert read_outcome(storage, job.key) is None


def test_a_loss_that_is_not_finite_stops_before_it_spoils_the_state(storage: Storage) -> None:
    job = make_job(storage, optimiser={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(LossNotFiniteError) as stopped:
        run(job, Listener())
    error = stopped.value
    assert isinstance(error, InputError)
    assert error.step >= 1
    assert len(error.image_ids) == 4
    assert f"at step {error.step}; images of the batch: {', '.join(error.image_ids)}" in str(error)
    assert kept_state(job)["step"] == error.step, "the state from before the step is still there"


def saved(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def without_classifier(state: dict[str, Any]) -> dict[str, Any]:
    kept = {name: tensor for name, tensor in state["objective"].items() if "classifier" not in name}
    return state | {"objective": kept}


@pytest.fixture(scope="module")
def third_state(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What is kept of the training when it is killed after its third step."""
    job = make_job(Storage(str(tmp_path_factory.mktemp("third"))))
    with pytest.raises(KilledError):
        run(job, Listener(3))
    return job.storage.read(state_path(job.key))


def loaded(state: bytes) -> dict[str, Any]:
    members: dict[str, Any] = torch.load(io.BytesIO(state), weights_only=True)
    return members


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: b"",
        lambda state: b"garbage",
        lambda state: state[:-1000],
        lambda state: saved([1]),
        lambda state: saved({"format": 3}),
        lambda state: saved(loaded(state) | {"step": 10**9}),
        lambda state: saved(loaded(state) | {"step": -1}),
        lambda state: saved(loaded(state) | {"optimiser": None}),
    ],
)
def test_a_damaged_state_is_taken_for_absent_with_a_note(
    storage: Storage, third_state: bytes, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    job = make_job(storage)
    storage.replace(state_path(job.key), damage(third_state))
    again = Listener(1)
    with pytest.raises(KilledError):
        run(job, again)
    assert again.steps == [1]
    assert f"{state_path(job.key)} is damaged" in caplog.text


def test_a_state_with_a_changed_bit_is_not_trained_on(
    storage: Storage, third_state: bytes, undisturbed: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    """torch loads it without a word."""
    changed = bytearray(third_state)
    place = changed.index(b"data/0") + 200
    changed[place] ^= 1
    assert loaded(bytes(changed)).keys() == loaded(third_state).keys()
    job = make_job(storage)
    storage.replace(state_path(job.key), bytes(changed))
    again = Listener()
    assert_equal(run(job, again), undisturbed)
    assert again.steps[0] == 1
    assert f"{state_path(job.key)} is damaged" in caplog.text


def test_nothing_stays_of_a_state_that_was_half_taken_over_when_it_was_found_damaged(
    storage: Storage, third_state: bytes, undisturbed: dict[str, torch.Tensor]
) -> None:
    job = make_job(storage)
    storage.replace(state_path(job.key), saved(without_classifier(loaded(third_state))))
    again = Listener()
    assert_equal(run(job, again), undisturbed)
    assert again.steps[0] == 1


@pytest.mark.parametrize(
    "history",
    [
        b"",
        b"[1]",
        b"{}",
        b'[{"step": 1}]',
        write_document({"rows": [{"step": "1", "total_steps": 5, "loss": 1, "images_per_second": 1}]}),
        write_document({"rows": [{"step": 1, "total_steps": 5, "loss": 1, "images_per_second": 0}]}),
        # A digit that has changed is in the results else.
        write_document({"rows": [{"step": 1, "total_steps": 5, "loss": 1.5, "images_per_second": 1}]}).replace(
            b"1.5", b"2.5"
        ),
    ],
)
def test_a_damaged_history_is_taken_for_absent_with_a_note(
    storage: Storage, third_state: bytes, caplog: pytest.LogCaptureFixture, history: bytes
) -> None:
    job = make_job(storage)
    storage.replace(state_path(job.key), third_state)
    storage.replace(history_path(job.key), history)
    with pytest.raises(KilledError):
        run(job, Listener(4))
    assert [row["step"] for row in read_history(storage, job.key)] == [4]
    assert f"{history_path(job.key)} is damaged" in caplog.text


@pytest.mark.parametrize("outcome", [b"", b"[]", b"{}", b'{"files": {}, "results": {}, "device": "cpu"}'])
def test_an_outcome_that_names_no_network_is_none(
    storage: Storage, caplog: pytest.LogCaptureFixture, outcome: bytes
) -> None:
    job = make_job(storage, steps=1)
    storage.replace(outcome_path(job.key), outcome)
    assert read_outcome(storage, job.key) is None
    leave_outcome(storage, job.key, Outcome(results={job.key: {"miou": 99.0}}))
    assert read_outcome(storage, job.key) is None
    assert caplog.text.count("is damaged") == 2


def test_a_full_disk_gives_one_message_and_leaves_the_last_state(
    tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    folder = tmp_path / "disk"
    # Room for one state, and not for the next one beside it, which takes its place.
    unmount = mounted(folder, f"size={STATE_BYTES * 3 // 2}")
    try:
        job = make_job(Storage(str(folder)))
        with pytest.raises(StorageFullError, match=r"storage .*disk is full: no room for \d+ bytes of checkpoints/"):
            run(job, Listener())
        state = job.storage.read(state_path(job.key))
        assert kept_state(job)["step"] == 1
        assert [path.name for path in folder.rglob("*.part")] == []
        elsewhere = Storage(str(tmp_path / "elsewhere"))
        moved = make_job(elsewhere)
        elsewhere.replace(state_path(moved.key), state)
        assert_equal(run(moved, Listener()), undisturbed)
    finally:
        unmount()


def test_a_training_that_another_run_has_taken_over_ends_and_writes_nothing_more(
    storage: Storage, undisturbed: dict[str, torch.Tensor]
) -> None:
    """Its run was stopped for longer than a lease lives, and goes on; its workers had never been stopped."""
    zombie, taker = Leases(storage, 600.0), Leases(storage, 600.0)
    job = make_job(storage)
    try:
        assert zombie.acquire(job.key)
        fenced = replace(job, fence=zombie.fence(job.key))
        kept: dict[str, bytes] = {}

        class TakenOver(Listener):
            def __call__(self, report: StepReport) -> bool:
                if report.step == 2:
                    storage.delete(lease_path(job.key, 0))
                    assert taker.acquire(job.key)
                    kept.update({file.path: storage.read(file.path) for file in storage.files("", deep=True)})
                return super().__call__(report)

        with pytest.raises(LeaseLostError, match="another run took over"):
            run(fenced, TakenOver())
        assert {file.path: storage.read(file.path) for file in storage.files("", deep=True)} == kept
        assert read_outcome(storage, job.key) is None
        with pytest.raises(LeaseLostError):
            run(fenced, Listener())
        assert_equal(run(replace(job, fence=taker.fence(job.key)), Listener()), undisturbed)
    finally:
        zombie.close()
        taker.close()


def test_scoring_on_the_way_is_in_the_results_and_changes_no_weight(
    storage: Storage, undisturbed: dict[str, torch.Tensor]
) -> None:
    job = make_job(storage, scores_at=[0.4])
    assert job.key != make_job(storage).key
    assert_equal(run(job, Listener()), undisturbed)
    scored = {row["step"]: row["miou_at_0.4"] for row in read_history(storage, job.key) if "miou_at_0.4" in row}
    outcome = read_outcome(storage, job.key)
    assert outcome is not None
    assert scored == {2: outcome.results[job.key]["miou_at_0.4"]}
    early = job.build(DistributedContext(Machine(), SingleProcess(), None))
    list(early.run(until=2))
    assert job.score_at(early, 0.4) == {"miou_at_0.4": scored[2]}
