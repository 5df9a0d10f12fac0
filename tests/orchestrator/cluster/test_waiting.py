"""Nothing stands still without a word, and nothing is said twice."""

import io

import pytest

from orchestrator.cluster import waiting
from orchestrator.cluster.waiting import Waiting
from orchestrator.execution.progress import Progress, plain_console


def test_what_waits_for_a_minute_is_named_once_and_again_when_it_waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    watch = Waiting(Progress(plain_console(stream)))

    def said(after: float, reasons: dict[str, str]) -> list[str]:
        clock[0] += after
        stream.seek(0)
        stream.truncate()
        watch.look(reasons)
        return stream.getvalue().splitlines()

    gpu = {"train steps": "no machine has room; free are 4 cores and 0 GPUs"}
    assert said(0, gpu) == []
    assert said(59, gpu) == []
    (line,) = said(2, gpu | {"other": "a lease"})
    assert line.startswith("train steps: waiting for ")
    assert line.endswith("free are 4 cores and 0 GPUs")
    assert said(30, gpu) == []
    assert said(1, {}) == []
    assert said(1, gpu) == []
    assert len(said(61, gpu)) == 1

    # Ten times as long as the others of its kind, and a minute at least.
    assert not watch.is_late("label", 599)
    assert watch.is_late("label", 601)
    watch.took("label", 2.0)
    watch.took("label", 18.0)
    assert not watch.is_late("label", 99)
    assert watch.is_late("label", 101)
