"""Checking and mending a storage.

The model: what a manifest or a record names must be there with the bytes it had, and a listing of images must be the
one it is named after; whatever is not named by any of them is a leftover of a killed attempt. Repairing forgets what
is damaged (the next run computes it again) and sweeps the leftovers.
"""

import hashlib
import time
from dataclasses import dataclass, field

from orchestrator.ledger.image_sets import listing_problem
from orchestrator.ledger.inputs import inputs_problem
from orchestrator.ledger.layout import IMAGES, INPUTS, SHARDS, STEPS, is_attempt
from orchestrator.ledger.manifests import read_manifest, read_record
from orchestrator.ledger.shards import ShardRecord
from orchestrator.storage.store import Storage

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
    """Check every manifest, every record, every shard they name (by size and SHA-256) and every listing of images."""
    found = Verification()
    named = _read_named(storage, found)
    for file in storage.files(IMAGES):
        if file.path.endswith(".arrow") and (problem := listing_problem(storage, file.path)):
            found.damaged[file.path] = problem
    for file in storage.files(INPUTS, deep=True):
        if file.path.endswith(".arrow") and (problem := inputs_problem(storage, file.path)):
            found.damaged[file.path] = problem
    forget = set(found.damaged)
    for path, mention in sorted(named.items()):
        found.shards += 1
        found.bytes += mention.record.size
        problem = _problem(storage, mention.record)
        if problem:
            found.damaged[path] = problem
            forget |= {path, *mention.by}
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


def _read_named(storage: Storage, found: Verification) -> dict[str, _Mention]:
    """Every shard that a manifest or a record names, by path; what cannot be read is put down as damaged."""
    named: dict[str, _Mention] = {}
    files = [*storage.files(STEPS, deep=True), *storage.files(SHARDS, deep=True)]
    for file in files:
        if not file.path.endswith(".json"):
            continue
        data = storage.read(file.path)
        try:
            if file.path.startswith(f"{STEPS}/"):
                records = read_manifest(file.path, data).records
                found.steps += 1
            else:
                records = [read_record(file.path, data)]
        except ValueError as error:
            found.damaged[file.path] = f"cannot be read ({error})"
            continue
        for record in records:
            named.setdefault(record.path, _Mention(record)).by.add(file.path)
    return named


def _leftovers(storage: Storage, named: set[str]) -> list[str]:
    """Files of killed attempts that nobody names and nobody can still be writing."""
    oldest = time.time() - _LEFTOVER_SECONDS
    return [
        file.path
        for file in storage.files("", deep=True)
        if is_attempt(file.path) and file.path not in named and file.modified < oldest
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
