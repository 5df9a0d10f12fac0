"""How busy a GPU is, told by a GPU that is not there."""

from typing import Any

import pytest
import torch

from orchestrator.cluster import metrics
from orchestrator.cluster.metrics import GpuBusy


class Agent:
    """Takes what is set, in place of Ray's."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.taken: list[tuple[float, dict[str, str]]] = []

    def __call__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> "Agent":
        self.made.append(name)
        return self

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.taken.append((value, tags))


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    agent = Agent()
    monkeypatch.setattr(metrics, "Gauge", agent)
    return agent


def test_work_on_a_gpu_tells_how_busy_it_is(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    says = iter([37, 99])
    monkeypatch.setattr(torch.cuda, "utilization", lambda: next(says))
    busy = GpuBusy("training")
    busy.note("cuda")
    busy.note("cpu")
    busy.note("cuda")
    assert agent.made == ["lookbeyond_gpu_busy"]
    assert agent.taken == [(37.0, {"process": "training"}), (99.0, {"process": "training"})]


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("pynvml"), RuntimeError("no driver"), Exception("not supported")]
)
def test_a_gpu_that_does_not_say_costs_nothing(error: Any, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise error

    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    GpuBusy("extraction").note("cuda")
    assert agent.made == []
