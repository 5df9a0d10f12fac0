"""Fault points: seeded, counted over all processes, capped over all restarts, and nothing at all when not asked for."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.storage.faults import FOLDER, VARIABLE, kill_point, parse
from orchestrator.storage.store import Storage, StorageFullError, faults
from workloads import storage_retries as retrying
from workloads.errors import InputError
from workloads.storage_retries import RetryPolicy

PASSING = """
import sys
from orchestrator.storage.faults import kill_point
for number in range(int(sys.argv[1])):
    kill_point("worker.kill", f"job {number}")
print("alive")
"""


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Asks for faults in this process and those it starts; gives the folder in which they are counted."""
    folder = tmp_path / "faults"

    def asked(text: str) -> Path:
        monkeypatch.setenv(VARIABLE, text)
        monkeypatch.setenv(FOLDER, str(folder))
        faults.asked_for.cache_clear()
        return folder

    yield asked
    faults.asked_for.cache_clear()


def passing(count: int) -> "subprocess.CompletedProcess[str]":
    """A process that passes a point so many times."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    command = [sys.executable, "-c", PASSING, str(count)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def failed(folder: Path, point: str) -> list[int]:
    return [failure["passage"] for failure in faults.failures(folder, point)]


def test_nothing_is_counted_when_nothing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv(FOLDER, str(tmp_path / "faults"))
    faults.asked_for.cache_clear()
    kill_point("worker.kill", "job")
    Storage(str(tmp_path / "storage")).replace("a", b"one")
    assert not (tmp_path / "faults").exists()


def test_a_process_is_killed_where_the_seed_says_and_a_restart_goes_on_from_there(ask: Callable[[str], Path]) -> None:
    folder = ask("worker.kill:rate=0.3,cap=2,seed=5")
    ended = [passing(20) for _ in range(3)]
    assert [process.returncode for process in ended] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert ended[2].stdout == "alive\n"
    first = failed(folder, "worker.kill")
    assert len(set(first)) == 2
    for path in folder.iterdir():
        path.unlink()
    for _ in range(2):
        passing(20)
    assert failed(folder, "worker.kill") == first


def test_a_storage_that_fails_now_and_then_is_asked_again(
    ask: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "POLICY", RetryPolicy(seconds=30, first_pause=0.001, longest_pause=0.001))
    folder = ask("storage.write:rate=0.5,cap=5,seed=1;storage.read:rate=0.5,cap=5,seed=1")
    storage = Storage(str(tmp_path / "storage"))
    for number in range(20):
        storage.replace(str(number), str(number).encode())
    assert [storage.read(str(number)) for number in range(20)] == [str(number).encode() for number in range(20)]
    assert len(failed(folder, "storage.write")) == len(failed(folder, "storage.read")) == 5


def test_a_storage_without_room_says_so_and_has_room_again(ask: Callable[[str], Path], tmp_path: Path) -> None:
    ask("storage.full:cap=1")
    storage = Storage(str(tmp_path / "storage"))
    with pytest.raises(StorageFullError, match="is full: no room for 3 bytes of a"):
        storage.replace("a", b"one")
    storage.replace("a", b"one")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("storage.rite", "'storage.rite' is not a fault point; allowed: storage.read,"),
        ("worker.kill:tempo=3", "worker.kill has no setting 'tempo'; allowed: rate, cap, seed"),
        ("worker.kill:rate=often", "worker.kill: rate=often is not a number"),
        ("worker.kill:rate=2", "worker.kill: allowed are 0 < rate <= 1 and cap >= 1"),
    ],
)
def test_what_cannot_be_asked_for_is_named(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        parse(text, str(tmp_path))
    with pytest.raises(InputError, match=FOLDER):
        parse(text, "")


def test_a_point_of_one_folder_strikes_there_alone(ask: Callable[[str], Path], tmp_path: Path) -> None:
    folder = ask("storage.full@models:rate=1")
    storage = Storage(str(tmp_path / "storage"))
    storage.replace("shards/a", b"one")
    with pytest.raises(StorageFullError, match="no room for 3 bytes of models/a"):
        storage.replace("models/a", b"one")
    assert failed(folder, "storage.full@models") == [0]
    with pytest.raises(InputError, match=r"'worker\.kill@models' is not a fault point"):
        parse("worker.kill@models:rate=1", "folder")


def test_a_process_that_is_stopped_goes_on_when_it_is_told(ask: Callable[[str], Path]) -> None:
    folder = ask("worker.stop:rate=1,cap=1")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    with subprocess.Popen([sys.executable, "-c", PASSING, "3"], env=environment, stdout=subprocess.PIPE) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert [failure["process"] for failure in faults.failures(folder, "worker.stop")] == [process.pid]
        process.send_signal(signal.SIGCONT)
        assert process.communicate()[0] == b"alive\n"
