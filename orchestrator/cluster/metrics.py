"""Figures for Ray's dashboard: what a run has done so far, read by whatever scrapes Ray's metrics.

The model: counters named ``lookbeyond_*``, kept by the process that drives a run; where no dashboard runs there is no
agent to take them, and nothing is counted. How busy a GPU is, is told by the process that works on it.
"""

from ray.util.metrics import Counter, Gauge


class RunMetrics:
    """Counters of one run, where a dashboard takes them."""

    def __init__(self, *, dashboard: bool) -> None:
        self._counters: dict[str, Counter] = {}
        if dashboard:
            for name, text, tags in (
                ("images", "Images processed, by kind of step.", ("kind",)),
                ("shards", "Shards written, by kind of step.", ("kind",)),
                ("quarantined", "Broken images that were quarantined, by kind of step.", ("kind",)),
                ("retries", "Pieces of work tried again, by cause: lost (a worker or machine) or error.", ("cause",)),
                ("trainings", "Trainings that ended, by kind of step and by how.", ("kind", "end")),
            ):
                self._counters[name] = Counter(f"lookbeyond_{name}", description=text, tag_keys=tags)

    def add(self, name: str, count: float = 1, **tags: str) -> None:
        """Count something; the names are those above."""
        if count and name in self._counters:
            self._counters[name].inc(count, tags=tags)


class GpuBusy:
    """How busy the GPU of this process is, in percent of the last moment; nothing where it has none.

    `process` says what the process does: extraction, clustering or training.
    """

    def __init__(self, process: str) -> None:
        self._tags = {"process": process}
        self._gauge: Gauge | None = None

    def note(self, device: str) -> None:
        """Ask the GPU's driver, if work was just done on a GPU."""
        percent = _utilization() if device == "cuda" else None
        if percent is None:
            return
        if self._gauge is None:
            text = "Share of the last moment in which the GPU was computing, in percent."
            self._gauge = Gauge("lookbeyond_gpu_busy", description=text, tag_keys=("process",))
        self._gauge.set(percent, tags=self._tags)


def _utilization() -> float | None:
    """What the driver of the current GPU says; None where it says nothing."""
    import torch

    try:
        return float(torch.cuda.utilization())
    except Exception:
        # No package to ask the driver with (extra `gpu`), or a driver or a slice of a GPU that does not say: their
        # errors have no common type, and no figure is worth a training.
        return None
