"""What is started where on a real Ray."""

from dataclasses import dataclass
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from orchestrator.cluster.training import DRIVER_CORES
from orchestrator.cluster.workers import SHARE, start_extraction, start_task
from orchestrator.ledger.outcomes import Outcome

pytestmark = pytest.mark.slow


def a_job() -> Any:
    """A job that does nothing; made here, so that it travels by value."""

    @dataclass(frozen=True)
    class Nothing:
        name: str = "nothing"
        title: str = "nothing"

        def run(self, cache: Any) -> Outcome:
            return Outcome()

    return Nothing()


def test_a_core_is_shared_with_the_driver_of_a_training_that_stays(ray_session: None) -> None:
    """Of the two cores one is taken, and what such a driver holds."""
    held = placement_group([{"CPU": 1}, {"CPU": DRIVER_CORES}])
    assert held.wait(30)
    try:
        assert ray.get(start_task(a_job(), 1.0, None), timeout=60).outcome == Outcome()
        actor = start_extraction(0, None, 1)
        both = [actor.run.remote(a_job()), start_task(a_job(), 1 - SHARE, None)]
        assert [report.outcome for report in ray.get(both, timeout=60)] == 2 * [Outcome()]
        ray.kill(actor)
    finally:
        remove_placement_group(held)
