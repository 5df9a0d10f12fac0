"""What one training asks for, by what the user asks for."""

import pytest

from orchestrator.cluster.training import Scale
from orchestrator.planning.capacity import Capacity, Machines
from orchestrator.spec.experiment import Compute
from workloads.errors import InputError


def test_a_training_is_not_split_over_apples_gpus() -> None:
    capacity = Capacity.fixed([Machines(1, 8.0)])
    with pytest.raises(
        InputError, match=r"compute\.train_workers: 2 is not allowed; allowed with compute\.device mps: 1"
    ):
        Scale.of(Compute(device="mps", train_workers=2), False, capacity, dashboard=False)
    assert Scale.of(Compute(device="mps"), False, capacity, dashboard=False).device == "mps"
    assert Scale.of(Compute(), False, capacity, dashboard=False).device == "cpu"
    assert Scale.of(Compute(), True, capacity, dashboard=False).device == "auto"
