"""Counts for Ray's dashboard: what a run has done so far, read by whatever scrapes Ray's metrics.

The model: counters named ``lookbeyond_*``, kept by the process that drives a run. Where no dashboard runs there is no
agent to take them, and nothing is counted.
"""

from ray.util.metrics import Counter

from orchestrator.cluster import session


class RunMetrics:
    """Counters of one run."""

    def __init__(self) -> None:
        self._counters: dict[str, Counter] = {}
        if session.has_dashboard():
            for name, text, tags in (
                ("images", "Images processed, by kind of step.", ("kind",)),
                ("shards", "Shards written, by kind of step.", ("kind",)),
                ("quarantined", "Broken images set aside, by kind of step.", ("kind",)),
                ("retries", "Pieces of work tried again, by cause: lost (a worker or machine) or error.", ("cause",)),
                ("trainings", "Trainings that ended, by kind of step and by how.", ("kind", "end")),
            ):
                self._counters[name] = Counter(f"lookbeyond_{name}", description=text, tag_keys=tags)

    def add(self, name: str, count: float = 1, **tags: str) -> None:
        """Count something; the names are those above."""
        if count and name in self._counters:
            self._counters[name].inc(count, tags=tags)
