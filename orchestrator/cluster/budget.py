"""Stops a run that has spent what it may: see `orchestrator.planning.budget`."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType

import ray

from orchestrator.planning.budget import Spending, price_of
from workloads.errors import InputError

_LOOK_SECONDS = 10.0
# A real signal, as nothing else ends a wait; not SIGINT, which a shell lets be ignored in the background.
_SPENT = signal.SIGUSR1


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
        InputError: there is a budget, and this is not the main thread, which alone can be interrupted.
    """
    if budget is None:
        yield None
        return
    main = threading.main_thread()
    if threading.current_thread() is not main or main.ident is None:
        allowed = "null where a run is called in a thread of its own: it cannot be interrupted there"
        raise InputError(key="compute.max_cost", value=budget, allowed=allowed)
    spending, over, done, ending = Spending(budget), threading.Event(), threading.Event(), threading.Lock()
    interrupt = partial(signal.pthread_kill, main.ident, _SPENT)

    def watch() -> None:
        before, up = time.monotonic(), list[float | None]()
        while not done.wait(look_seconds):
            now = time.monotonic()
            # A cluster that does not answer costs what it did.
            with contextlib.suppress(Exception):
                up = prices()
            if spending.add(now - before, up):
                with ending:
                    if not done.is_set():
                        over.set()
                        interrupt()
                return
            before = now

    before_it = signal.signal(_SPENT, _as_ctrl_c)
    watcher = threading.Thread(target=watch, name="budget", daemon=True)
    watcher.start()
    try:
        yield spending
    except KeyboardInterrupt:
        if over.is_set():
            raise spending.error() from None
        raise
    finally:
        with ending:
            done.set()
        watcher.join(2 * look_seconds)
        signal.signal(_SPENT, before_it)


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    """What the run holds is given back as it is then."""
    raise KeyboardInterrupt
