"""What a training reports on its way, from Train's controller to Tune.

The failures this guards against: a training that waits for Tune, whose process may be stopped or busy; a last report
that is lost because the training ended right after it.

Tune's own way is an actor with a queue, which the driver asks five times a second. Where all cores train, that is felt:
a process that wakes up stops a thread that all the others then wait for.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from ray.train import UserCallback

Tell = Callable[[dict[str, Any]], None]


@contextmanager
def in_turn(tell: Tell) -> Iterator[Tell]:
    """The same without waiting: `tell` is called in a thread of its own, with one after the other.

    At the end all has been told. What `tell` raises is raised there, and after it nothing more is told.
    """
    untold: SimpleQueue[dict[str, Any] | None] = SimpleQueue()

    def tell_all() -> None:
        while (report := untold.get()) is not None:
            tell(report)

    with ThreadPoolExecutor(1, "reports") as thread:
        told = thread.submit(tell_all)
        try:
            yield untold.put
        finally:
            untold.put(None)
        told.result()


class ReportCallback(UserCallback):
    """Tells what the workers of a training report; called by Train's controller."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Tell the report of rank 0."""
        self._tell(metrics[0])

    def __reduce__(self) -> tuple[type[UserCallback], tuple[()]]:
        # Train sends its configuration to the workers, where nobody is to be told.
        return UserCallback, ()
