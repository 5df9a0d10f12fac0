"""Which setting is best, and whether it stands out over what other seeds alone would change.

Settings are compared only where they share a data set and a column. The spread of repeats is pooled over all of them;
a difference stands out where it is more than two standard errors of a difference of two such means.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from orchestrator.results.cells import CellResult
from orchestrator.results.metrics import MIOU, MIOU_MULTI_SCALE, PMIOU, Metric
from orchestrator.results.statistics import Spread
from orchestrator.spec.naming import describe, repeats, without_seeds
from workloads.formats import figure

Setting = TypeVar("Setting")
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Best(Generic[Setting]):
    """The best of several settings and the next; `noise` is the standard error of their difference, if known."""

    setting: Setting
    spread: Spread
    next: Setting
    margin: float
    noise: float | None

    @property
    def stands_out(self) -> bool:
        """Whether the best is further above the next than other seeds alone would put it."""
        return self.noise is not None and self.margin > _STANDARD_ERRORS * self.noise

    @property
    def verdict(self) -> str:
        """How much the best stands out, in words."""
        above = f"{figure(self.margin)} above the next"
        if self.noise is None:
            return f"{above}; one seed each: whether that is more than chance is not known"
        word = "stands out" if self.stands_out else "does not stand out"
        return f"{above}: {word} (standard error of a difference between seeds {figure(self.noise)})"


def best_of(settings: Iterable[tuple[Setting, Spread | None]]) -> Best[Setting] | None:
    """The best setting, and how far it is above the next; None where fewer than two were measured."""
    known = [(setting, spread) for setting, spread in settings if spread is not None]
    if len(known) < 2:
        return None
    (first, best), (second, after) = sorted(known, key=lambda pair: -pair[1].mean)[:2]
    repeated = [(spread.deviation, spread.count - 1) for _, spread in known if spread.deviation is not None]
    noise = None
    if repeated:
        variance = sum(deviation**2 * degrees for deviation, degrees in repeated) / sum(n for _, n in repeated)
        noise = math.sqrt(variance * (1 / best.count + 1 / after.count))
    return Best(first, best, second, best.mean - after.mean, noise)


def best_lines(cells: Sequence[CellResult]) -> list[str]:
    """A sentence for every data set and column in which settings can be compared."""
    metric = _compared_by(cells)
    groups: dict[tuple[str | None, str | None], list[list[CellResult]]] = {}
    for group in repeats(cells):
        protocol = next((cell.metrics.protocol for cell in group if cell.metrics.protocol), None)
        groups.setdefault((protocol.dataset if protocol else None, group[0].column), []).append(group)
    lines = []
    for settings in groups.values():
        best = best_of((group[0], _spread(group, metric)) for group in settings)
        if best is None:
            continue
        others = [group[0].model_copy(update={"values": without_seeds(group[0].values)}) for group in settings]
        place = [group[0] for group in settings].index(best.setting)
        score = f"{metric.heading} {best.spread.text(metric.digits)}"
        lines.append(f"{describe(others[place], others)}: {score}, {best.verdict}")
    return lines


def _compared_by(cells: Sequence[CellResult]) -> Metric:
    """The last figure of merit that was measured: what labels are for is the network that is trained with them."""
    for metric in (MIOU_MULTI_SCALE, MIOU):
        if sum(cell.metrics.number(metric.name) is not None for cell in cells) > 1:
            return metric
    return PMIOU


def _spread(group: Sequence[CellResult], metric: Metric) -> Spread | None:
    return Spread.of(value for cell in group if (value := cell.metrics.number(metric.name)) is not None)
