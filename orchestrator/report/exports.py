"""The report as CSV, one row per cell, and as Markdown, the tables.

The model: the CSV holds every scalar of a cell under a dotted name, unrounded, for whoever computes on; the Markdown
holds the same tables as the page, for a README or an issue. The failure this guards against: numbers that have to be
typed off a page.
"""

import csv
import io
import json
from typing import Any

from orchestrator.report.assembling import Report
from orchestrator.report.comparing import dataset_of
from orchestrator.report.tables import STANDS_OUT, Entry, Table, letter
from orchestrator.results.cells import finite

_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_[]|#~"} | {"<": "&lt;", ">": "&gt;"})


def render_csv(report: Report) -> bytes:
    """One row per cell, one column per scalar, UTF-8; empty where a cell has no such value."""
    experiment = report.experiment
    result_of = {number: result for result in report.results for number, _ in result.cells}
    rows: list[dict[str, Any]] = []
    for number, cell in enumerate(experiment.cells):
        cost = report.cell_costs.cells[number]
        paper = cell.paper or {}
        rows.append(
            {
                "experiment": experiment.name,
                "cell": number,
                "result": result_of[number].number,
                "row": cell.row,
                "column": cell.column,
                "dataset": dataset_of(experiment, cell),
                "size": experiment.size,
                "status": cell.status.value,
                "error": cell.error,
                "reason": cell.reason,
            }
            | {f"cell.{key}": _scalar(value) for key, value in cell.values.items()}
            | _flat("metrics", cell.metrics.model_dump(exclude_unset=True))
            | {f"paper.{name}": value for name, value in paper.items()}
            | _flat("images", {role: counts.model_dump() for role, counts in cell.images.items()})
            | {f"seconds.{role}": seconds for role, seconds in cell.seconds.items()}
            | {
                "seconds_alone": cost.alone.seconds,
                "seconds_share": cost.share.seconds,
                "gpu_hours_alone": cost.alone.gpu_hours,
                "gpu_hours_share": cost.share.gpu_hours,
                "shard_bytes_alone": cost.alone.shard_bytes,
                "shard_bytes_share": cost.share.shard_bytes,
                "model_bytes_alone": cost.alone.model_bytes,
                "model_bytes_share": cost.share.model_bytes,
                "quarantined": len(cell.quarantined),
                "notes": "; ".join(cell.substitutes),
            }
            | {f"step.{role}": key for role, key in cell.steps.items()}
        )
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _flat(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    """The scalars of nested mappings under dotted names; lists are no scalars."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and name != "matching":
            found |= _flat(f"{prefix}.{name}", value)
        elif value is None or isinstance(value, str | bool) or finite(value) is not None:
            found[f"{prefix}.{name}"] = value
    return found


def _scalar(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def render_markdown(report: Report) -> bytes:
    """Title, how it ended, and every table, UTF-8."""
    experiment = report.experiment
    states = _text(", ".join(f"{count} {status}" for status, count in experiment.counts.items()))
    size = f", size {experiment.size}" if experiment.size else ""
    parts = [f"# {_text(experiment.title)}", f"{_text(experiment.name)}{_text(size)}: {states}."]
    for status, cells in report.shortfalls.items():
        lines = [f"- {_text(cell.name)}: {_text(cell.why)}" for cell in cells]
        parts += [f"Cells {_text(status)}:", "\n".join(lines)]
    if experiment.doubts:
        parts.append("\n".join(f"- {_text(doubt)}" for doubt in experiment.doubts))
    if experiment.problems:
        parts.append("\n".join(f"- {_text(problem)}" for problem in experiment.problems))
    tables = (report.table, report.plain, *report.classes, report.costs)
    parts += [_table(table) for table in tables if table is not None]
    parts.append("## Where the numbers come from")
    parts.append("\n".join(f"- {name}: {_text(text)}" for name, text in report.provenance.run))
    return ("\n\n".join(parts) + "\n").encode()


def _table(table: Table) -> str:
    numeric = [False] * len(table.columns)
    for row in table.rows:
        for place, entry in enumerate(row):
            numeric[place] = numeric[place] or (place > 0 and entry.value is not None)
    lines = [
        _line([_text(name) for name in table.columns]),
        _line(["---:" if right else "---" for right in numeric]),
        *(_line([_place(entry) for entry in row]) for row in table.rows),
    ]
    parts = [f"## {_text(table.caption)}"]
    if table.warning:
        parts.append(f"**{_text(table.warning)}**")
    parts.append("\n".join(lines))
    if table.notes:
        # Markdown numbers lists itself, so each note is a paragraph with its letter.
        parts += [f"({letter(index)}) {_text(note)}" for index, note in enumerate(table.notes)]
    parts += [_text(remark) for remark in table.remarks]
    return "\n\n".join(parts)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _place(entry: Entry) -> str:
    if not entry.text:
        return ""
    letters = f" ({', '.join(entry.notes)})" if entry.notes else ""
    detail = f" ({_text(entry.detail)})" if entry.detail else ""
    text = f"**{_text(entry.text)}**" if entry.mark == STANDS_OUT else _text(entry.text)
    return f"{text}{detail}{letters}"


def _text(text: str) -> str:
    """Text that Markdown and the HTML inside it leave alone, on one line."""
    return " ".join(text.translate(_MARKDOWN).split())
