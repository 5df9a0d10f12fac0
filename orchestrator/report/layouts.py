"""The tables of the paper: which results stand in which row and column, with the paper's figure beside each.

The model: a layout is how the paper prints one of its tables. Rows are named by the experiment file; what else varies
within a row (weights, data sets, a grid beside the rows) makes further rows or column groups, so that nothing is
averaged that the paper does not average. Tables 3 to 5 lie on their side there, so they do here. Where the paper has no
figure for our data set, the figures of its data sets stand beside, and no difference is taken.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from orchestrator.report.comparing import (
    Result,
    comparable,
    dataset_title,
    published,
    warning_of,
)
from orchestrator.report.reading import Experiment
from orchestrator.report.tables import (
    DIFFERENCE,
    OURS,
    PAPER,
    Entry,
    Heading,
    Marks,
    Notes,
    Table,
    difference,
    has_paper,
    metrics_of,
    ours,
    papers,
    protocol_line,
)
from orchestrator.results.metrics import Metric
from orchestrator.spec.naming import described, differing

# The descriptions of Table 1's rows, as the paper prints them: feature extractor, clustering, superpixel.
_TABLE_1 = {
    "1": ("-", "-", "-"),
    "2": ("-", "-", "✓"),
    "3": ("ResNet-50 (MoCo)", "K-means", "-"),
    "4": ("ResNet-50 (MoCo)", "K-means", "✓"),
    "5": ("ResNet-50 (MoCo)", "DBSCAN", "✓"),
    "6": ("VGG-19 (ImageNet)", "K-means", "✓"),
    "7": ("ResNet-50 (ImageNet)", "K-means", "✓"),
    "8": ("DeepLabV3 (Pascal VOC)", "K-means", "✓"),
    "9": ("DeepLabV3 (*)", "K-means", "✓"),
}


@dataclass(frozen=True)
class Layout:
    """How a table of the paper is laid out: what heads its rows, whether it lies on its side, what it measures."""

    heads: str
    metrics: tuple[str, ...] = ("pmiou", "miou")
    columns: str = ""
    on_its_side: bool = False


LAYOUTS = {
    "table1": Layout("#"),
    "table2": Layout("K"),
    "table3": Layout("# superpixels", on_its_side=True),
    "table4": Layout("Outliers removed", on_its_side=True),
    "table5": Layout("# images", on_its_side=True),
    "table6": Layout("Method", ("miou",)),
    "table7": Layout("Pre-training", ("miou",), columns="# labeled images"),
}


@dataclass(frozen=True)
class _Row:
    """A row of the paper's table, or one variant of it where more varies than the paper varies."""

    name: str | None
    variant: str

    @property
    def text(self) -> str:
        return ", ".join(filter(None, [self.name, self.variant])) or "all"


# Row, data set and column of a result.
_Place = tuple[_Row, str, str | None]


@dataclass(frozen=True)
class _Slot:
    """A metric on a data set in a column; `figures` are those of ours, paper and difference that it has.

    `first` marks the first metric of a data set and column, which carries the notes; `reference` a data set of the
    paper's on which nothing was run here.
    """

    dataset: str
    column: str | None
    metric: Metric
    figures: tuple[str, ...]
    first: bool = False
    reference: bool = False


def laid_out(experiment: Experiment, results: list[Result]) -> Table | None:
    """The experiment as the paper prints it; None when it names no layout of the paper."""
    layout = LAYOUTS.get(experiment.layout or "")
    if layout is None or not results:
        return None
    places = _places(results)
    rows = list(dict.fromkeys(row for row, _, _ in places))
    slots = _slots(experiment, layout, results)
    page = _Page(experiment, layout, rows, slots, places, Notes(results), Marks(results))
    table = page.on_its_side() if layout.on_its_side else page.upright()
    return replace(
        table,
        remarks=_remarks(experiment, results, slots) + page.notes.remarks + page.marks.remarks,
        warning=warning_of(experiment, results),
    )


def _places(results: Sequence[Result]) -> dict[_Place, Result]:
    """Each result at its row, data set and column."""
    keys_of: dict[str | None, list[str]] = {}
    buckets: dict[tuple[str | None, str, str | None], list[Result]] = {}
    for result in results:
        buckets.setdefault((result.row, result.dataset, result.column), []).append(result)
    for (row, _, _), bucket in buckets.items():
        keys = keys_of.setdefault(row, [])
        keys += [key for key in differing(bucket) if key not in keys]
    return {
        (_Row(result.row, described(result.values, keys_of[result.row])), result.dataset, result.column): result
        for result in results
    }


def _slots(experiment: Experiment, layout: Layout, results: list[Result]) -> list[_Slot]:
    columns = list(dict.fromkeys(result.column for result in results))
    measured = [
        metric
        for metric in metrics_of(results)
        if (metric.paper in layout.metrics or metric.name in layout.metrics) and _known(experiment, results, metric)
    ]
    slots = []
    for dataset in dict.fromkeys(result.dataset for result in results):
        for column in columns:
            here = [result for result in results if (result.dataset, result.column) == (dataset, column)]
            for metric in measured:
                figures = (OURS, PAPER, DIFFERENCE) if has_paper(here, metric) else (OURS,)
                slots.append(_Slot(dataset, column, metric, figures, first=metric is measured[0]))
    if not any(PAPER in slot.figures for slot in slots):
        slots += _references(experiment, results, columns, [metric for metric in measured if metric.paper])
    return slots


def _known(experiment: Experiment, results: list[Result], metric: Metric) -> bool:
    """Whether anyone has a figure of this metric, or it is one of those that a run would have given."""
    measured = any(result.spread(metric.name) is not None for result in results)
    return (
        measured
        or metric.name != "pmiou"
        or any(
            result.paper("pmiou") is not None or published(experiment, result.row, result.column, "pmiou")
            for result in results
        )
    )


def _references(
    experiment: Experiment, results: list[Result], columns: list[str | None], metrics: list[Metric]
) -> list[_Slot]:
    """The paper's own data sets, where it prints nothing for ours."""
    found: dict[tuple[str, str | None, Metric], None] = {}
    for metric in metrics:
        for result in results:
            for dataset in published(experiment, result.row, result.column, str(metric.paper)):
                found[dataset, result.column, metric] = None
    datasets = dict.fromkeys(dataset for dataset, _, _ in found)
    return [
        _Slot(dataset, column, metric, (PAPER,), reference=True)
        for dataset in datasets
        for column in columns
        for metric in metrics
        if (dataset, column, metric) in found
    ]


@dataclass(frozen=True)
class _Page:
    """The rows and slots of a table, and which result stands where they meet."""

    experiment: Experiment
    layout: Layout
    rows: list[_Row]
    slots: list[_Slot]
    places: dict[_Place, Result]
    notes: Notes
    marks: Marks

    def entries(self, row: _Row, slot: _Slot) -> list[Entry]:
        """The figures of a slot in a row."""
        if slot.reference:
            printed = published(self.experiment, row.name, slot.column, str(slot.metric.paper))
            return [papers(printed.get(slot.dataset))]
        result = self.places.get((row, slot.dataset, slot.column))
        letters = self.notes.letters(result) if result and slot.first else ()
        made = {OURS: ours(result, slot.metric, self.marks, letters)}
        if PAPER in slot.figures:
            made[PAPER] = papers(result.paper(str(slot.metric.paper)) if result else None)
            made[DIFFERENCE] = difference(result, slot.metric)
        return [made[name] for name in slot.figures]

    def upright(self) -> Table:
        """A line per row; data sets, columns and metrics head the figures."""
        heads = self.row_heads()
        body = [
            [*(entry_of[row] for _, entry_of in heads), *(e for slot in self.slots for e in self.entries(row, slot))]
            for row in self.rows
        ]
        titles = [title for title, _ in heads]
        columns = titles + [_leaf(slot, name) for slot in self.slots for name in slot.figures]
        return Table(self.caption, self.levels(titles), columns, body, self.notes.texts)

    def on_its_side(self) -> Table:
        """A line per figure; the rows head the columns."""
        several = len({slot.dataset for slot in self.slots}) > 1
        body: list[list[Entry]] = []
        for slot in self.slots:
            across = [self.entries(row, slot) for row in self.rows]
            for index, name in enumerate(slot.figures):
                head = Entry(_leaf(slot, name) if several else _within_dataset(slot, name), name)
                body.append([head, *(entries[index] for entries in across)])
        level = [Heading(self.layout.heads, numeric=False), *(Heading(row.text) for row in self.rows)]
        columns = [heading.text for heading in level]
        return Table(self.caption, [level], columns, body, self.notes.texts, sortable=False)

    @property
    def caption(self) -> str:
        """What the table follows."""
        return f"Laid out as the paper's Table {str(self.experiment.layout).removeprefix('table')}"

    def levels(self, titles: list[str]) -> list[list[Heading]]:
        """The headings of an upright table: data set, column (where there are columns), metric, figure."""
        with_columns = any(slot.column is not None for slot in self.slots)
        with_figures = any(len(slot.figures) > 1 for slot in self.slots)
        levels: list[list[Heading]] = [[] for _ in range(2 + with_columns + with_figures)]
        levels[0] = [Heading(title, depth=len(levels), numeric=False) for title in titles]
        for dataset, reference in dict.fromkeys((slot.dataset, slot.reference) for slot in self.slots):
            mine = [slot for slot in self.slots if (slot.dataset, slot.reference) == (dataset, reference)]
            levels[0].append(self.dataset_heading(dataset, mine))
            if with_columns:
                for column in dict.fromkeys(slot.column for slot in mine):
                    title = f"{self.layout.columns} {column or ''}".strip()
                    levels[1].append(Heading(title, span=_width(slot for slot in mine if slot.column == column)))
            for slot in mine:
                alone = len(slot.figures) == 1
                detail = "" if reference else slot.metric.detail
                depth = 2 if alone and with_figures else 1
                levels[1 + with_columns].append(Heading(slot.metric.title, detail, len(slot.figures), depth))
                levels[-1] += [] if alone else [Heading(name) for name in slot.figures]
        return levels

    def dataset_heading(self, dataset: str, slots: list[_Slot]) -> Heading:
        """A data set with its protocol; one of the paper's says that it is no match for ours."""
        if slots[0].reference:
            title = f"the paper on {dataset_title(dataset)}"
            return Heading(title, "other data, not comparable", _width(slots))
        protocol = protocol_line(result for (_, name, _), result in self.places.items() if name == dataset)
        return Heading(dataset_title(dataset), protocol, _width(slots))

    def row_heads(self) -> list[tuple[str, dict[_Row, Entry]]]:
        """The columns that name the rows: one, and in Table 1 the paper's four."""
        if self.experiment.layout == "table1":
            found = {row: re.match(r"#?\s*([1-9])(?![0-9])", row.name or "") for row in self.rows}
            numbers = {row: match.group(1) for row, match in found.items() if match}
            if len(numbers) == len(self.rows):
                return self.conditions(numbers)
        return [(self.layout.heads, {row: Entry(row.text) for row in self.rows})]

    def conditions(self, numbers: dict[_Row, str]) -> list[tuple[str, dict[_Row, Entry]]]:
        """Table 1's conditions as the paper describes them; other networks that stand in for the paper's are named."""
        heads = [("#", {row: Entry(number, "count", float(number)) for row, number in numbers.items()})]
        for place, title in enumerate(("Feature extractor", "Clustering", "Superpixel")):
            heads.append((title, {row: Entry(_TABLE_1[number][place]) for row, number in numbers.items()}))
        networks = {row: _network(self.experiment, result) for (row, _, _), result in self.places.items()}
        if not comparable(self.experiment) and any(networks.values()):
            heads.append(("Network here", {row: Entry(networks[row]) for row in self.rows}))
        if any(row.variant for row in self.rows):
            heads.append(("Variant", {row: Entry(row.variant) for row in self.rows}))
        return heads


def _width(slots: Iterable[_Slot]) -> int:
    return sum(len(slot.figures) for slot in slots)


def _network(experiment: Experiment, result: Result) -> str:
    """The architecture that made the features of a result, from the manifest of its samples."""
    for _, cell in result.cells:
        manifest = experiment.manifests.get(cell.steps.get("sample", ""))
        extractor = manifest.meaning.get("extractor") if manifest else None
        if isinstance(extractor, dict) and extractor.get("arch"):
            return str(extractor["arch"])
    return ""


def _leaf(slot: _Slot, name: str) -> str:
    """The heading of a single figure in one line."""
    return f"{dataset_title(slot.dataset)}, {_within_dataset(slot, name)}"


def _within_dataset(slot: _Slot, name: str) -> str:
    detail = slot.metric.detail if name == OURS else ""
    return ", ".join(filter(None, [slot.column, slot.metric.title, detail])) + f": {name}"


def _remarks(experiment: Experiment, results: list[Result], slots: list[_Slot]) -> list[str]:
    """What a reader must know before comparing."""
    remarks = []
    if LAYOUTS[str(experiment.layout)].on_its_side:
        for dataset in dict.fromkeys(result.dataset for result in results):
            line = protocol_line(result for result in results if result.dataset == dataset)
            remarks += [f"Scored on {dataset_title(dataset)}: {line}."] if line else []
    compared = any(DIFFERENCE in slot.figures for slot in slots)
    if compared:
        remarks.append("difference = ours " + "minus the paper's, in percentage points; positive: ours is higher.")
    if any(DIFFERENCE in slot.figures and slot.metric.name == "miou_multi_scale" for slot in slots):
        remarks.append(
            "The paper's mIoU stands beside our multi-scale + flip figure: the supplement does not name its scales, "
            "but its PSPNet baseline equals published multi-scale figures."
        )
    if any(len(result.cells) > 1 for result in results):
        most = max(len(result.cells) for result in results)
        remarks.append(f"± is the sample standard deviation over up to {most} repeats with other seeds.")
    return remarks
