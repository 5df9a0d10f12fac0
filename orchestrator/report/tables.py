"""Tables as plain data: headings, rows and entries, which the page and the exports write down each in their own way.

The model: a table is a few levels of headings over leaf columns, and rows of entries. An entry is a text with, where it
is a number of ours, its value for sorting and the place of its provenance. `plain_table` lays out any experiment by the
keys of its grid; the layouts of the paper are in `layouts`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.report.comparing import Published, Result, dataset_title
from orchestrator.results.best import Best, best_of
from orchestrator.results.cells import finite
from orchestrator.results.metrics import (
    CLUSTERS,
    COVERAGE,
    MIOU,
    MIOU_MULTI_SCALE,
    PMIOU,
    SILHOUETTE,
    STABILITY,
    Metric,
)
from orchestrator.spec.naming import described, differing, short_keys, shown
from workloads.formats import counted, signed

OURS, PAPER, DIFFERENCE = "ours", "paper", "difference"
BEST, STANDS_OUT = "best", "best out"
NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Heading:
    """A heading over `span` leaf columns; `detail` is a second, smaller line."""

    text: str
    detail: str = ""
    span: int = 1
    depth: int = 1
    numeric: bool = True


@dataclass(frozen=True)
class Entry:
    """What stands in one place of a table; `notes` are letters of the table's notes, `hint` shows on hover.

    `mark` is BEST where it is the best of its column, STANDS_OUT where it is so over the spread of repeats as well.
    """

    text: str
    role: str = "label"
    value: float | None = None
    anchor: str | None = None
    hint: str = ""
    detail: str = ""
    notes: tuple[str, ...] = ()
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A caption, levels of headings, the leaf headings in one line each, rows, and notes lettered from a.

    `warning` is what a reader must know before looking, `remarks` what helps to read it; `dense` is set for many
    columns.
    """

    caption: str
    levels: list[list[Heading]]
    columns: list[str]
    rows: list[list[Entry]]
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    warning: str = ""
    sortable: bool = True
    dense: bool = False


class Notes:
    """The notes of a table: equal ones share a letter, and what holds for every result is said once, without one."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.texts: list[str] = []
        shared = [note for note in results[0].notes if all(note in other.notes for other in results)] if results else []
        self._common = shared if len(results) > 1 else []

    def letters(self, result: Result) -> tuple[str, ...]:
        """The letters of the notes that tell a result from others."""
        own = [note for note in result.notes if note not in self._common]
        self.texts += [note for note in own if note not in self.texts]
        return tuple(letter(index) for index in sorted(self.texts.index(note) for note in own))

    @property
    def remarks(self) -> list[str]:
        """What holds for every result."""
        return [f"In every cell: {note}." for note in self._common]


def letter(index: int) -> str:
    """a to z, then aa, ab and so on: figures beside a figure would read as a part of it."""
    name = chr(ord("a") + index % 26)
    return name if index < 26 else letter(index // 26 - 1) + name


class Marks:
    """Which results are the best of their data set and column, by every metric that has a better and a worse."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._found: dict[tuple[int, str], Best[Result]] = {}
        groups: dict[tuple[str, str | None], list[Result]] = {}
        for result in results:
            groups.setdefault((result.dataset, result.column), []).append(result)
        for group in groups.values():
            for metric in (PMIOU, MIOU, MIOU_MULTI_SCALE):
                best = best_of((result, result.spread(metric.name)) for result in group)
                if best is not None:
                    self._found[best.setting.number, metric.name] = best

    def mark(self, result: Result, metric: Metric) -> str:
        """How a figure is marked."""
        best = self._found.get((result.number, metric.name))
        return "" if best is None else STANDS_OUT if best.stands_out else BEST

    @property
    def remarks(self) -> list[str]:
        """What the marks mean, where there are any."""
        if not self._found:
            return []
        return [
            "Marked: the best of a column; bold where it is more than two standard errors of a difference between "
            "seeds above the next."
        ]


def ours(result: Result | None, metric: Metric, marks: Marks, notes: tuple[str, ...] = ()) -> Entry:
    """Our figure of a result: mean and deviation, or what kept it from being there."""
    if result is None:
        return Entry("", OURS)
    spread = result.spread(metric.name)
    hints = [f"cell {number}: {cell.reason}" for number, cell in result.cells if cell.reason]
    hints += [f"cell {number}: {cell.error or 'failed'}" for number, cell in result.failed]
    if spread is None:
        text = "failed" if len(result.failed) == len(result.cells) else NOTHING
        return Entry(text, "failed" if text == "failed" else OURS, None, result.anchor, "; ".join(hints), notes=notes)
    text = spread.text(metric.digits)
    values = [cell.metrics.number(metric.name) for _, cell in result.cells]
    exact = ", ".join(f"{value:.6g}" for value in values if value is not None)
    detail = f"{len(result.failed)} of {len(result.cells)} repeats failed" if result.failed else ""
    hint = "; ".join([f"{metric.title} {exact}", *hints])
    return Entry(text, OURS, spread.mean, result.anchor, hint, detail, notes, marks.mark(result, metric))


def best_entry(results: Sequence[Result], metrics: Sequence[Metric]) -> Entry:
    """The highest figure of any result, by the last of the metrics that was measured; empty where none was."""
    for metric in reversed(metrics):
        measured = [(spread.mean, spread) for result in results if (spread := result.spread(metric.name)) is not None]
        if measured:
            _, spread = max(measured, key=lambda pair: pair[0])
            return Entry(spread.text(metric.digits), OURS, spread.mean, detail=metric.detail)
    return Entry("", OURS)


def papers(value: Published | None) -> Entry:
    """The paper's figure, as it prints it."""
    if value is None:
        return Entry("", PAPER)
    if isinstance(value, str):
        return Entry(value, PAPER)
    return Entry(f"{value:.1f}" if round(value, 1) == value else f"{value:g}", PAPER, float(value))


def difference(result: Result | None, metric: Metric) -> Entry:
    """Ours minus the paper's; empty where either is missing or the paper only gives a bound."""
    paper = result.paper(metric.paper) if result and metric.paper else None
    spread = result.spread(metric.name) if result else None
    if spread is None or paper is None or isinstance(paper, str):
        return Entry("", DIFFERENCE)
    value = spread.mean - float(paper)
    return Entry(signed(value), DIFFERENCE, value)


def metrics_of(results: Sequence[Result]) -> list[Metric]:
    """The paper's two figures of merit, the second at the scales at which it was measured.

    The paper's mIoU is compared with multi-scale + flip where that was measured: its PSPNet baseline equals the
    published multi-scale figures of the code that it most likely used.
    """

    def measured(name: str) -> bool:
        return any(result.spread(name) is not None for result in results)

    several = measured("miou_multi_scale")
    chosen = [PMIOU]
    if measured("miou") or not several:
        detail = "single scale" if measured("miou") else ""
        chosen.append(replace(MIOU, detail=detail, paper=None if several else MIOU.paper))
    return [*chosen, MIOU_MULTI_SCALE] if several else chosen


def has_paper(results: Iterable[Result], metric: Metric) -> bool:
    """Whether the paper prints this metric for any of the results."""
    return metric.paper is not None and any(result.paper(metric.paper) is not None for result in results)


def protocol_line(results: Iterable[Result]) -> str:
    """Split, classes and number of scored images, as far as the results agree on them."""
    protocols = [result.protocol for result in results if result.protocol]
    parts = [
        {protocol.split for protocol in protocols if protocol.split is not None},
        {counted(protocol.classes, "class", "classes") for protocol in protocols if protocol.classes is not None},
        {counted(each.scored_images, "image") for each in protocols if each.scored_images is not None},
    ]
    return ", ".join(values.pop() for values in parts if len(values) == 1)


def plain_table(results: list[Result], compared: list[Metric], caption: str) -> Table:
    """Every result with the keys of the grid that tell it from the others, the metrics, and how it ended."""
    keys = differing(results)
    labels: list[tuple[str, Any]] = []
    if any(result.row is not None for result in results):
        labels.append(("row", lambda result: result.row or ""))
    if any(result.column is not None for result in results):
        labels.append(("column", lambda result: result.column or ""))
    if len({result.dataset for result in results}) > 1:
        labels.append(("data set", lambda result: dataset_title(result.dataset)))
    # Rows and columns have names, so the keys that make them up would say the same again.
    if not labels or len({(r.row, r.column, r.dataset) for r in results}) < len(results):
        labels += [(name, _value_of(key)) for key, name in short_keys(keys).items() if key != "dataset.name"]
    if not labels:
        labels = [("result", lambda result: "the only cell")]
    scored = any(result.spread(metric.name) is not None for result in results for metric in compared)
    unlabelled = () if scored else (SILHOUETTE, STABILITY)
    constant = _constants(results)
    metrics = [
        metric
        for metric in (*compared, COVERAGE, CLUSTERS, *unlabelled)
        if any(result.spread(metric.name) is not None for result in results) or has_paper(results, metric)
        if metric.name not in constant
    ]
    repeated = any(len(result.cells) > 1 for result in results) and "repeats" not in constant
    first: list[Heading] = [Heading(title, depth=2, numeric=False) for title, _ in labels]
    second: list[Heading] = []
    columns = [title for title, _ in labels]
    for metric in metrics:
        with_paper = has_paper(results, metric)
        first.append(Heading(metric.title, metric.detail, 3 if with_paper else 1, 1 if with_paper else 2))
        if with_paper:
            second += [Heading(text) for text in (OURS, PAPER, DIFFERENCE)]
            columns += [f"{metric.heading}: {text}" for text in (OURS, PAPER, DIFFERENCE)]
        else:
            columns.append(metric.heading)
    if repeated:
        first.append(Heading("repeats", depth=2))
        columns.append("repeats")
    first.append(Heading("status", depth=2, numeric=False))
    columns.append("status")
    if not second:
        first = [replace(heading, depth=1) for heading in first]
    notes, marks = Notes(results), Marks(results)
    rows = [
        [
            *_labels(result, labels, notes),
            *_measures(result, metrics, results, marks),
            *([Entry(str(len(result.cells)), "count", float(len(result.cells)))] if repeated else []),
            _status(result),
        ]
        for result in results
    ]
    protocol = protocol_line(results)
    datasets = ", ".join(dict.fromkeys(dataset_title(result.dataset) for result in results))
    remarks = [f"Scored on {datasets}: {protocol}." if protocol else f"Data set: {datasets}."]
    remarks += [f"In every row: {', '.join(constant.values())}."] if constant else []
    remarks += [*notes.remarks, *marks.remarks]
    return Table(caption, [first, second] if second else [first], columns, rows, notes.texts, remarks)


def _constants(results: Sequence[Result]) -> dict[str, str]:
    """What is the same in every row and is said once, by the key, the metric or the column that it is."""
    if len(results) < 2:
        return {}
    first, different = results[0], differing(results)
    found = {key: described(first.values, [key]) for key in first.values if key not in different}
    for metric in (COVERAGE, CLUSTERS):
        spreads = [result.spread(metric.name) for result in results]
        texts = {spread.text(metric.digits) if spread else "" for spread in spreads}
        if len(texts) == 1 and (text := texts.pop()):
            found[metric.name] = f"{metric.title} {text}"
    if len({len(result.cells) for result in results}) == 1 and len(first.cells) > 1:
        found["repeats"] = counted(len(first.cells), "repeat")
    return found


def _value_of(key: str) -> Any:
    return lambda result: shown(result.values[key]) if key in result.values else ""


def _labels(result: Result, labels: list[tuple[str, Any]], notes: Notes) -> list[Entry]:
    entries = [Entry(take(result), value=_as_number(take(result))) for _, take in labels]
    entries[0] = replace(entries[0], notes=notes.letters(result), anchor=result.anchor)
    return entries


def _as_number(text: str) -> float | None:
    try:
        return finite(float(text))
    except ValueError:
        return None


def _measures(result: Result, metrics: list[Metric], results: list[Result], marks: Marks) -> list[Entry]:
    entries = []
    # A result that has failed altogether says so once, as its status.
    ended = len(result.failed) < len(result.cells)
    for metric in metrics:
        entries.append(ours(result, metric, marks) if ended else Entry("", OURS))
        if has_paper(results, metric):
            entries += [papers(result.paper(str(metric.paper))), difference(result, metric)]
    return entries


def _status(result: Result) -> Entry:
    states = dict.fromkeys(cell.status for _, cell in result.cells)
    text = ", ".join(state.value for state in states)
    whys = [(number, cell.error or cell.reason) for number, cell in result.cells]
    hint = "; ".join(f"cell {number}: {why}" for number, why in whys if why)
    return Entry(text, "status failed" if result.failed else "status", anchor=result.anchor, hint=hint)
