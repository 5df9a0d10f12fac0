"""Mean and spread over repeats, and how well one order is another."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workloads.formats import figure, signed

# Below this many pairs every order is likely enough to come out by chance.
_FEWEST_PAIRS = 3


@dataclass(frozen=True)
class Spread:
    """Mean over repeats; `deviation` is the sample standard deviation (n - 1), None for a single value."""

    mean: float
    deviation: float | None
    count: int

    @staticmethod
    def of(values: Iterable[float]) -> "Spread | None":
        """The spread of some values; None of none."""
        known = list(values)
        if not known:
            return None
        return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))

    def difference_error(self, other: "Spread") -> float | None:
        """The standard error of the difference of both means; None where one of them was not repeated."""
        if self.deviation is None or other.deviation is None:
            return None
        return math.sqrt(self.deviation**2 / self.count + other.deviation**2 / other.count)

    def text(self, digits: int) -> str:
        """``23.00 ± 1.20``; what is the same in every repeat has no spread to speak of."""
        mean = figure(self.mean, digits)
        return f"{mean} ± {self.deviation:.{digits}f}" if self.deviation else mean


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation of PmIoU with mIoU over trained cells; None where it is not defined."""

    spearman: float | None
    cells: int

    @staticmethod
    def of(pairs: Sequence[tuple[float, float]]) -> "RankCorrelation":
        """How well the order of the first values is that of the second."""
        if len(pairs) < _FEWEST_PAIRS or any(len(set(values)) == 1 for values in zip(*pairs, strict=True)):
            return RankCorrelation(None, len(pairs))
        # Imported where it is used: few commands do, and every one would wait for it.
        from scipy.stats import spearmanr

        value = float(spearmanr(pairs).statistic)
        return RankCorrelation(value if math.isfinite(value) else None, len(pairs))

    def __str__(self) -> str:
        if self.spearman is None:
            return f"Rank correlation (Spearman) of PmIoU with mIoU: not defined over these {self.cells} trained cells."
        return (
            f"Rank correlation (Spearman) of PmIoU with mIoU: {signed(self.spearman, 2)} "
            f"over {self.cells} trained cells."
        )
