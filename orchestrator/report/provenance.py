"""Where every number comes from: the run, the cells behind each result, and the steps behind each cell.

The model: a number in a table points to its result; the result names its cells and their steps; every distinct step
stands once, with its full key, its inputs, its images, its shards with their SHA-256, its meaning, machine and
versions. So a number can be followed down to the bytes it was computed from.
"""

import json
import shlex
import time
from dataclasses import dataclass
from typing import Any

from orchestrator.ledger.layout import manifest_path
from orchestrator.ledger.manifests import Manifest
from orchestrator.report.comparing import Result, dataset_of, is_seed, number_of, shown
from orchestrator.report.costs import duration, size
from orchestrator.report.reading import Experiment, ResultCell
from orchestrator.report.tables import figure

Facts = list[tuple[str, str]]
_LISTED_FILES = 24


@dataclass(frozen=True)
class CellEntry:
    """A cell: its number, its facts, and its steps as (role, key)."""

    number: int
    status: str
    facts: Facts
    steps: list[tuple[str, str]]
    quarantined: list[str]


@dataclass(frozen=True)
class ResultEntry:
    """A result and the cells that are its repeats."""

    anchor: str
    title: str
    status: str
    notes: list[str]
    cells: list[CellEntry]


@dataclass(frozen=True)
class ShardLine:
    """A file that a step has written."""

    path: str
    rows: int
    size: str
    sha256: str


@dataclass(frozen=True)
class StepEntry:
    """A distinct step; `missing` where its manifest is not on the storage."""

    key: str
    kind: str
    missing: bool
    facts: Facts
    inputs: list[tuple[str, str]]
    shards: list[ShardLine]
    meaning: str


@dataclass(frozen=True)
class Provenance:
    """The run, its results and its steps."""

    run: Facts
    versions: Facts
    results: list[ResultEntry]
    steps: list[StepEntry]


def provenance_of(experiment: Experiment, results: list[Result]) -> Provenance:
    """Everything that the page says about where numbers come from."""
    roles: dict[str, str] = {}
    for cell in experiment.cells:
        for role, key in cell.steps.items():
            roles.setdefault(key, role)
    versions = experiment.provenance.get("versions")
    return Provenance(
        run=run_facts(experiment),
        versions=[(str(name), str(text)) for name, text in versions.items()] if isinstance(versions, dict) else [],
        results=[_result(experiment, result) for result in results],
        steps=[_step(key, role, experiment) for key, role in roles.items()],
    )


def run_facts(experiment: Experiment) -> Facts:
    """When, where, by which code and command the results file was written."""
    run = experiment.provenance
    facts: Facts = [("storage", experiment.storage)]
    if run.get("started"):
        facts.append(("started", str(run["started"])))
    if (seconds := number_of(run.get("seconds"))) is not None:
        facts.append(("took", duration(seconds)))
    if isinstance(command := run.get("command"), list):
        facts.append(("command", shlex.join(str(word) for word in command)))
    git = run.get("git")
    if isinstance(git, dict):
        changed = ", with uncommitted changes" if git.get("changed") else ""
        facts.append(("code", f"commit {git.get('commit')}{changed}"))
    else:
        facts.append(("code", "commit not known: it did not run from a checkout"))
    facts.append(("seeds", ", ".join(_seeds(experiment))))
    if machines := machines_of(experiment):
        facts.append(("machines", "; ".join(machines)))
    return facts


def machines_of(experiment: Experiment) -> list[str]:
    """The machines of the run, each in one phrase."""
    machines = experiment.provenance.get("machines")
    return [
        _machine(machine) for machine in (machines if isinstance(machines, list) else []) if isinstance(machine, dict)
    ]


def _machine(machine: dict[str, Any]) -> str:
    parts = [str(machine.get("host", "a machine"))]
    for name in ("cores", "gpus"):
        if (count := number_of(machine.get(name))) is not None:
            one = name.removesuffix("s").replace("gpu", "GPU")
            parts.append(f"{count:g} {one}{'' if count == 1 else 's'}")
    if (memory := number_of(machine.get("memory"))) is not None:
        parts.append(f"{size(memory)} of memory")
    return ", ".join(parts)


def _seeds(experiment: Experiment) -> list[str]:
    own = [f"{key} {shown(value)}" for cell in experiment.cells for key, value in cell.cell.items() if is_seed(key)]
    return list(dict.fromkeys(own)) or [str(experiment.provenance.get("seed", 0))]


def _result(experiment: Experiment, result: Result) -> ResultEntry:
    values = [f"{key.removeprefix('labels.')} = {shown(value)}" for key, value in result.values.items()]
    name = ", ".join(filter(None, [result.row, result.column]))
    title = name or ", ".join(values) or "the only setting"
    states = ", ".join(dict.fromkeys(cell.status for _, cell in result.cells))
    cells = [_cell(experiment, number, cell) for number, cell in result.cells]
    return ResultEntry(result.anchor, title, states, result.notes, cells)


def _cell(experiment: Experiment, number: int, cell: ResultCell) -> CellEntry:
    facts: Facts = [(key, json.dumps(value)) for key, value in cell.cell.items()]
    facts.append(("data set", dataset_of(experiment, cell)))
    if isinstance(protocol := cell.metrics.get("protocol"), dict):
        facts.append(("protocol", ", ".join(f"{key} {value}" for key, value in protocol.items())))
    facts += [
        (name, figure(value, 4) if isinstance(cell.metrics[name], float) else f"{value:g}")
        for name in cell.metrics
        if (value := number_of(cell.metrics[name])) is not None
    ]
    facts += [(name, text) for name, text in (("error", cell.error), ("reason", cell.reason)) if text]
    return CellEntry(number, cell.status, facts, list(cell.steps.items()), cell.quarantined)


def _step(key: str, role: str, experiment: Experiment) -> StepEntry:
    manifest = experiment.manifests.get(key)
    if manifest is None:
        return StepEntry(key, role, True, [], [], [], "")
    # A long list is as long in every step of a grid; the manifest on the storage has it.
    listed = manifest.shards if len(manifest.shards) <= _LISTED_FILES else []
    records = [ShardLine(shard.path, shard.rows, size(shard.size), shard.sha256) for shard in listed]
    return StepEntry(
        key=key,
        kind=manifest.kind,
        missing=False,
        facts=_step_facts(manifest, experiment),
        inputs=list(manifest.inputs.items()),
        shards=records,
        meaning=json.dumps(manifest.meaning, indent=1, sort_keys=True),
    )


def _step_facts(manifest: Manifest, experiment: Experiment) -> Facts:
    provenance = manifest.provenance
    facts: Facts = []
    if isinstance(images := provenance.get("images"), dict):
        asked = images.get("requested")
        wanted = "all" if asked is None else f"{asked} asked for"
        facts.append(
            ("images", f"{images.get('used')} of pool {images.get('pool')} ({wanted}, {images.get('available')} there)")
        )
    if (started := number_of(provenance.get("started"))) is not None:
        facts.append(("started", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started))))
    for name, title in (("wall_seconds", "on the clock"), ("work_seconds", "work of all workers")):
        if value := number_of(provenance.get(name)):
            facts.append((title, duration(value)))
    where = ", ".join(str(provenance[name]) for name in ("host", "device") if provenance.get(name))
    if where:
        facts.append(("machine and device", where))
    if seed := manifest.meaning.get("seed"):
        facts.append(("seed", str(seed)))
    quarantined = manifest.quarantined
    place = manifest_path(manifest.kind, manifest.key)
    facts.append(("files", f"{len(manifest.shards)} with SHA-256, {size(manifest.size)}, listed in {place}"))
    if quarantined:
        facts.append(("quarantined images", "; ".join(f"{item.image}: {item.reason}" for item in quarantined)))
    versions = provenance.get("versions")
    if isinstance(versions, dict) and versions != experiment.provenance.get("versions"):
        facts.append(("versions", ", ".join(f"{name} {text}" for name, text in versions.items())))
    return facts
