"""Checking and mending a storage.

The model: what a manifest, a record or the outcome of a training names must be there with the bytes it had, and a
listing of images must be the one it is named after; whatever is not named by any of them is a leftover of a killed
attempt. Repairing forgets what is damaged (the next run computes it again) and sweeps the leftovers.
"""

import hashlib
import time
from dataclasses import dataclass, field

from orchestrator.ledger import layout
from orchestrator.ledger.documents import read_document, read_json
from orchestrator.ledger.image_sets import listing_problem
from orchestrator.ledger.inputs import inputs_problem
from orchestrator.ledger.manifests import read_manifest, read_record
from orchestrator.ledger.shards import ShardRecord, read_arrays
from orchestrator.ledger.stop_marks import STOP
from orchestrator.ledger.training_states import HISTORY, OUTCOME, require_archive
from orchestrator.storage.store import Storage

_CHECKED = (layout.STEPS, layout.SHARDS, layout.CHECKPOINTS, layout.HISTORY, layout.IMAGES, layout.INPUTS)
# A leftover younger than this may belong to a run that is writing it now.
_LEFTOVER_SECONDS = 3600.0


@dataclass
class Verification:
    """What was looked at and what was found."""

    steps: int = 0
    shards: int = 0
    bytes: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    repaired: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)


def verify(storage: Storage, *, repair: bool) -> Verification:
    """Check all that a run may read again: manifests and records with the files they name (by size and SHA-256),
    listings of images, what is known of inputs, and what trainings have left.
    """
    found = Verification()
    paths = [file.path for folder in _CHECKED for file in storage.files(folder, deep=True)]
    named: dict[str, _Mention] = {}
    for path, (records, problem) in zip(paths, storage.each(lambda path: _look(storage, path), paths), strict=True):
        if problem:
            found.damaged[path] = problem
        elif path.startswith(f"{layout.STEPS}/"):
            found.steps += 1
        for record in records:
            named.setdefault(record.path, _Mention(record)).by.add(path)
    forget = set(found.damaged)
    mentions = [named[path] for path in sorted(named)]
    problems = storage.each(lambda mention: _problem(storage, mention.record), mentions)
    for mention, problem in zip(mentions, problems, strict=True):
        found.shards += 1
        found.bytes += mention.record.size
        if problem:
            found.damaged[mention.record.path] = problem
            forget |= {mention.record.path, *mention.by}
    found.leftovers = _leftovers(storage, set(named))
    if repair:
        for path in sorted(forget) + found.leftovers:
            storage.delete(path)
            found.repaired.append(path)
    return found


@dataclass
class _Mention:
    """A shard, and the files that name it."""

    record: ShardRecord
    by: set[str] = field(default_factory=set)


def _look(storage: Storage, path: str) -> tuple[list[ShardRecord], str | None]:
    """The files that a file names, and what is wrong with it."""
    records: list[ShardRecord] = []
    problem: str | None = None
    try:
        match _kind(path):
            case layout.IMAGES, "arrow":
                problem = listing_problem(storage, path)
            case layout.INPUTS, "arrow":
                problem = inputs_problem(storage, path)
            case _:
                records = _named_by(storage, path)
    except (FileNotFoundError, ValueError) as error:
        problem = f"cannot be read ({error})"
    if problem and not storage.exists(path):
        # Declared finished or run after all since it was listed.
        problem = None
    return records, problem


def _kind(path: str) -> tuple[str, str]:
    """The folder of the storage that a file is in, and its suffix."""
    return path.split("/", maxsplit=1)[0], path.rpartition(".")[2]


def _named_by(storage: Storage, path: str) -> list[ShardRecord]:
    match _kind(path):
        case layout.STEPS, "json":
            return read_manifest(path, storage.read(path)).records
        case layout.SHARDS, "json":
            return [read_record(path, storage.read(path))]
        case layout.CHECKPOINTS, "json" if layout.is_stop_mark(path):
            read_json(storage.read(path), STOP)
        case layout.CHECKPOINTS, "json":
            # A training that has ended, and is not committed yet.
            return list(read_document(storage.read(path), OUTCOME).files.values())
        case layout.CHECKPOINTS, "pt":
            require_archive(storage.read(path))
        case layout.CHECKPOINTS, "arrow":
            read_arrays(storage, path)
        case layout.HISTORY, "json":
            read_document(storage.read(path), HISTORY)
    return []


def _leftovers(storage: Storage, named: set[str]) -> list[str]:
    """Files of killed attempts that nobody names and nobody can still be writing."""
    oldest = time.time() - _LEFTOVER_SECONDS
    return [
        file.path
        for file in storage.files("", deep=True)
        if layout.is_attempt(file.path) and file.path not in named and file.modified < oldest
    ]


def _problem(storage: Storage, record: ShardRecord) -> str | None:
    try:
        data = storage.read(record.path)
    except FileNotFoundError:
        return "is missing"
    if len(data) != record.size:
        return f"has {len(data)} bytes, written were {record.size}"
    if hashlib.sha256(data).hexdigest() != record.sha256:
        return "has another SHA-256 than what was written"
    return None
