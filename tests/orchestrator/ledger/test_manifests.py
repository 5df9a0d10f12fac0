"""The ledger: what is committed stays, the first of two commits stands, and only what is named is a result."""

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from orchestrator.ledger.documents import read_json
from orchestrator.ledger.layout import manifest_path, record_path, shard_path, short
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.ledger.shards import RECORD, Quarantined, ShardRecord
from orchestrator.storage.store import Storage
from workloads.errors import InputError

KEY, STREAM = "ab" * 32, "cd" * 32
SHARD = "ef" * 32


@pytest.fixture
def ledger(storage: Storage) -> Ledger:
    return Ledger(storage)


def record(ledger: Ledger, data: bytes, *broken: str) -> ShardRecord:
    """A shard that is written but not committed."""
    path = shard_path(STREAM, SHARD)
    ledger.storage.replace(path, data)
    made = ShardRecord.of(path, data, rows=3, columns=["image: string"], images=3)
    return replace(made, quarantined=[Quarantined(image, "truncated") for image in broken], seconds=1.25)


def manifest(*shards: ShardRecord, host: str = "here") -> Manifest:
    return Manifest(
        kind="sample",
        key=KEY,
        meaning={"seed": 0, "extractor": {"arch": "filters"}},
        inputs={"sample": "12" * 32},
        shards=list(shards),
        results={"pmiou": 26.5, "per_class_iou": [1.0, None]},
        provenance={"host": host},
    )


def test_a_manifest_is_read_as_it_was_committed(ledger: Ledger) -> None:
    made = manifest(record(ledger, b"one", "a.png", "b.png"), record(ledger, b"four", "c.png"))
    assert ledger.manifest("sample", KEY) is None
    assert ledger.commit(made) == made
    assert ledger.manifest("sample", KEY) == made
    assert made.size == 7
    assert [item.image for item in made.quarantined] == ["a.png", "b.png", "c.png"]
    assert list(ledger.manifests()) == [made]


def test_the_first_of_two_manifests_stands(ledger: Ledger) -> None:
    first = ledger.commit(manifest(host="first"))
    assert ledger.commit(manifest(host="second")) == first


def test_a_step_is_not_another_step_of_the_same_key(ledger: Ledger) -> None:
    ledger.commit(manifest())
    assert ledger.manifest("label", KEY) is None


def test_a_shard_is_finished_when_its_record_is_committed(ledger: Ledger) -> None:
    written = record(ledger, b"data", "broken.png")
    assert ledger.shard(STREAM, SHARD) is None
    assert ledger.finished_shards(STREAM) == set()
    assert ledger.commit_shard(STREAM, SHARD, written) == written
    assert ledger.shard(STREAM, SHARD) == written
    assert ledger.finished_shards(STREAM) == {short(SHARD)}
    assert ledger.finished_shards("00" * 32) == set()


def test_of_many_attempts_at_a_shard_one_stands_and_the_files_of_the_others_are_gone(ledger: Ledger) -> None:
    attempts = [record(ledger, b"attempt %d" % number) for number in range(8)]
    start = threading.Barrier(len(attempts))

    def commit(attempt: ShardRecord) -> ShardRecord:
        start.wait()
        return ledger.commit_shard(STREAM, SHARD, attempt)

    with ThreadPoolExecutor(len(attempts)) as pool:
        standing = set(map(str, pool.map(commit, attempts)))
    assert len(standing) == 1
    kept = ledger.shard(STREAM, SHARD)
    assert kept is not None
    arrows = [file.path for file in ledger.storage.files("shards", deep=True) if file.path.endswith(".arrow")]
    assert arrows == [kept.path]
    assert ledger.storage.read(kept.path).startswith(b"attempt")


def test_what_is_forgotten_is_to_be_done_again(ledger: Ledger) -> None:
    written = ledger.commit_shard(STREAM, SHARD, record(ledger, b"data"))
    ledger.commit(manifest(written))
    ledger.forget("sample", KEY)
    ledger.forget("sample", KEY)
    assert ledger.manifest("sample", KEY) is None
    assert ledger.shard(STREAM, SHARD) == written
    ledger.forget_shard(STREAM, SHARD)
    assert ledger.shard(STREAM, SHARD) is None


def test_attempts_never_share_a_file_and_records_always_do() -> None:
    assert len({shard_path(STREAM, SHARD) for _ in range(100)}) == 100
    assert record_path(STREAM, SHARD) == record_path(STREAM, SHARD)
    assert Path(shard_path(STREAM, SHARD)).parent == Path(record_path(STREAM, SHARD)).parent


def test_a_ledger_is_plain_json(ledger: Ledger) -> None:
    ledger.commit(manifest(record(ledger, b"data")))
    document = json.loads(ledger.storage.read(manifest_path("sample", KEY)))
    assert document["results"]["pmiou"] == 26.5
    assert document["shards"][0]["size"] == 4


def test_files_have_names_and_count_like_shards(ledger: Ledger) -> None:
    network, predictions = record(ledger, b"network"), record(ledger, b"maps", "broken.png")
    made = replace(manifest(), files={"network": network, "predictions": predictions})
    ledger.commit(made)
    read = ledger.manifest("sample", KEY)
    assert read == made
    assert read.file("predictions") == predictions
    assert read.size == 11
    assert [item.image for item in read.quarantined] == ["broken.png"]
    with pytest.raises(InputError, match=rf"steps/sample/{KEY}.json names no file 'clusters'; .*network, predictions"):
        read.file("clusters")


def sealed(text: bytes) -> bytes:
    """A document that somebody else wrote, with a seal that fits."""
    body = text.removesuffix(b"\n}")
    return body + b',\n "sha256": "%s"\n}' % hashlib.sha256(body).hexdigest().encode()


def unsealed(data: bytes) -> bytes:
    return data[: data.rindex(b',\n "sha256"')] + b"\n}"


def test_a_changed_digit_is_damage(ledger: Ledger) -> None:
    ledger.commit(manifest(record(ledger, b"data")))
    written = ledger.commit_shard(STREAM, SHARD, record(ledger, b"data"))
    for path, digit, other, read in (
        (manifest_path("sample", KEY), b"26.5", b"27.5", lambda: ledger.manifest("sample", KEY)),
        (record_path(STREAM, SHARD), b'"rows": 3', b'"rows": 4', lambda: ledger.shard(STREAM, SHARD)),
    ):
        sound = ledger.storage.read(path)
        assert sealed(unsealed(sound)) == sound
        ledger.storage.replace(path, sound.replace(digit, other))
        with pytest.raises(InputError, match=r"is damaged .*SHA-256"):
            read()
    assert written.rows == 3


@pytest.mark.parametrize(
    ("member", "forged"),
    [
        (b'"kind": "sample"', b'"kind": 3'),
        (b'"kind": "sample"', b'"kind": "label"'),
        (b'"key": "ab', b'"key": "ba'),
        (b'"host": "here"', b'"host": ["here"]'),
        (b'"host": "here"', b'"images": {"used": "many"}'),
        (b'"sample": "12', b'"sample": 12, "label": "12'),
        (b'"size": 4', b'"size": "4"'),
        (b'"size": 4', b'"size": -4'),
        (b'"size": 4', b'"size": 4.5'),
        (b'"seconds": 1.25', b'"seconds": NaN'),
        (b'"path": "shards/', b'"path": "../shards/'),
        (b'"path": "shards/', b'"path": "results/'),
        (b'"pmiou": 26.5', b'"pmiou": ' + b"[" * 100_000 + b"]" * 100_000),
        (b'"pmiou": 26.5', b'"pmiou": \xff'),
    ],
)
def test_what_somebody_else_wrote_is_one_clear_message(ledger: Ledger, member: bytes, forged: bytes) -> None:
    ledger.commit(manifest(record(ledger, b"data")))
    path = manifest_path("sample", KEY)
    text = unsealed(ledger.storage.read(path))
    assert text.count(member) == 1
    ledger.storage.replace(path, sealed(text.replace(member, forged)))
    for read in (lambda: ledger.manifest("sample", KEY), lambda: list(ledger.manifests())):
        with pytest.raises(InputError, match=rf"steps/sample/{KEY}\.json is damaged .*verify.*--repair") as refused:
            read()
        assert "\n" not in str(refused.value)


def test_a_record_of_another_shard_is_none_of_this_one(ledger: Ledger) -> None:
    ledger.commit_shard(STREAM, SHARD, record(ledger, b"data"))
    other = "12" * 32
    ledger.storage.replace(record_path(STREAM, other), ledger.storage.read(record_path(STREAM, SHARD)))
    with pytest.raises(InputError, match=r"is damaged .*the record of shards/"):
        ledger.shard(STREAM, other)


@pytest.mark.parametrize("garbage", [b"", b"{", b"null", b"[]", b"3", b'"text"', b'{"format": 1}', b"\xff\xfe\x00"])
def test_a_garbled_manifest_is_named_and_so_is_the_way_out(ledger: Ledger, garbage: bytes) -> None:
    ledger.storage.replace(manifest_path("sample", KEY), garbage)
    for read in (lambda: ledger.manifest("sample", KEY), lambda: list(ledger.manifests())):
        with pytest.raises(InputError, match=rf"steps/sample/{KEY}\.json.*verify.*--repair"):
            read()


def test_a_garbled_record_is_named_and_so_is_the_way_out(ledger: Ledger) -> None:
    ledger.storage.replace(record_path(STREAM, SHARD), b"{")
    with pytest.raises(InputError, match=r"shards/.*\.json.*verify.*--repair"):
        ledger.shard(STREAM, SHARD)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "shards/../../outside", ""])
def test_a_record_cannot_name_a_file_outside_the_storage(ledger: Ledger, path: str) -> None:
    """`verify --repair` deletes what a record names, so a record is not to be trusted with a path."""
    outside = replace(record(ledger, b"data"), path=path)
    with pytest.raises(ValueError, match="outside"):
        read_json(json.dumps(asdict(outside)).encode(), RECORD)


class SlowStorage(Storage):
    """Answers only when eight are asking at once, as a bucket that takes its time for each request."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._asking = threading.Barrier(8)

    def read(self, path: str) -> bytes:
        self._asking.wait(timeout=20)
        return super().read(path)


def test_records_and_manifests_are_read_many_at_once(tmp_path: Path) -> None:
    ledger = Ledger(Storage(str(tmp_path)))
    keys = [f"{number:064x}"[::-1] for number in range(16)]
    for key in keys:
        ledger.commit(replace(manifest(), key=key))
        path = shard_path(STREAM, key)
        ledger.commit_shard(STREAM, key, replace(record(ledger, b"data"), path=path))
    slow = Ledger(SlowStorage(str(tmp_path)))
    assert {found.key for found in slow.manifests()} == set(keys)
    assert list(slow.manifests_of(("sample", key) for key in keys)) == keys
    assert list(slow.shards(STREAM, keys)) == keys
