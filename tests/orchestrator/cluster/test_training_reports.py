"""The pipe between a training and the process that drives it: in order, to the last, and nobody waits in vain."""

import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.reports import PipeCallback, listening


def test_every_report_of_rank_zero_is_told_in_order_to_the_last(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    with listening(tmp_path, told.append) as pipe:
        callback = PipeCallback(pipe)
        for step in range(500):
            callback.after_report(None, [{"step": step, "loss": 1 / 3, "name": "line\nbreak"}, {"step": -1}], None)
    assert told == [{"step": step, "loss": 1 / 3, "name": "line\nbreak"} for step in range(500)]


def test_a_report_is_told_while_the_training_goes_on(tmp_path: Path) -> None:
    told = threading.Event()
    with listening(tmp_path, lambda report: told.set()) as pipe:
        PipeCallback(pipe).after_report(None, [{}], None)
        assert told.wait(30)


def test_without_a_listener_a_report_is_dropped_and_nothing_waits(tmp_path: Path) -> None:
    with listening(tmp_path, lambda report: None) as pipe:
        pass
    PipeCallback(pipe).after_report(None, [{"step": 1}], None)


def test_what_the_driver_raises_ends_the_training_with_it(tmp_path: Path) -> None:
    def refuse(report: dict[str, Any]) -> None:
        raise ValueError(f"no {report['step']}")

    with pytest.raises(ValueError, match="no 7"), listening(tmp_path, refuse) as pipe:
        PipeCallback(pipe).after_report(None, [{"step": 7}], None)


def test_an_error_of_the_training_comes_through(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="the training"), listening(tmp_path, lambda report: None):
        raise KeyError("the training")
