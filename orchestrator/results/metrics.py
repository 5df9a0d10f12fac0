"""The figures of merit that tables show: what each is called, how it is measured, and with how many decimals."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A figure of merit: its name in the results, its title, how it was measured, and the paper's name for it."""

    name: str
    title: str
    detail: str = ""
    paper: str | None = None
    digits: int = 2

    @property
    def heading(self) -> str:
        """Title and way of measuring in one line."""
        return f"{self.title}, {self.detail}" if self.detail else self.title


CLUSTERS = Metric("num_clusters", "clusters", digits=0)
SILHOUETTE = Metric("silhouette", "silhouette", digits=3)
STABILITY = Metric("stability", "stability", "ARI of two seeds", digits=3)
PMIOU = Metric("pmiou", "PmIoU", paper="pmiou")
COVERAGE = Metric("coverage", "coverage", digits=3)
MIOU = Metric("miou", "mIoU", paper="miou")
MIOU_MULTI_SCALE = Metric("miou_multi_scale", "mIoU", "multi-scale + flip", paper="miou")
ANCHORS_FILLED = Metric("anchors_filled", "anchors filled", digits=3)
_ON_THE_WAY = "miou_at_"


def on_the_way(names: Iterable[str]) -> list[Metric]:
    """mIoU after shares of the steps, in their order, of the names of figures that there are."""
    shares = sorted({float(name.removeprefix(_ON_THE_WAY)) for name in names if name.startswith(_ON_THE_WAY)})
    return [Metric(f"{_ON_THE_WAY}{share:g}", "mIoU", f"after {100 * share:g} % of the steps") for share in shares]
