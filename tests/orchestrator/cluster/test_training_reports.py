"""What a training reports is told in order, to the last, and the training does not wait for it."""

import pickle
import threading
from typing import Any

import pytest

from orchestrator.cluster.reports import ReportCallback, in_turn


def test_every_report_of_rank_zero_is_told_in_order_to_the_last() -> None:
    told: list[dict[str, Any]] = []
    with in_turn(told.append) as tell:
        callback = ReportCallback(tell)
        for step in range(500):
            callback.after_report(None, [{"step": step, "loss": 1 / 3}, {"step": -1}], None)
    assert told == [{"step": step, "loss": 1 / 3} for step in range(500)]


def test_a_report_is_told_while_the_training_goes_on_which_does_not_wait_for_it() -> None:
    reported, told = threading.Event(), threading.Event()

    def slow(report: dict[str, Any]) -> None:
        assert reported.wait(30)
        told.set()

    with in_turn(slow) as tell:
        ReportCallback(tell).after_report(None, [{}], None)
        reported.set()
        assert told.wait(30)


def test_what_the_listener_raises_ends_the_training_with_it_and_nobody_waits() -> None:
    def refuse(report: dict[str, Any]) -> None:
        raise ValueError(f"no {report['step']}")

    with pytest.raises(ValueError, match="no 7"), in_turn(refuse) as tell:
        for step in (7, 8):
            ReportCallback(tell).after_report(None, [{"step": step}], None)


def test_an_error_of_the_training_comes_through() -> None:
    with pytest.raises(KeyError, match="the training"), in_turn(lambda report: None):
        raise KeyError("the training")


def test_the_workers_of_a_training_get_a_callback_that_tells_nobody() -> None:
    with in_turn(lambda report: None) as tell:
        sent = pickle.loads(pickle.dumps(ReportCallback(tell)))
    sent.after_report(None, [{"step": 1}], None)
