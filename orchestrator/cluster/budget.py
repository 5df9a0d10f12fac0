"""Stops a run that has spent what it may: see `orchestrator.planning.budget`."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

import ray

from orchestrator.planning.budget import Spending, price_of

_LOOK_SECONDS = 10.0


def prices_now() -> list[float | None]:
    """The price of every machine that is up; none where no cluster is connected yet."""
    if not ray.is_initialized():
        return []
    return [price_of(node.get("Labels", {})) for node in ray.nodes() if node["Alive"]]


@contextlib.contextmanager
def within_budget(
    budget: float | None,
    prices: Callable[[], list[float | None]] = prices_now,
    look_seconds: float = _LOOK_SECONDS,
) -> Iterator[Spending | None]:
    """Add up what the machines of the connected cluster cost, and interrupt this run when that is as much as it may.

    Raises:
        BudgetSpentError: it was.
    """
    if budget is None:
        yield None
        return
    spending, over, done = Spending(budget), threading.Event(), threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def watch() -> None:
        before, up = time.monotonic(), list[float | None]()
        while not done.wait(look_seconds):
            now = time.monotonic()
            # A cluster that does not answer costs what it did.
            with contextlib.suppress(Exception):
                up = prices()
            if spending.add(now - before, up):
                over.set()
                # As Ctrl-C does, so that what the run holds is given back; a real signal, as nothing else ends a wait.
                signal.pthread_kill(main, signal.SIGINT)
                return
            before = now

    watcher = threading.Thread(target=watch, name="budget", daemon=True)
    watcher.start()
    try:
        yield spending
    except KeyboardInterrupt:
        if over.is_set():
            raise spending.error() from None
        raise
    finally:
        done.set()
        watcher.join(2 * look_seconds)
