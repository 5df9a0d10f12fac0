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

from orchestrator.leases import Holder, Leases
from orchestrator.storage import Storage, StorageFullError

KEY = "ab" * 32
SILENCE = 0.3

HOLDING = """
import sys, time
from orchestrator.leases import Leases
from orchestrator.storage import Storage
leases = Leases(Storage(sys.argv[1]), 600.0)
print(leases.acquire(sys.argv[2]), flush=True)
time.sleep(600)
"""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


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


def write_lease(storage: Storage, seconds: float, beat: int = 1) -> None:
    content: dict[str, Any] = {"holder": vars(elsewhere()), "beat": beat, "seconds": seconds}
    storage.replace(f"leases/{KEY}/0.json", json.dumps(content).encode())


def lease_files(storage: Storage) -> list[str]:
    return [file.path.rsplit("/", 1)[1] for file in storage.files(f"leases/{KEY}")]


def test_a_lease_has_one_holder_until_it_is_given_back(run: Callable[..., Leases]) -> None:
    first, second = run(), run()
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


def test_closing_gives_everything_back(run: Callable[..., Leases], storage: Storage) -> None:
    first = run()
    assert all(first.acquire(key) for key in ("a", "b", "c"))
    first.close()
    assert list(storage.files("leases", deep=True)) == []


def test_of_many_that_want_a_free_lease_one_gets_it(run: Callable[..., Leases]) -> None:
    keys = [f"step {number}" for number in range(20)]
    wanting = [run() for _ in range(6)]
    start = threading.Barrier(len(wanting))

    def acquire(leases: Leases) -> list[bool]:
        start.wait()
        return [leases.acquire(key) for key in keys]

    with ThreadPoolExecutor(len(wanting)) as pool:
        got = list(pool.map(acquire, wanting))
    assert [sum(column) for column in zip(*got, strict=True)] == [1] * len(keys)


def test_a_killed_process_is_replaced_at_once(storage: Storage, run: Callable[..., Leases]) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
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
    assert replace(here, started=here.started + 1).is_known_dead()
    assert not elsewhere(process=2**30).is_known_dead()


def test_silence_is_measured_on_the_own_clock(storage: Storage, run: Callable[..., Leases]) -> None:
    write_lease(storage, SILENCE)
    # The file's time says that it is ancient; clocks of two machines may disagree by as much.
    os.utime(storage.locate(f"leases/{KEY}/0.json"), (1.0, 1.0))
    taker = run()
    assert not taker.acquire(KEY)
    assert not taker.acquire(KEY)
    time.sleep(SILENCE * 1.2)
    assert taker.acquire(KEY)
    assert lease_files(storage) == ["1.json"]


def test_a_beat_starts_the_silence_anew(storage: Storage, run: Callable[..., Leases]) -> None:
    write_lease(storage, SILENCE)
    taker = run()
    assert not taker.acquire(KEY)
    time.sleep(SILENCE * 1.2)
    write_lease(storage, SILENCE, beat=2)
    assert not taker.acquire(KEY)
    time.sleep(SILENCE * 1.2)
    assert taker.acquire(KEY)


def test_a_holder_that_beats_is_never_replaced(storage: Storage, run: Callable[..., Leases]) -> None:
    holder, taker = run(), run()
    assert holder.acquire(KEY)
    before = storage.read(f"leases/{KEY}/0.json")
    end = time.monotonic() + 3 * SILENCE
    while time.monotonic() < end:
        assert not taker.acquire(KEY)
        time.sleep(0.02)
    assert storage.read(f"leases/{KEY}/0.json") != before


def test_a_holder_that_beats_seldom_is_given_its_own_time(storage: Storage, run: Callable[..., Leases]) -> None:
    """compute.lease_seconds may differ between two runs on one storage."""
    write_lease(storage, seconds=600.0)
    hasty = run(0.05)
    assert not hasty.acquire(KEY)
    time.sleep(0.1)
    assert not hasty.acquire(KEY)


def test_of_many_that_take_over_one_wins(storage: Storage, run: Callable[..., Leases]) -> None:
    write_lease(storage, SILENCE)
    takers = [run() for _ in range(8)]
    assert not any(taker.acquire(KEY) for taker in takers)
    time.sleep(SILENCE * 1.2)
    start = threading.Barrier(len(takers))

    def take(leases: Leases) -> bool:
        start.wait()
        return leases.acquire(KEY)

    with ThreadPoolExecutor(len(takers)) as pool:
        won = list(pool.map(take, takers))
    assert sum(won) == 1
    time.sleep(SILENCE)
    assert not any(taker.acquire(KEY) for taker, winner in zip(takers, won, strict=True) if not winner)


class InterruptedStorage(Storage):
    """A storage on which something happens between a listing and the read after it."""

    meanwhile: Callable[[], Any] | None = None

    def read(self, path: str) -> bytes:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        return super().read(path)


def test_a_lease_taken_over_while_it_is_looked_at_is_not_free(storage: Storage, run: Callable[..., Leases]) -> None:
    write_lease(storage, SILENCE)
    quick = run()
    assert not quick.acquire(KEY)
    time.sleep(SILENCE * 1.2)
    interrupted = InterruptedStorage(storage.uri)
    slow = run(SILENCE, interrupted)
    interrupted.meanwhile = lambda: quick.acquire(KEY)
    assert not slow.acquire(KEY)
    assert lease_files(storage) == ["1.json"]


def test_a_lease_given_back_while_it_is_looked_at_is_free(storage: Storage, run: Callable[..., Leases]) -> None:
    holder = run()
    assert holder.acquire(KEY)
    interrupted = InterruptedStorage(storage.uri)
    interrupted.meanwhile = lambda: holder.release(KEY)
    assert run(SILENCE, interrupted).acquire(KEY)


class FullStorage(Storage):
    """A storage that has no room for the first three beats."""

    refused = 0

    def replace(self, path: str, data: Any) -> None:
        if self.refused < 3:
            self.refused += 1
            raise StorageFullError("no room left")
        super().replace(path, data)


def test_the_heartbeat_outlives_a_full_storage(storage: Storage, run: Callable[..., Leases]) -> None:
    full = FullStorage(storage.uri)
    holder = run(SILENCE, full)
    assert holder.acquire(KEY)
    before = storage.read(f"leases/{KEY}/0.json")
    deadline = time.monotonic() + 5
    while storage.read(f"leases/{KEY}/0.json") == before:
        assert time.monotonic() < deadline, "no beat was written after the storage had room again"
        time.sleep(0.02)
    assert full.refused == 3
