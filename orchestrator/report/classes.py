"""The IoU of each class: which of them a setting gains, and which it never finds."""

from collections.abc import Callable, Sequence

from orchestrator.report.comparing import Result, dataset_title
from orchestrator.report.tables import BEST, OURS, Entry, Heading, Table
from orchestrator.results.cells import Metrics
from orchestrator.results.statistics import Spread
from orchestrator.spec.naming import describe
from workloads.formats import figure

_MEASURES: tuple[tuple[str, Callable[[Metrics], list[float | None] | None]], ...] = (
    ("mIoU", lambda metrics: metrics.miou_per_class),
    ("PmIoU", lambda metrics: metrics.per_class_iou),
)


def class_tables(results: Sequence[Result]) -> list[Table]:
    """A table for every data set and measure: classes down, settings across, means over repeats."""
    tables = []
    for dataset in dict.fromkeys(result.dataset for result in results):
        here = [result for result in results if result.dataset == dataset]
        for title, values_of in _MEASURES:
            figures = {result.number: _means(result, values_of) for result in here}
            measured = [result for result in here if any(mean is not None for mean in figures[result.number])]
            if measured:
                caption = f"IoU of each class behind the {title} on {dataset_title(dataset)}, %"
                tables.append(_table(caption, measured, figures))
    return tables


def _means(result: Result, values_of: Callable[[Metrics], list[float | None] | None]) -> list[float | None]:
    """The mean IoU of every class over the repeats; None where the class occurs in none of them."""
    repeats = [values for _, cell in result.cells if (values := values_of(cell.metrics)) is not None]
    spreads = [Spread.of(value for value in found if value is not None) for found in zip(*repeats, strict=False)]
    return [spread.mean if spread else None for spread in spreads]


def _table(caption: str, results: Sequence[Result], figures: dict[int, list[float | None]]) -> Table:
    count = max(len(figures[result.number]) for result in results)
    named = next((result.protocol.class_names for result in results if result.protocol), [])
    names = [*named, *(f"class {number}" for number in range(len(named), count))]
    headings = [Heading("class", numeric=False), *(Heading(describe(result, results)) for result in results)]
    rows = []
    for number in range(count):
        values = [found[number] if number < len(found := figures[result.number]) else None for result in results]
        highest = max((value for value in values if value is not None), default=None)
        alone = len(results) > 1 and values.count(highest) == 1
        best = [alone and value is not None and value == highest for value in values]
        rows.append(
            [
                Entry(names[number]),
                *(
                    Entry("", OURS)
                    if value is None
                    else Entry(figure(value, 1), OURS, value, result.anchor, mark=BEST if is_best else "")
                    for result, value, is_best in zip(results, values, best, strict=True)
                ),
            ]
        )
    remarks = ["Marked: the best of a class. Empty: the class does not occur where it was scored."]
    return Table(caption, [headings], [heading.text for heading in headings], rows, remarks=remarks, dense=True)
