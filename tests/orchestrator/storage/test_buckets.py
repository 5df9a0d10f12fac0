"""Storages on s3://: what large files, lost answers, outages and refusals come to, against a server on loopback."""

import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from support.s3_server import S3Server

from orchestrator.storage.store import Storage
from workloads import storage_retries as retrying
from workloads.buckets import Ranges
from workloads.errors import InputError
from workloads.storage_retries import RetryPolicy, StorageUnavailableError


@pytest.fixture
def storage(bucket: str) -> Storage:
    return Storage(f"s3://{bucket}/some/folder")


@pytest.fixture
def trouble(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server, whose trouble ends with the test; pauses are short."""
    monkeypatch.setattr(retrying, "POLICY", RetryPolicy(seconds=30, first_pause=0.01, longest_pause=0.05))
    yield s3
    s3.trouble.end()


def test_a_file_of_many_parts_is_read_as_it_was_written(storage: Storage) -> None:
    data = os.urandom(20_000_000)
    storage.replace("models/big.pt", pa.py_buffer(data))
    assert storage.read("models/big.pt") == data
    with storage.open("models/big.pt") as opened:
        assert opened.size() == len(data)
        for start, size in ((19_999_990, 100), (0, 10), (5_000_000, 3_000_000), (5_000_100, 50)):
            opened.seek(start)
            assert opened.read(size) == data[start : start + size]


def test_records_far_apart_are_read_without_the_rest_and_by_many_threads(storage: Storage, s3: S3Server) -> None:
    rows = [np.random.default_rng(row).integers(0, 99, 200_000) for row in range(12)]
    sink = pa.BufferOutputStream()
    schema = pa.schema([("values", pa.int64())])
    with pa.ipc.new_file(sink, schema) as writer:
        for row in rows:
            writer.write_batch(pa.record_batch([row], schema=schema))
    storage.replace("shard.arrow", sink.getvalue())
    before = s3.trouble.requests
    reader = pa.ipc.open_file(storage.open("shard.arrow"))
    assert reader.get_batch(5).column(0).to_numpy().tolist() == rows[5].tolist()
    assert s3.trouble.requests - before <= 5, "size, footer, and one batch"
    with ThreadPoolExecutor(4) as pool:
        for row, batch in zip(rows, pool.map(reader.get_batch, range(len(rows))), strict=True):
            assert batch.column(0).to_numpy().tolist() == row.tolist()


def test_any_reading_order_gives_what_a_file_gives() -> None:
    data = os.urandom(3 << 20)
    ranges = Ranges(lambda start, end: data[start:end], len(data))
    random = np.random.default_rng(0)
    for _ in range(200):
        start, size = int(random.integers(0, len(data) + 10)), int(random.integers(0, 1 << 21))
        ranges.seek(start)
        assert ranges.read(size) == data[start : start + size]
        assert ranges.tell() == min(start + size, max(start, len(data)))
    ranges.seek(-7, os.SEEK_END)
    assert ranges.read() == data[-7:]


def test_a_creation_whose_answer_is_lost_is_known_again(storage: Storage, trouble: S3Server) -> None:
    trouble.trouble.begin(1.0, seed=0, cap=1, kinds=("drop after",))
    assert storage.create("steps/label/1.json", b"mine")
    assert trouble.trouble.made == {"drop after": 1}
    assert not storage.create("steps/label/1.json", b"another's")


def test_one_creator_wins_though_requests_fail(storage: Storage, trouble: S3Server) -> None:
    trouble.trouble.begin(0.3, seed=1)
    start = threading.Barrier(4)

    def create(writer: int) -> list[bool]:
        start.wait()
        return [storage.create(f"turn/{turn}", f"writer {writer}".encode()) for turn in range(6)]

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(create, range(4)))
    made = trouble.trouble.made.copy()
    trouble.trouble.end()
    assert len(made) == 5, f"some kind of trouble did not come: {made}"
    for turn in range(6):
        (winner,) = (writer for writer in range(4) if won[writer][turn])
        assert storage.read(f"turn/{turn}") == f"writer {winner}".encode()


def test_an_outage_is_waited_out_aloud(storage: Storage, trouble: S3Server, caplog: pytest.LogCaptureFixture) -> None:
    storage.replace("steps/1.json", b"one")
    # The client itself repeats a request three times: eight refusals are two that are waited for here.
    trouble.trouble.begin(1.0, seed=0, cap=8, kinds=("503",))
    with caplog.at_level(logging.WARNING):
        assert storage.read("steps/1.json") == b"one"
    assert len(caplog.messages) == 2
    assert f"waiting for the storage: reading {storage.uri}/steps/1.json failed (503" in caplog.messages[0]


def test_what_stays_away_is_one_error_that_names_the_uri(
    storage: Storage, trouble: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "POLICY", RetryPolicy(seconds=0.1, first_pause=0.01, longest_pause=0.05))
    trouble.trouble.begin(1.0, seed=0, kinds=("500",))
    with pytest.raises(StorageUnavailableError, match=rf"writing {storage.uri}/models/big\.pt failed for 0 s: 500"):
        storage.replace("models/big.pt", os.urandom(20_000_000))
    trouble.trouble.end()
    assert list(storage.files("", deep=True)) == [], "no part of a failed upload is an object"


def test_an_upload_cut_off_between_its_parts_is_not_seen(
    storage: Storage, trouble: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "POLICY", RetryPolicy(seconds=0.1, first_pause=0.01, longest_pause=0.05))
    storage.replace("models/big.pt", b"the old one")
    answer = trouble.trouble.inner
    begun = threading.Event()

    def only_the_first_part(environ, start_response):  # type: ignore[no-untyped-def]
        if "partNumber=1" in environ["QUERY_STRING"]:
            begun.set()
        elif "uploadId" in environ["QUERY_STRING"]:
            start_response("503 Trouble", [("Content-Length", "0")])
            return []
        return answer(environ, start_response)

    monkeypatch.setattr(trouble.trouble, "inner", only_the_first_part)
    with pytest.raises(StorageUnavailableError):
        storage.replace("models/big.pt", os.urandom(20_000_000))
    assert begun.is_set()
    assert storage.read("models/big.pt") == b"the old one"


def test_a_large_upload_whose_last_answer_is_lost_is_made_again(
    storage: Storage, trouble: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, lost = trouble.trouble.inner, threading.Event()

    def lose_the_last(environ, start_response):  # type: ignore[no-untyped-def]
        if environ["REQUEST_METHOD"] == "POST" and "uploadId" in environ["QUERY_STRING"] and not lost.is_set():
            lost.set()
            b"".join(answer(environ, lambda *_: None))
            start_response("500 Trouble", [("Content-Length", "0")])
            return []
        return answer(environ, start_response)

    monkeypatch.setattr(trouble.trouble, "inner", lose_the_last)
    data = os.urandom(20_000_000)
    storage.replace("models/big.pt", data)
    assert lost.is_set()
    assert storage.read("models/big.pt") == data


def test_a_refusal_is_not_waited_for(storage: Storage, trouble: S3Server) -> None:
    trouble.trouble.begin(1.0, seed=0, kinds=("403",))
    with pytest.raises(InputError, match=rf"storage {storage.uri} cannot be used: 403"):
        storage.replace("a", b"one")
    assert trouble.trouble.made == {"403": 1}


def test_a_bucket_that_does_not_exist_is_named(s3: S3Server) -> None:
    storage = Storage("s3://no-such-bucket/folder")
    asks = (storage.check_writable, storage.require_folder, lambda: storage.read("a"), lambda: list(storage.files("a")))
    for ask in asks:
        with pytest.raises(InputError, match="there is no bucket no-such-bucket"):
            ask()


def test_an_empty_folder_of_a_bucket_is_no_storage_to_verify(storage: Storage) -> None:
    with pytest.raises(InputError, match="does not exist"):
        storage.require_folder()
    storage.replace("a", b"one")
    storage.require_folder()


@pytest.mark.parametrize(
    "uri",
    ["s3://key:secret@bucket/folder", "gs://secret@bucket", "s3://bucket?secret_key=secret", "ftp://key:secret@host"],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(InputError) as refused:
        Storage(uri)
    assert "secret@" not in str(refused.value)
    assert "=secret" not in str(refused.value)
    assert "key" not in str(refused.value)
