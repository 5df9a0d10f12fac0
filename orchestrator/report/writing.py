"""Writing reports: which experiments are meant, and the three files of each.

The model: a storage means all its experiments and an index of them, an experiment file means its own results on a
storage. A results file that cannot be read is named in the end and does not keep the other reports from being written.
"""

from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.ledger.layout import REPORT
from orchestrator.report.assembling import Report, assemble
from orchestrator.report.exports import render_csv, render_markdown
from orchestrator.report.page import IndexLine, render_index, render_report
from orchestrator.report.reading import read_experiment
from orchestrator.report.tables import best_entry
from orchestrator.results.cells import experiment_names
from orchestrator.results.metrics import MIOU, MIOU_MULTI_SCALE, PMIOU
from orchestrator.storage.store import Storage
from workloads.errors import GroupedInputError, InputError

_INDEX = "index.html"


@dataclass
class Written:
    """What was written: by experiment, the places of its files by kind; the index; one line for each that failed."""

    reports: dict[str, dict[str, str]] = field(default_factory=dict)
    index: str | None = None
    problems: list[str] = field(default_factory=list)


def write_one(storage: Storage, name: str, output: str | None) -> Written:
    """Write the report of one experiment.

    Raises:
        InputError: the storage is not there, or has no such results.
    """
    storage.require_folder()
    written = Written()
    _write(assemble(read_experiment(storage, name), storage), _target(storage, output), written)
    return written


def write_all(storage: Storage, output: str | None) -> Written:
    """Write the reports of all experiments of a storage, and an index.

    Raises:
        InputError: the storage is not there or has no results, or none of them can be read.
    """
    storage.require_folder()
    names = experiment_names(storage)
    if not names:
        raise InputError(f"storage {storage.uri} has no results/*.json to report on; `lookbeyond run` writes them")
    target = _target(storage, output)
    written = Written()
    lines = []
    for name in names:
        try:
            report = assemble(read_experiment(storage, name), storage)
        except InputError as error:
            written.problems.append(str(error))
            continue
        _write(report, target, written)
        lines.append(_index_line(report))
    if not lines:
        raise GroupedInputError(map(InputError, written.problems))
    target.replace(_INDEX, render_index(storage.uri, lines))
    written.index = target.locate(_INDEX)
    return written


def _target(storage: Storage, output: str | None) -> Storage:
    """Where the files go: below the storage itself unless another place is named."""
    if output is not None and "://" not in output:
        Path(output).mkdir(parents=True, exist_ok=True)
    return Storage(storage.locate(REPORT) if output is None else output)


def _write(report: Report, target: Storage, written: Written) -> None:
    name = report.experiment.name
    contents = {
        "html": (f"{name}.html", render_report(report)),
        "csv": (f"{name}.csv", render_csv(report)),
        "markdown": (f"{name}.md", render_markdown(report)),
    }
    for path, data in contents.values():
        target.replace(path, data)
    written.reports[name] = {kind: target.locate(path) for kind, (path, _) in contents.items()}


def _index_line(report: Report) -> IndexLine:
    experiment = report.experiment
    started = experiment.run.started or ""
    failed = experiment.counts["failed"]
    scores = [best_entry(report.results, metrics) for metrics in ([PMIOU], [MIOU, MIOU_MULTI_SCALE])]
    return IndexLine(experiment.name, experiment.title, started, len(experiment.cells), failed, scores)
