"""Which workers that wait for a training a run gives back, and when: without Ray, on a clock of the test's own."""

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cluster import trainings
from orchestrator.cluster.trainings import Trainings


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def training(group: str | None, *may_take_over: str) -> Any:
    return SimpleNamespace(group=group, may_take_over=frozenset(may_take_over))


def test_what_a_training_may_take_over_stays_until_it_has_said_which_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    removed: list[str] = []
    monkeypatch.setattr(trainings, "time", clock)
    monkeypatch.setattr(trainings.ray_private, "remove_group", removed.append)
    run = object.__new__(Trainings)
    run._waiting = {"a": clock.now, "b": clock.now, "c": clock.now}
    # One that starts may take over two of them, however long that takes.
    starting = training(None, "a", "b")
    run._running = {"first": starting}
    run._end_waiting()
    assert removed == []
    clock.now += 60.0
    run._end_waiting()
    assert removed == ["c"]
    # It has one of them: the other, which nobody else may take, goes at once.
    starting.group = "a"
    run._waiting["d"] = clock.now
    run._end_waiting()
    assert removed == ["c", "b"]
    assert set(run._waiting) == {"d"}
    # What is promised to another as well waits for that one's word.
    run._waiting = {"e": clock.now}
    run._running = {"has its own": training("f", "e"), "starting": training(None, "e")}
    run._end_waiting()
    assert removed == ["c", "b"]
    run._running["starting"].group = "g"
    run._end_waiting()
    assert removed == ["c", "b", "e"]
