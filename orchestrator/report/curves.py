"""Training curves: loss and the mIoU on the validation subset over steps, the settings of an experiment overlaid.

Repeats of a setting, which differ in seeds alone, share a colour. All charts of a kind and metric share a scale.
"""

from collections.abc import Sequence

from orchestrator.ledger.training_states import VAL_MIOU_SUBSET
from orchestrator.report.drawing import Line, Point, step_chart
from orchestrator.report.plots import Chart
from orchestrator.report.reading import Experiment
from orchestrator.results.cells import CellResult, finite
from orchestrator.spec.naming import describe_shared

_LINES = 6
_KINDS = (("pretrain", "Pre-training"), ("finetune", "Fine-tuning"))
_METRICS = (("loss", "loss"), (VAL_MIOU_SUBSET, "mIoU on a part of val, %"))


def training_curves(experiment: Experiment) -> dict[str, list[Chart]]:
    """The charts of every kind of training and metric that has any."""
    users: dict[str, list[CellResult]] = {}
    for cell in experiment.cells:
        for key in dict.fromkeys(cell.steps.values()):
            users.setdefault(key, []).append(cell)
    charts: dict[str, list[Chart]] = {}
    for kind, title in _KINDS:
        keys = [key for key in experiment.histories if experiment.manifests[key].kind == kind]
        names = {key: describe_shared(users[key], experiment.cells, seeds=False) for key in keys}
        for metric, label in _METRICS:
            points = {key: _points(experiment.histories[key], metric) for key in keys}
            drawn = _overlaid(f"{title}: {label}", label, names, {key: found for key, found in points.items() if found})
            charts |= {f"{title}: {label}": drawn} if drawn else {}
    return charts


def _overlaid(title: str, label: str, names: dict[str, str], points: dict[str, Sequence[Point]]) -> list[Chart]:
    settings = list(dict.fromkeys(names[key] for key in points))
    values = [point.y for line in points.values() for point in line]
    charts = []
    for first in range(0, len(settings), _LINES):
        styles = {name: f"line-{number}" for number, name in enumerate(settings[first : first + _LINES])}
        lines = [Line(names[key], styles[names[key]], line) for key, line in points.items() if names[key] in styles]
        page = f", {first // _LINES + 1}" if len(settings) > _LINES else ""
        svg = step_chart(title + page, label, lines, (min(values), max(values)))
        charts.append(Chart(title + page, svg, tuple(styles.items())))
    return charts


def _points(rows: Sequence[dict[str, float]], metric: str) -> list[Point]:
    known = [(row["step"], value) for row in rows if (value := finite(row.get(metric))) is not None]
    return [Point(step, value, f"{value:.3g}", f"step {step:g}: {value:.4g}") for step, value in known]
