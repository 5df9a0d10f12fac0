"""Where every number comes from: the run, the cells behind each result, and the steps behind each cell.

The model: a number in a table points to its result; the result names its cells and their steps; every distinct step
stands once, with its full key, its inputs, its images, its shards with their SHA-256, its meaning, machine and
versions. So a number can be followed down to the bytes it was computed from.
"""

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.ledger.layout import manifest_path
from orchestrator.ledger.manifests import Manifest
from orchestrator.report.comparing import Result, dataset_of
from orchestrator.report.reading import Experiment
from orchestrator.results.cells import CellResult, Machine, finite
from orchestrator.spec.naming import describe, is_seed, shown
from workloads.formats import counted, duration, size

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
    return Provenance(
        run=run_facts(experiment),
        versions=list(experiment.run.versions.items()),
        results=[_result(experiment, result, results) for result in results],
        steps=[_step(key, role, experiment) for key, role in roles.items()],
    )


def run_facts(experiment: Experiment) -> Facts:
    """When, where, by which code and command the results file was written."""
    run = experiment.run
    facts: Facts = [("storage", experiment.storage)]
    if run.started:
        facts.append(("started", run.started))
    if run.seconds is not None:
        facts.append(("took", duration(run.seconds)))
    if run.command:
        facts.append(("command", shlex.join(run.command)))
    if run.git is not None:
        facts.append(("code", f"commit {run.git.commit}{', with uncommitted changes' if run.git.changed else ''}"))
    else:
        facts.append(("code", "commit not known: it did not run from a checkout"))
    facts += [("steps", line) for line in _computed(experiment)]
    facts.append(("seeds", ", ".join(_seeds(experiment))))
    if run.machines:
        facts.append(("machines", "; ".join(machines_of(experiment))))
    return facts


def _computed(experiment: Experiment) -> list[str]:
    """When the steps were computed, and what that took: more runs than the last may have had a part in it."""
    known = [manifest.provenance for manifest in experiment.manifests.values() if manifest.provenance.get("started")]
    if not known:
        return []
    first = min(float(one["started"]) for one in known)
    last = max(float(one["started"]) + float(one.get("wall_seconds") or 0.0) for one in known)
    work = sum(float(one.get("work_seconds") or one.get("wall_seconds") or 0.0) for one in known)
    hosts = sorted({str(one["host"]) for one in known if one.get("host")})
    where = f" on {', '.join(hosts)}" if hosts else ""
    return [
        f"{counted(len(known), 'step')} computed from {_utc(first)} to {_utc(last)}{where}, {duration(work)} of work"
    ]


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def machines_of(experiment: Experiment) -> list[str]:
    """The machines of the run, each in one phrase."""
    return [_machine(machine) for machine in experiment.run.machines]


def _machine(machine: Machine) -> str:
    counts = ((machine.cores, "core"), (machine.gpus, "GPU"))
    parts = [machine.host, *(counted(count, name) for count, name in counts if count is not None)]
    return ", ".join(parts if machine.memory is None else [*parts, f"{size(machine.memory)} of memory"])


def _seeds(experiment: Experiment) -> list[str]:
    own = [f"{key} {shown(value)}" for cell in experiment.cells for key, value in cell.values.items() if is_seed(key)]
    return list(dict.fromkeys(own)) or [str(experiment.run.seed or 0)]


def _result(experiment: Experiment, result: Result, results: Sequence[Result]) -> ResultEntry:
    states = ", ".join(dict.fromkeys(cell.status.value for _, cell in result.cells))
    cells = [_cell(experiment, number, cell) for number, cell in result.cells]
    return ResultEntry(result.anchor, describe(result, results), states, result.notes, cells)


def _cell(experiment: Experiment, number: int, cell: CellResult) -> CellEntry:
    facts: Facts = [(key, json.dumps(value)) for key, value in cell.values.items()]
    facts.append(("data set", dataset_of(experiment, cell)))
    if (protocol := cell.metrics.protocol) is not None:
        told = [f"{key} {value}" for key, value in protocol if value is not None and key != "class_names"]
        facts.append(("protocol", ", ".join(told)))
    facts += [(name, f"{value:.6g}") for name, value in cell.metrics.numbers.items()]
    facts += [(name, text) for name, text in (("error", cell.error), ("reason", cell.reason)) if text]
    return CellEntry(number, cell.status.value, facts, list(cell.steps.items()), cell.quarantined)


def _step(key: str, role: str, experiment: Experiment) -> StepEntry:
    manifest = experiment.manifests.get(key)
    if manifest is None:
        return StepEntry(key, role, True, [], [], [], "")
    # A long list is as long in every step of a grid; the manifest on the storage has it.
    listed = manifest.records if len(manifest.records) <= _LISTED_FILES else []
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
    if (started := finite(provenance.get("started"))) is not None:
        facts.append(("started", _utc(started)))
    for name, title in (("wall_seconds", "on the clock"), ("work_seconds", "work of all workers")):
        if value := finite(provenance.get(name)):
            facts.append((title, duration(value)))
    where = ", ".join(str(provenance[name]) for name in ("host", "device") if provenance.get(name))
    if where:
        facts.append(("machine and device", where))
    if seed := manifest.meaning.get("seed"):
        facts.append(("seed", str(seed)))
    quarantined = manifest.quarantined
    place = manifest_path(manifest.kind, manifest.key)
    facts.append(("files", f"{len(manifest.records)} with SHA-256, {size(manifest.size)}, listed in {place}"))
    if quarantined:
        facts.append(("quarantined images", "; ".join(f"{item.image}: {item.reason}" for item in quarantined)))
    versions = provenance.get("versions")
    if isinstance(versions, dict) and versions != experiment.run.versions:
        facts.append(("versions", ", ".join(f"{name} {text}" for name, text in versions.items())))
    return facts
