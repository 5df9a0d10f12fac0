"""Signals that end a run in good order: what it holds is given back, however often it is asked.

SIGTERM, as `ray job stop` and supervisors send it, and SIGHUP of a terminal that is closed end a run as Ctrl-C does.
The second one of a run that is already giving back what it holds changes nothing; the third leaves it at that.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LEAVES_AT = 3


class Interruption:
    """What a run does about signals, and how many have come."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle one signal."""
        self.asked += 1
        if 1 < self.asked < _LEAVES_AT:
            # Not by `print`: the thread that is interrupted may hold what a terminal with bars is locked by.
            with suppress(OSError):
                os.write(2, b"lookbeyond: what this run holds is being given back; once more leaves it\n")
            return
        signal.default_int_handler(signal.SIGINT, frame)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Signals come here for as long as this lasts; those that are ignored, as by `nohup`, stay so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
