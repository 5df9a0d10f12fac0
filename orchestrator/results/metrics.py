"""The figures of merit that tables show: what each is called, how it is measured, and with how many decimals."""

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
