"""An interruption that compiled code swallows is raised again."""

import contextlib
import signal

import pytest

from orchestrator.interruption import noted


def test_a_swallowed_interruption_comes_again() -> None:
    before = signal.getsignal(signal.SIGINT)
    with noted() as check:
        check()
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) is before


def test_who_handles_the_signal_already_goes_on_to() -> None:
    heard = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with noted() as check:
            signal.raise_signal(signal.SIGINT)
            check()
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]
