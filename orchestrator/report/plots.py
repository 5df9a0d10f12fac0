"""Which charts an experiment has: a sweep as in the paper's Tables 2 to 5, or over the grid, and PmIoU against mIoU.

The model: a sweep is drawn over the rows of Tables 2 to 5, or over the keys that vary. Ours and the paper's share
a scale only where they may be compared; else they stand in two charts, as values at different scales in one chart would
both look flat. PmIoU is there to choose labels before anything is trained, so its rank correlation with mIoU over the
trained cells says whether it did its work.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.report.comparing import (
    Result,
    comparable,
    dataset_title,
    published,
)
from orchestrator.report.drawing import Point, Series, category_chart, scatter_chart
from orchestrator.report.heat_map import Field, heat_map
from orchestrator.report.reading import Experiment
from orchestrator.report.tables import metrics_of
from orchestrator.results.cells import finite
from orchestrator.results.metrics import Metric
from orchestrator.results.statistics import RankCorrelation
from orchestrator.spec.naming import described, differing, shown
from workloads.formats import counted, figure

_AXES = {
    "table2": "number of clusters K (M: number of classes)",
    "table3": "superpixels per image",
    "table4": "outliers removed",
    "table5": "images that are clustered",
}
_KEY_AXES = {
    "labels.clustering.k_per_class": "clusters per class (K / M)",
    "labels.clustering.k": "number of clusters K",
    "labels.superpixels.n_segments": "superpixels per image",
    "labels.superpixels": "superpixels",
    "labels.outliers": "share of outliers removed",
    "labels.images": "images that are clustered",
}
_LINES = 4


@dataclass(frozen=True)
class Chart:
    """A drawn chart: its title, the SVG, the series of its legend as (name, style), and a line of text below."""

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...] = ()
    remark: str = ""


def sweeps(experiment: Experiment, results: list[Result]) -> list[Chart]:
    """Every metric over the rows of Tables 2 to 5, over the one key that the grid varies, or over two as a heat map."""
    charts = []
    layout = experiment.layout or ""
    for dataset in dict.fromkeys(result.dataset for result in results):
        here = [result for result in results if result.dataset == dataset]
        keys = differing(here)
        named = any(result.row or result.column for result in here)
        if layout in _AXES:
            places = [result.row or described(result.values, keys) for result in here]
            axis = _AXES[layout]
        elif layout or named or len(keys) not in (1, 2):
            continue
        elif len(keys) == 2:
            charts += _heat_maps(here, keys)
            continue
        else:
            places = [shown(result.values.get(keys[0])) for result in here]
            axis = _axis(keys[0])
        categories = list(dict.fromkeys(places))
        if len(categories) > 1:
            for metric in metrics_of(here):
                charts += _sweep(experiment, here, places, categories, metric, axis)
    return charts


def _axis(key: str) -> str:
    return _KEY_AXES.get(key, key)


def _heat_maps(results: Sequence[Result], keys: Sequence[str]) -> list[Chart]:
    """A heat map for every metric: the first key down, the second across."""
    down, across = keys
    charts = []
    for metric in metrics_of(results):
        fields = [
            Field(
                shown(result.values.get(down)),
                shown(result.values.get(across)),
                spread.mean,
                spread.deviation,
                f"{described(result.values, keys)}: {metric.heading} {spread.text(metric.digits)}",
            )
            for result in results
            if (spread := result.spread(metric.name)) is not None
        ]
        if len(fields) > 1:
            title = f"{metric.heading} on {dataset_title(results[0].dataset)}"
            svg = heat_map(title, _axis(down), _axis(across), fields)
            charts.append(Chart(title, svg, remark="The outlined field is the best."))
    return charts


def _sweep(
    experiment: Experiment,
    results: list[Result],
    places: list[str],
    categories: list[str],
    metric: Metric,
    axis: str,
) -> list[Chart]:
    lines: dict[str, list[Result | None]] = {}
    for result, place in zip(results, places, strict=True):
        alike = [other for other, where in zip(results, places, strict=True) if where == place]
        name = ", ".join(filter(None, [result.column, described(result.values, differing(alike))])) or "ours"
        lines.setdefault(name, [None] * len(categories))[categories.index(place)] = result
    drawn = [(name, line) for name, line in lines.items() if any(r and r.spread(metric.name) for r in line)]
    charts = []
    own = [
        _own_series(name, "ours" if number == 0 else f"line-{number}", line, metric)
        for number, (name, line) in enumerate(drawn[:_LINES])
    ]
    left_out = f"{counted(len(drawn) - _LINES, 'more line')} in the table." if len(drawn) > _LINES else ""
    dataset = results[0].dataset
    unit = f"{metric.title}, %"
    papers = _paper_series(experiment, results, places, categories, metric) if metric.paper else {}
    # What the paper says of our data set is enough, where it says anything.
    papers = {dataset: papers[dataset]} if dataset in papers else papers
    together = [papers.pop(dataset)] if own and dataset in papers and comparable(experiment) else []
    if own:
        title = f"{metric.heading} on {dataset_title(dataset)}"
        charts.append(_category(title, axis, unit, categories, [*own, *together], left_out))
    for name, series in papers.items():
        title = f"{metric.title} in the paper, on {dataset_title(name)}"
        charts.append(_category(title, axis, unit, categories, [series], "Another scale: not comparable with ours."))
    return charts


def _category(title: str, axis: str, unit: str, categories: list[str], series: list[Series], remark: str) -> Chart:
    svg = category_chart(title, axis, unit, categories, series)
    legend = tuple((one.name, one.style) for one in series) if len(series) > 1 else ()
    return Chart(title, svg, legend, remark)


def _own_series(name: str, style: str, line: Sequence[Result | None], metric: Metric) -> Series:
    spreads = [result.spread(metric.name) if result else None for result in line]
    hints = []
    for result, spread in zip(line, spreads, strict=True):
        numbers = ", ".join(str(number) for number, _ in result.cells) if result else ""
        hints.append(f"{name}: {figure(spread.mean)} (cells {numbers})" if spread else "")
    return Series(
        name,
        style,
        [spread.mean if spread else None for spread in spreads],
        [spread.deviation if spread else None for spread in spreads],
        hints,
    )


def _paper_series(
    experiment: Experiment, results: list[Result], places: list[str], categories: list[str], metric: Metric
) -> dict[str, Series]:
    """What the paper prints along the categories, by data set."""
    found: dict[str, list[float | None]] = {}
    for result, place in zip(results, places, strict=True):
        figures = published(experiment, result.row, result.column, str(metric.paper))
        own = result.paper(str(metric.paper))
        for dataset, value in (figures if own is None else figures | {result.dataset: own}).items():
            line = found.setdefault(dataset, [None] * len(categories))
            line[categories.index(place)] = finite(value)
    return {
        dataset: Series(
            "paper", "paper", values, hints=[f"paper, {dataset}: {value:g}" if value else "" for value in values]
        )
        for dataset, values in found.items()
        if any(value is not None for value in values)
    }


def predictions(results: Iterable[Result]) -> list[Chart]:
    """PmIoU against mIoU over the trained cells, for every data set and column of its own."""
    results = list(results)
    charts = []
    for dataset, column in dict.fromkeys((result.dataset, result.column) for result in results):
        here = [result for result in results if (result.dataset, result.column) == (dataset, column)]
        metric = metrics_of(here)[1]
        points = []
        for result in here:
            for number, cell in result.cells:
                pmiou, miou = cell.metrics.number("pmiou"), cell.metrics.number(metric.name)
                if pmiou is not None and miou is not None:
                    name = result.row or described(result.values, differing(here)) or "the only setting"
                    hint = f"cell {number}, {name}: PmIoU {figure(pmiou)}, mIoU {figure(miou)}"
                    points.append(Point(pmiou, miou, str(number), hint))
        if len(points) < 2:
            continue
        title = f"PmIoU and {metric.heading} on {', '.join(filter(None, [dataset_title(dataset), column]))}"
        svg = scatter_chart(title, "PmIoU of the labels, %", "mIoU, %", points)
        remark = f"{RankCorrelation.of([(p.x, p.y) for p in points])} The numbers are those of the cells."
        charts.append(Chart(title, svg, remark=remark))
    return charts
