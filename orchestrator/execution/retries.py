"""How often work is tried again: one budget for each cause, kept in one place for all kinds of work.

The failures this guards against: two owners of one budget, which together try twice as often as was asked for; a
machine that is lost now and then, taken for a mistake of the user's.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.spec.experiment import Compute


class Cause(StrEnum):
    """Why work is tried again."""

    LOST = "lost"
    ERROR = "error"
    MEMORY = "memory"


@dataclass
class Retries:
    """The budgets of a run; `tell` is called with every cause that comes up."""

    compute: Compute
    tell: Callable[[Cause], None] = lambda cause: None
    counts: Counter[str] = field(default_factory=Counter)
    _used: Counter[tuple[str, Cause]] = field(default_factory=Counter)

    def again(self, name: str, cause: Cause) -> bool:
        """Note that a piece of work came to nothing; whether it may be tried once more."""
        self._used[name, cause] += 1
        self.counts[Cause.LOST if cause is Cause.MEMORY else cause] += 1
        self.tell(cause)
        return self._used[name, cause] <= self.limit(cause)

    def limit(self, cause: Cause) -> int:
        """How often a piece of work is tried again."""
        return {
            Cause.LOST: self.compute.lost_worker_retries,
            Cause.ERROR: self.compute.error_retries,
            # With more memory and alone: what is short of it then is so for ever.
            Cause.MEMORY: min(1, self.compute.lost_worker_retries),
        }[cause]

    def used(self, name: str, cause: Cause) -> int:
        """How often a piece of work came to nothing for a cause."""
        return self._used[name, cause]
