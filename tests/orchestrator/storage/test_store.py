"""Storage: files appear whole or not at all, one of several creators wins, and a full or read-only place says so."""

import errno
import os
import pickle
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.storage.store import Storage, StorageFullError
from workloads.errors import InputError


@pytest.fixture(params=["path", "s3", "gs"])
def storage(request: pytest.FixtureRequest, make_storage: Callable[[str], Storage]) -> Storage:
    return make_storage(request.param)


def mount(folder: Path, *options: str) -> None:
    """Mount a small memory file system, or skip where that is not permitted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    try:
        mount(folder, "-o", "size=256k")
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A read-only mount: permission bits would not stop root."""
    folder = tmp_path / "read-only"
    try:
        mount(folder, "-o", "size=256k,ro")
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def all_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def paths(storage: Storage) -> list[str]:
    return [file.path for file in storage.files("", deep=True)]


def test_what_is_written_is_read_back(storage: Storage) -> None:
    assert not storage.exists("a/b.json")
    storage.replace("a/b.json", b"one")
    storage.replace("a/b.json", b"two")
    assert storage.exists("a/b.json")
    assert storage.read("a/b.json") == b"two"
    assert storage.open("a/b.json").read() == b"two"
    assert storage.locate("a/b.json") == f"{storage.uri}/a/b.json"
    storage.delete("a/b.json")
    storage.delete("a/b.json")
    with pytest.raises(FileNotFoundError):
        storage.read("a/b.json")


def test_a_folder_is_not_a_file(storage: Storage) -> None:
    storage.replace("a/b.json", b"one")
    assert not storage.exists("a")


def test_listing_is_sorted_relative_and_empty_for_what_is_not_there(storage: Storage) -> None:
    for path in ("a/2", "a/10", "a/inner/3", "b/4"):
        storage.replace(path, path.encode())
    assert [file.path for file in storage.files("a")] == ["a/10", "a/2"]
    assert [file.path for file in storage.files("a", deep=True)] == ["a/10", "a/2", "a/inner/3"]
    assert [file.size for file in storage.files("b")] == [3]
    assert list(storage.files("nowhere", deep=True)) == []


def test_a_file_uri_is_the_path(tmp_path: Path) -> None:
    by_path, by_uri = Storage(str(tmp_path)), Storage(f"file://{tmp_path}")
    by_path.replace("a", b"one")
    assert by_uri.read("a") == b"one"
    assert by_uri.is_local
    assert [file.path for file in by_uri.files("")] == ["a"]
    assert not by_uri.create("a", b"two")


def test_a_storage_travels_to_another_process(storage: Storage) -> None:
    storage.replace("a", b"one")
    travelled = pickle.loads(pickle.dumps(storage))
    assert travelled == storage
    assert hash(travelled) == hash(storage)
    assert travelled.read("a") == b"one"


def test_a_relative_path_stays_where_it_was_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage("relative")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    storage.replace("a", b"one")
    assert (tmp_path / "relative" / "a").read_bytes() == b"one"


def test_a_scheme_that_does_not_exist_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"s4://bucket.*s3://"):
        Storage("s4://bucket/folder")


def test_exactly_one_of_many_creators_wins(storage: Storage) -> None:
    writers, rounds = 8, 25 if storage.is_local else 5
    start = threading.Barrier(writers, timeout=30)

    def create(writer: int) -> list[bool]:
        won = []
        for turn in range(rounds):
            start.wait()
            won.append(storage.create(f"turn/{turn}.json", f"writer {writer} of turn {turn}".encode() * 50))
        return won

    with ThreadPoolExecutor(writers) as pool:
        outcomes = list(pool.map(create, range(writers)))
    for turn in range(rounds):
        winners = [writer for writer in range(writers) if outcomes[writer][turn]]
        assert len(winners) == 1
        assert storage.read(f"turn/{turn}.json") == f"writer {winners[0]} of turn {turn}".encode() * 50
    assert paths(storage) == sorted(f"turn/{turn}.json" for turn in range(rounds))


def no_hard_links(*_: Any) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_one_creator_wins_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", no_hard_links)
    test_exactly_one_of_many_creators_wins(Storage(str(tmp_path / "storage")))


class Flushes:
    """Notes what is flushed to the disk, linked and renamed, by the last part of its name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        fsync, link, replace = os.fsync, os.link, Path.replace

        def flush(descriptor: int) -> None:
            place = Path(f"/proc/self/fd/{descriptor}").readlink()
            self.seen.append(f"flush {'folder ' + place.name if place.is_dir() else 'file'}")
            fsync(descriptor)

        def name(source: Any, target: Any) -> None:
            self.seen.append(f"name {Path(target).name}")
            link(source, target)

        def rename(source: Path, target: Path) -> Path:
            self.seen.append(f"name {target.name}")
            return replace(source, target)

        monkeypatch.setattr(os, "fsync", flush)
        monkeypatch.setattr(os, "link", name)
        monkeypatch.setattr(Path, "replace", rename)


@pytest.mark.parametrize("write", [Storage.create, Storage.replace])
def test_a_name_never_reaches_the_disk_before_its_content(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut leaves cannot be tried here; that the system is asked in the right order can."""
    storage, flushes = Storage(str(tmp_path)), Flushes(monkeypatch)
    write(storage, "steps/label/1.json", b"one")
    folders = [f"flush folder {name}" for name in (tmp_path.name, "steps")]
    assert flushes.seen == [*folders, "flush file", "name 1.json", "flush folder label"]


def test_what_is_posted_costs_no_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, flushes = Storage(str(tmp_path)), Flushes(monkeypatch)
    storage.write_nondurable("beat", b"one")
    assert flushes.seen == ["name beat"]
    assert storage.read("beat") == b"one"


def test_what_is_removed_between_two_looks_is_created_after_all(storage: Storage) -> None:
    storage.replace("a", b"another's")

    class RemovedMeanwhile(Storage):
        def read(self, path: str) -> bytes:
            self.delete(path)
            return super().read(path)

    assert RemovedMeanwhile(storage.uri).create("a", b"mine")
    assert storage.read("a") == b"mine"


def test_create_leaves_what_is_there(storage: Storage) -> None:
    assert storage.create("a/b", b"first")
    assert not storage.create("a/b", b"second")
    assert storage.read("a/b") == b"first"


def test_a_reader_sees_the_old_or_the_new_file_and_nothing_else(storage: Storage) -> None:
    contents = [bytes([value]) * 200_000 for value in (1, 2)]
    storage.replace("shard", contents[0])
    stop = threading.Event()

    def write() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            storage.replace("shard", contents[turn % 2])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {storage.read("shard") for _ in range(300 if storage.is_local else 30)}
    finally:
        stop.set()
        writer.join()
    assert seen <= set(contents)


def test_an_open_file_outlives_its_replacement(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.replace("shard", b"old" * 1000)
    opened = storage.open("shard")
    storage.replace("shard", b"new")
    assert opened.read() == b"old" * 1000


def test_a_writable_storage_is_left_as_it_was(storage: Storage) -> None:
    storage.check_writable()
    assert paths(storage) == []


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3:/bucket/x", "storage 's3:/bucket/x' is no URI; give s3://bucket/x, or ./s3:/bucket/x for a folder"),
        ("s3:bucket", "give s3://bucket, or ./s3:bucket"),
        ("gs:/b", "give gs://b, or"),
        ("file:/tmp/f", "storage 'file:/tmp/f' is no URI; give file:///tmp/f, or a path"),
        ("file://tmp/f", "give file:///tmp/f, or a path"),
        ("s3a://b/x", "storage 's3a://b/x' cannot be used; allowed: a path, s3:// or gs://"),
        ("https://b.s3.amazonaws.com/x", "cannot be used; allowed: a path"),
    ],
)
def test_a_uri_that_is_mistyped_is_no_folder(uri: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        Storage(uri)


@pytest.mark.parametrize("name", ["a:b", "12:30", "[x]", "sp ace", "./s3:/x"])
def test_any_other_name_is_a_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Storage(name).check_writable()
    assert (tmp_path / name).is_dir()


def test_a_storage_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a folder")
    with pytest.raises(InputError, match=r"notes\.txt is a file; give a folder"):
        Storage(str(tmp_path / "notes.txt"))


def test_a_read_only_storage_is_refused(read_only_disk: Path) -> None:
    with pytest.raises(InputError, match=r"read-only cannot be written \(Read-only file system\).*--storage"):
        Storage(str(read_only_disk)).check_writable()


def test_a_full_storage_says_so_and_keeps_nothing_half_written(small_disk: Path) -> None:
    storage = Storage(str(small_disk))
    storage.replace("shards/kept", b"k" * 50_000)
    with pytest.raises(StorageFullError, match=r"is full: no room for 1000000 bytes of shards/big"):
        storage.replace("shards/big", b"b" * 1_000_000)
    with pytest.raises(StorageFullError):
        storage.create("steps/big.json", b"b" * 1_000_000)
    with pytest.raises(StorageFullError):
        storage.replace("shards/kept", b"n" * 1_000_000)
    assert all_files(small_disk) == ["shards/kept"]
    assert storage.read("shards/kept") == b"k" * 50_000
    storage.replace("shards/fits", b"f" * 100_000)
    assert all_files(small_disk) == ["shards/fits", "shards/kept"]


def test_a_storage_that_is_full_from_the_start_is_refused(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"x" * 100_000)
    with (small_disk / "more").open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space left"):
        while True:
            stream.write(b"x" * 4096)
    with pytest.raises(StorageFullError, match="is full"):
        Storage(str(small_disk)).check_writable()
    assert all_files(small_disk) == ["ballast", "more"]


def test_an_update_is_of_what_stands_there_and_makes_no_file(storage: Storage) -> None:
    assert not storage.update("beat", lambda found: b"new")
    assert not storage.exists("beat")
    storage.replace("beat", b"first, and longer")
    assert storage.update("beat", lambda found: found[:5] + b"!")
    assert storage.read("beat") == b"first!"
    assert not storage.update("beat", lambda found: None)
    assert storage.read("beat") == b"first!"


def test_an_update_brings_no_file_back_and_changes_no_other_of_its_name(storage: Storage) -> None:
    def removed(found: bytes) -> bytes | None:
        storage.delete("beat")
        return b"mine" if found == b"mine" else None

    def replaced(found: bytes) -> bytes | None:
        storage.delete("beat")
        storage.create("beat", b"another's")
        return b"mine" if found == b"mine" else None

    for meanwhile, stands in ((removed, None), (replaced, b"another's")):
        storage.replace("beat", b"mine")
        storage.update("beat", meanwhile)
        assert storage.find("beat") == stands
