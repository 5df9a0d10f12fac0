"""Leases: one holder at a time, the dead are replaced at once or after silence, and the living never."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger.layout import lease_folder, lease_path
from orchestrator.ledger.leases import Holder, LeaseLostError, Leases
from orchestrator.storage.store import Storage, StorageFullError, StorageUnavailableError

KEY = "ab" * 32
SILENCE = 0.3

HOLDING = """
import sys, time
from orchestrator.ledger.layout import lease_folder, lease_path
from orchestrator.ledger.leases import Leases
from orchestrator.storage.store import Storage
leases = Leases(Storage(sys.argv[1]), 600.0)
print(leases.acquire(sys.argv[2]), flush=True)
time.sleep(600)
"""


@pytest.fixture
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A folder, unless the test asks for another kind: time is the same on all of them, deciding is not."""
    kind = getattr(request, "param", "path")
    return Storage(str(tmp_path)) if kind == "path" else Storage(f"s3://{request.getfixturevalue('bucket')}")


on_all_storages = pytest.mark.parametrize("storage", ["path", "s3"], indirect=True)


@pytest.fixture
def run(storage: Storage) -> Iterator[Callable[..., Leases]]:
    """Makes the leases of a run; they are closed at the end."""
    made = []

    def make(seconds: float = SILENCE, where: Storage = storage) -> Leases:
        made.append(Leases(where, seconds))
        return made[-1]

    yield make
    for leases in made:
        leases.close()


def elsewhere(process: int = 1) -> Holder:
    """A process on another machine, of which nothing can be known but what it writes."""
    return Holder("elsewhere", process, 1, "another boot")


def killed() -> Holder:
    """A process of this machine that is gone."""
    return replace(Holder.here(), started=Holder.here().started + 1)


def write_lease(storage: Storage, seconds: float, beat: int = 1, holder: Holder | None = None) -> None:
    content: dict[str, Any] = {"holder": vars(holder or elsewhere()), "beat": beat, "seconds": seconds}
    storage.replace(lease_path(KEY, 0), json.dumps(content).encode())


def lease_files(storage: Storage) -> list[str]:
    return [file.path.rsplit("/", 1)[1] for file in storage.files(lease_folder(KEY))]


def wait_for(leases: Leases) -> bool:
    """Acquire a lease whose silence is over; on a busy machine a slow look makes the silence start anew."""
    deadline = time.monotonic() + 10
    while not leases.acquire(KEY):
        assert time.monotonic() < deadline, "a silent lease was not taken over"
        time.sleep(SILENCE / 4)
    return True


@on_all_storages
def test_a_lease_has_one_holder_until_it_is_given_back(run: Callable[..., Leases]) -> None:
    first, second = run(600.0), run(600.0)
    assert first.holder_of(KEY) is None
    assert first.acquire(KEY)
    assert first.acquire(KEY)
    assert not second.acquire(KEY)
    assert second.acquire("another step")
    second.release(KEY)
    assert second.holder_of(KEY) == Holder.here()
    first.release(KEY)
    assert first.holder_of(KEY) is None
    assert second.acquire(KEY)


@on_all_storages
def test_closing_gives_everything_back(run: Callable[..., Leases], storage: Storage) -> None:
    first = run()
    assert all(first.acquire(key) for key in ("a", "b", "c"))
    first.close()
    assert list(storage.files("leases", deep=True)) == []


@on_all_storages
def test_of_many_that_want_a_free_lease_one_gets_it(run: Callable[..., Leases]) -> None:
    keys = [f"step {number}" for number in range(10)]
    wanting = [run(600.0) for _ in range(6)]
    start = threading.Barrier(len(wanting), timeout=60)

    def acquire(leases: Leases) -> list[bool]:
        start.wait()
        return [leases.acquire(key) for key in keys]

    with ThreadPoolExecutor(len(wanting)) as pool:
        got = list(pool.map(acquire, wanting))
    assert [sum(column) for column in zip(*got, strict=True)] == [1] * len(keys)


def test_a_killed_process_is_replaced_at_once(storage: Storage, run: Callable[..., Leases]) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    command = [sys.executable, "-c", HOLDING, storage.uri, KEY]
    holding = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert holding.stdout is not None
        assert holding.stdout.readline() == "True\n"
        taker = run(600.0)
        holder = taker.holder_of(KEY)
        assert holder is not None
        assert holder.process == holding.pid
        assert not taker.acquire(KEY)
        holding.kill()
        # Nobody has waited for the process yet: while it is a zombie it is as dead as it will ever be.
        deadline = time.monotonic() + 5
        while not taker.acquire(KEY):
            assert time.monotonic() < deadline, "the lease of a killed process was not taken over within seconds"
            time.sleep(0.01)
        assert lease_files(storage) == ["1.json"]
        assert taker.holder_of(KEY) == Holder.here()
    finally:
        holding.kill()
        holding.communicate()


def test_another_process_of_the_same_number_is_not_the_holder() -> None:
    here = Holder.here()
    assert not here.is_known_dead()
    assert killed().is_known_dead()
    assert not elsewhere(process=2**30).is_known_dead()


def test_silence_is_measured_on_the_own_clock(storage: Storage, run: Callable[..., Leases]) -> None:
    write_lease(storage, SILENCE)
    # The file's time says that it is ancient; clocks of two machines may disagree by as much.
    os.utime(storage.locate(lease_path(KEY, 0)), (1.0, 1.0))
    taker = run()
    assert not taker.acquire(KEY)
    assert not taker.acquire(KEY)
    time.sleep(SILENCE * 1.2)
    assert wait_for(taker)
    assert lease_files(storage) == ["1.json"]


def test_a_beat_starts_the_silence_anew(storage: Storage, run: Callable[..., Leases]) -> None:
    write_lease(storage, SILENCE)
    taker = run()
    assert not taker.acquire(KEY)
    time.sleep(SILENCE * 1.2)
    write_lease(storage, SILENCE, beat=2)
    assert not taker.acquire(KEY)
    time.sleep(SILENCE * 1.2)
    assert wait_for(taker)


def test_a_holder_that_beats_is_never_replaced(storage: Storage, run: Callable[..., Leases]) -> None:
    holder, taker = run(), run()
    assert holder.acquire(KEY)
    before = storage.read(lease_path(KEY, 0))
    end = time.monotonic() + 3 * SILENCE
    while time.monotonic() < end:
        assert not taker.acquire(KEY)
        time.sleep(0.02)
    assert storage.read(lease_path(KEY, 0)) != before


def test_a_holder_that_beats_seldom_is_given_its_own_time(storage: Storage, run: Callable[..., Leases]) -> None:
    """compute.lease_seconds may differ between two runs on one storage."""
    write_lease(storage, seconds=600.0)
    hasty = run(0.05)
    assert not hasty.acquire(KEY)
    time.sleep(0.1)
    assert not hasty.acquire(KEY)


@on_all_storages
def test_of_many_that_take_over_one_wins(storage: Storage, run: Callable[..., Leases]) -> None:
    write_lease(storage, 600.0, holder=killed())
    takers = [run(600.0) for _ in range(8)]
    start = threading.Barrier(len(takers), timeout=60)

    def take(leases: Leases) -> bool:
        start.wait()
        return leases.acquire(KEY)

    with ThreadPoolExecutor(len(takers)) as pool:
        won = list(pool.map(take, takers))
    assert sum(won) == 1
    assert lease_files(storage) == ["1.json"]
    assert not any(taker.acquire(KEY) for taker, winner in zip(takers, won, strict=True) if not winner)


class InterruptedStorage(Storage):
    """A storage on which something happens between a listing and the read after it, or before a creation."""

    meanwhile: Callable[[], Any] | None = None
    before_creation: Callable[[], Any] | None = None

    def read(self, path: str) -> bytes:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        return super().read(path)

    def create(self, path: str, data: bytes) -> bool:
        meanwhile, self.before_creation = self.before_creation, None
        if meanwhile:
            meanwhile()
        return super().create(path, data)


def test_a_lease_taken_over_while_it_is_looked_at_is_not_free(storage: Storage, run: Callable[..., Leases]) -> None:
    write_lease(storage, SILENCE)
    quick = run()
    assert not quick.acquire(KEY)
    time.sleep(SILENCE * 1.2)
    interrupted = InterruptedStorage(storage.uri)
    slow = run(SILENCE, interrupted)
    interrupted.meanwhile = lambda: wait_for(quick)
    assert not slow.acquire(KEY)
    assert lease_files(storage) == ["1.json"]


def test_a_lease_given_back_while_it_is_looked_at_is_free(storage: Storage, run: Callable[..., Leases]) -> None:
    holder = run()
    assert holder.acquire(KEY)
    interrupted = InterruptedStorage(storage.uri)
    interrupted.meanwhile = lambda: holder.release(KEY)
    assert run(SILENCE, interrupted).acquire(KEY)


@on_all_storages
def test_an_observer_that_acts_on_what_it_saw_long_ago_gives_way(storage: Storage, run: Callable[..., Leases]) -> None:
    """Between its look and its act the dead lease is taken over, given back, and taken anew under the same number."""
    write_lease(storage, 600.0, holder=killed())
    interrupted = InterruptedStorage(storage.uri)
    slow, quick, third = run(600.0, interrupted), run(600.0), run(600.0)

    def meanwhile() -> None:
        assert quick.acquire(KEY)
        quick.release(KEY)
        assert third.acquire(KEY)
        assert lease_files(storage) == ["0.json"]

    interrupted.before_creation = meanwhile
    assert not slow.acquire(KEY)
    assert lease_files(storage) == ["0.json"]
    third.release(KEY)
    assert slow.acquire(KEY)


def test_who_was_silent_for_too_long_learns_that_it_was_replaced(storage: Storage, run: Callable[..., Leases]) -> None:
    stalled, taker = run(600.0), run(600.0)
    assert stalled.acquire(KEY)
    storage.delete(lease_path(KEY, 0))
    assert taker.acquire(KEY)
    stalled._beat(KEY)
    stalled.release(KEY)
    assert taker.acquire(KEY)
    assert [json.loads(storage.read(file.path))["run"] for file in storage.files(lease_folder(KEY))] == [taker._run]
    assert not stalled.acquire(KEY)


class SlowStorage(Storage):
    """A storage that does not answer for a while before each listing."""

    seconds = 0.0

    def files(self, directory: str, *, deep: bool = False) -> Any:
        time.sleep(self.seconds)
        return super().files(directory, deep=deep)


def test_while_the_storage_was_away_nobody_was_silent(storage: Storage, run: Callable[..., Leases]) -> None:
    """The holder could not beat either; it is given its time from when the storage is back."""
    write_lease(storage, SILENCE)
    slow = SlowStorage(storage.uri)
    observer = run(SILENCE, slow)
    assert not observer.acquire(KEY)
    slow.seconds = SILENCE * 1.2
    assert not observer.acquire(KEY)
    slow.seconds = 0.0
    assert not observer.acquire(KEY)
    time.sleep(SILENCE * 1.2)
    assert wait_for(observer)


def test_an_outage_that_a_look_at_one_lease_met_is_silence_of_no_other(
    storage: Storage, run: Callable[..., Leases]
) -> None:
    other = "cd" * 32
    write_lease(storage, SILENCE)
    storage.replace(lease_path(other, 0), storage.read(lease_path(KEY, 0)))
    slow = SlowStorage(storage.uri)
    observer = run(SILENCE, slow)
    observer.watch([KEY, other])
    slow.seconds = SILENCE * 1.2
    assert not observer.acquire(KEY)
    slow.seconds = 0.0
    assert not observer.acquire(other)


def test_a_lease_that_a_power_cut_left_empty_is_silent(storage: Storage, run: Callable[..., Leases]) -> None:
    storage.replace(lease_path(KEY, 0), b"")
    taker = run()
    assert taker.holder_of(KEY) is None
    assert not taker.acquire(KEY)
    time.sleep(SILENCE * 1.2)
    assert wait_for(taker)
    assert lease_files(storage) == ["1.json"]


class FullStorage(Storage):
    """A storage that has no room for the first three beats."""

    refused = 0

    def update(self, path: str, change: Any) -> bool:
        if self.refused < 3:
            self.refused += 1
            raise StorageFullError("no room left")
        return super().update(path, change)


def test_the_heartbeat_outlives_a_full_storage(storage: Storage, run: Callable[..., Leases]) -> None:
    full = FullStorage(storage.uri)
    holder = run(SILENCE, full)
    assert holder.acquire(KEY)
    before = storage.read(lease_path(KEY, 0))
    deadline = time.monotonic() + 5
    while storage.read(lease_path(KEY, 0)) == before:
        assert time.monotonic() < deadline, "no beat was written after the storage had room again"
        time.sleep(0.02)
    assert full.refused == 3


@on_all_storages
def test_a_run_that_was_stopped_while_it_beat_brings_nothing_back(storage: Storage, run: Callable[..., Leases]) -> None:
    """SIGSTOP between looking at its lease and writing it: meanwhile another run took over, and was done."""
    stopped, taker = run(600.0), run(SILENCE)
    assert stopped.acquire(KEY)

    def takes_over_meanwhile(path: str, change: Callable[[bytes], bytes | None]) -> bool:
        def late(found: bytes) -> bytes | None:
            changed = change(found)
            storage.delete(lease_path(KEY, 0))
            assert taker.acquire(KEY)
            taker.release(KEY)
            return changed

        return storage.update(path, late)

    stopped.storage = StoppedStorage(storage.uri, takes_over_meanwhile)
    stopped._beat(KEY)
    assert lease_files(storage) == []
    stopped.storage = storage
    if stopped.holds(KEY):
        # On a path it learns one beat later.
        stopped._beat(KEY)
    assert not stopped.holds(KEY)
    assert lease_files(storage) == []


class StoppedStorage(Storage):
    """A storage on which something happens in the middle of an update."""

    def __init__(self, uri: str, update: Callable[..., bool]) -> None:
        super().__init__(uri)
        self.update = update  # type: ignore[method-assign]


@on_all_storages
def test_the_fence_of_work_falls_with_its_lease(storage: Storage, run: Callable[..., Leases]) -> None:
    zombie = run(600.0)
    assert zombie.acquire(KEY)
    fence = zombie.fence(KEY)
    fence.require()
    storage.delete(lease_path(KEY, 0))
    with pytest.raises(LeaseLostError):
        fence.require()
    # The same generation again, and not the same lease.
    taker = run(600.0)
    assert taker.acquire(KEY)
    with pytest.raises(LeaseLostError):
        fence.require()
    zombie.release(KEY)
    taker.fence(KEY).require()


@pytest.mark.parametrize("seconds", ["Infinity", "NaN", "1e300", "-1", '"60"', "[]"])
def test_a_lease_that_claims_to_live_for_ever_does_not(
    storage: Storage, run: Callable[..., Leases], seconds: str
) -> None:
    write_lease(storage, 60.0)
    text = storage.read(lease_path(KEY, 0)).decode().replace("60.0", seconds)
    storage.replace(lease_path(KEY, 0), text.encode())
    taker = run()
    assert not taker.acquire(KEY)
    time.sleep(SILENCE * 1.2)
    assert wait_for(taker)


def test_a_living_process_that_may_not_be_looked_at_is_not_known_to_be_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hidepid, /proc speaks of no process of another user."""
    monkeypatch.setattr("orchestrator.ledger.leases._start_time", lambda process: None)
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = replace(Holder.here(), process=living.pid)
    assert not holder.is_known_dead()
    living.communicate(b"\n")
    assert holder.is_known_dead()


class LostStorage(Storage):
    """A storage that goes away for good; each call waits for it in vain."""

    away = False
    waited = 0

    def find(self, path: str) -> bytes | None:
        if self.away:
            self.waited += 1
            raise StorageUnavailableError("no answer")
        return super().find(path)


def test_closing_while_the_storage_is_away_waits_once_and_not_for_every_lease(
    storage: Storage, run: Callable[..., Leases], caplog: pytest.LogCaptureFixture
) -> None:
    lost = LostStorage(storage.uri)
    holder = run(600.0, lost)
    assert all(holder.acquire(f"step {number}") for number in range(5))
    lost.away = True
    holder.close()
    assert lost.waited == 1
    assert "5 leases are left" in caplog.text


@on_all_storages
def test_what_the_dead_leave_of_steps_that_are_done_is_swept_and_what_the_living_hold_is_not(
    storage: Storage, run: Callable[..., Leases]
) -> None:
    done, pending, living, held = ("ab" * 32, "cd" * 32, "ef" * 32, "01" * 32)
    other, ours = run(600.0), run(600.0)
    assert other.acquire(living) and ours.acquire(held)
    for key in (done, pending):
        storage.replace(lease_path(key, 3), json.dumps({"holder": vars(killed()), "beat": 1, "seconds": 600}).encode())
    ours.sweep([done, living, held])
    assert ours.leased([done, pending, living, held]) == {pending, living, held}


def test_a_holder_on_another_machine_is_swept_after_its_silence(storage: Storage, run: Callable[..., Leases]) -> None:
    leases = run()
    write_lease(storage, 600.0)
    leases.watch([KEY])
    leases.sweep([KEY])
    assert lease_files(storage)
    write_lease(storage, SILENCE, beat=2)
    leases.watch([KEY])
    deadline = time.monotonic() + 10
    while lease_files(storage):
        assert time.monotonic() < deadline, "a silent lease was not swept"
        time.sleep(SILENCE / 4)
        leases.sweep([KEY])


def test_a_storage_that_does_not_answer_keeps_them(
    storage: Storage, run: Callable[..., Leases], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: Any, **options: Any) -> Any:
        raise StorageUnavailableError("away")

    write_lease(storage, SILENCE, holder=killed())
    leases = run()
    with monkeypatch.context() as outage:
        outage.setattr(Storage, "delete", away)
        leases.sweep([KEY])
    assert lease_files(storage)
