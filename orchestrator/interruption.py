"""Ctrl-C that does not get lost.

The model: the signal raises KeyboardInterrupt as always, and is noted as well; a loop that asks between two turns
raises it again. The failure this guards against: an interruption that comes while compiled code calls back, where
Python can only print and drop it, so that a run goes on to its end.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noted() -> Iterator[Callable[[], None]]:
    """What is yielded raises KeyboardInterrupt if the process was interrupted before.

    Where somebody else handles the signal, or outside of the main thread, nothing is changed.
    """
    interrupted = threading.Event()

    def check() -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt

    def handle(_: int, __: FrameType | None) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
