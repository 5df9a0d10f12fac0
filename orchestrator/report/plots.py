"""Which charts an experiment has: a sweep as in the paper's Tables 2 to 5, training curves, and PmIoU against mIoU.

The model: a sweep is drawn over the rows of Tables 2 to 5, or over the one key that varies. Ours and the paper's share
a scale only where they may be compared; else they stand in two charts, as values at different scales in one chart would
both look flat. PmIoU is there to choose labels before anything is trained, so its rank correlation with mIoU over the
trained cells says whether it did its work.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.ledger.training_states import VAL_MIOU_SUBSET
from orchestrator.report.comparing import (
    Result,
    comparable,
    dataset_title,
    published,
)
from orchestrator.report.drawing import Point, Series, category_chart, scatter_chart, step_chart
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
    """Every metric over the rows of Tables 2 to 5, or over the one key that the grid varies."""
    charts = []
    layout = experiment.layout or ""
    for dataset in dict.fromkeys(result.dataset for result in results):
        here = [result for result in results if result.dataset == dataset]
        if layout in _AXES:
            categories = list(dict.fromkeys(result.row or described(result.values, differing(here)) for result in here))
            places = [result.row or described(result.values, differing(here)) for result in here]
            axis = _AXES[layout]
        else:
            keys = [key for key in differing(here) if key in _KEY_AXES]
            if layout or len(keys) != 1 or any(result.row for result in here):
                continue
            places = [shown(result.values.get(keys[0])) for result in here]
            categories = list(dict.fromkeys(places))
            axis = _KEY_AXES[keys[0]]
        if len(categories) < 2:
            continue
        for metric in metrics_of(here):
            charts += _sweep(experiment, here, places, categories, metric, axis)
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


def training_curves(experiment: Experiment) -> dict[str, list[Chart]]:
    """Loss over steps (and mIoU, where it was measured on the way) of every training, by kind; one scale per kind."""
    users: dict[str, list[int]] = {}
    for number, cell in enumerate(experiment.cells):
        for key in dict.fromkeys(cell.steps.values()):
            users.setdefault(key, []).append(number)
    charts: dict[str, list[Chart]] = {}
    for kind, title in (("pretrain", "Pre-training"), ("finetune", "Fine-tuning")):
        histories = {key: rows for key, rows in experiment.histories.items() if experiment.manifests[key].kind == kind}
        for metric, label in (("loss", "loss"), (VAL_MIOU_SUBSET, "val mIoU, %")):
            curves = {
                key: [(row["step"], row[metric]) for row in rows if finite(row.get(metric)) is not None]
                for key, rows in histories.items()
            }
            curves = {key: curve for key, curve in curves.items() if curve}
            values = [value for curve in curves.values() for _, value in curve]
            for key, curve in curves.items():
                name = f"{title} {key[:8]}, cell{_plural(users[key])}"
                points = [Point(step, value, f"{value:.3g}", f"step {step:g}: {value:.4g}") for step, value in curve]
                svg = step_chart(f"{label} of {name}", label, points, (min(values), max(values)))
                charts.setdefault(f"{title}: {label}", []).append(Chart(name, svg))
    return charts


def _plural(numbers: list[int]) -> str:
    text = ", ".join(str(number) for number in numbers[:6]) + (" …" if len(numbers) > 6 else "")
    return f"s {text}" if len(numbers) > 1 else f" {text}"


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
