"""What a run says of itself when something in it does not move.

The failure this guards against: silence. Whatever is ready and finds no place for a minute is named with what it waits
for, and so is work that takes ten times as long as the others of its kind.
"""

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.execution.progress import Progress
from workloads.formats import duration

_MINUTE = 60.0
_TIMES_AS_LONG = 10.0
# Of a kind of which nothing is known yet.
_LONG = 600.0


@dataclass
class Waiting:
    """What waits, and since when."""

    progress: Progress
    patience: float = _MINUTE
    _since: dict[str, float] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)
    _taken: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))

    def look(self, reasons: Mapping[str, str]) -> None:
        """Take notice of all that waits now: what it is, and what it waits for."""
        now = time.monotonic()
        for name in self._since.keys() - reasons.keys():
            del self._since[name]
            self._said.discard(name)
        for name, reason in reasons.items():
            waited = now - self._since.setdefault(name, now)
            if waited >= self.patience and name not in self._said:
                self._said.add(name)
                self.progress.say(f"{name}: waiting for {duration(waited)}: {reason}")

    def took(self, kind: str, seconds: float) -> None:
        """Work of a kind has ended after so long."""
        self._taken[kind][0] += seconds
        self._taken[kind][1] += 1

    def is_late(self, kind: str, seconds: float) -> bool:
        """Whether work that has been going on for so long takes suspiciously long."""
        total, count = self._taken.get(kind, (0.0, 0.0))
        return seconds >= max(self.patience, _TIMES_AS_LONG * total / count if count else _LONG)
