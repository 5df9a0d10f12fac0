"""Checking and mending a storage.

The model: what a manifest or a record names must be there with the bytes it had; whatever is not named by any of them is a
leftover of a killed attempt. Repairing forgets what is damaged (the next run computes it again) and sweeps the leftovers.
"""

import hashlib
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field

from orchestrator.ledger import Manifest
from orchestrator.shards import ShardRecord
from orchestrator.storage import Storage

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


def verify(storage: Storage, *, repair: bool) -> Verification:
    """Check every manifest, every record and every shard they name, by size and SHA-256."""
    found = Verification()
    users: dict[str, list[Manifest]] = defaultdict(list)
    records: dict[str, ShardRecord] = {}
    forget: set[str] = set()
    for file in storage.files("steps", deep=True):
        try:
            manifest = Manifest.from_bytes(storage.read(file.path))
        except (ValueError, KeyError, TypeError) as error:
            found.damaged[file.path] = f"is not a manifest ({error})"
            forget.add(file.path)
            continue
        found.steps += 1
        for record in manifest.shards:
            users[record.path].append(manifest)
            records[record.path] = record
    record_files: dict[str, str] = {}
    for file in storage.files("shards", deep=True):
        if not file.path.endswith(".json"):
            continue
        try:
            record = ShardRecord.from_json(json.loads(storage.read(file.path)))
        except (ValueError, KeyError, TypeError) as error:
            found.damaged[file.path] = f"is not a shard's record ({error})"
            forget.add(file.path)
            continue
        records[record.path] = record
        record_files[record.path] = file.path
    for path, record in sorted(records.items()):
        found.shards += 1
        found.bytes += record.bytes
        problem = _problem(storage, record)
        if problem:
            found.damaged[path] = problem
            forget |= {path, record_files.get(path, path)}
            forget |= {f"steps/{manifest.kind}/{manifest.key}.json" for manifest in users[path]}
    now = time.time()
    for directory in ("shards", "models"):
        for file in storage.files(directory, deep=True):
            if file.path.endswith((".arrow", ".part")) and file.path not in records:
                if now - file.modified > _LEFTOVER_SECONDS:
                    found.leftovers.append(file.path)
    if repair:
        for path in sorted(forget) + found.leftovers:
            storage.delete(path)
            found.repaired.append(path)
    return found


def _problem(storage: Storage, record: ShardRecord) -> str | None:
    try:
        data = storage.read(record.path)
    except FileNotFoundError:
        return "is missing"
    if len(data) != record.bytes:
        return f"has {len(data)} bytes, written were {record.bytes}"
    if hashlib.sha256(data).hexdigest() != record.sha256:
        return "has another SHA-256 than what was written"
    return None
