"""A worker that was given a GPU does not work on a core beside it without being told to."""

import pytest
import torch

from orchestrator.cluster import gpu_check
from orchestrator.cluster.gpu_check import VARIABLE, require_gpu_of_this_worker, torch_config
from workloads.errors import InputError

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU here can be used")


def test_a_gpu_that_torch_cannot_use_is_refused_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(gpu_check, "_has_a_gpu", lambda: False)
    require_gpu_of_this_worker()
    monkeypatch.setattr(gpu_check, "_has_a_gpu", lambda: True)
    with pytest.raises(InputError, match=r"compute\.device: a GPU of .* torch cannot use it: torch .*CUDA.*driver"):
        require_gpu_of_this_worker()
    monkeypatch.setenv(VARIABLE, "cpu")
    require_gpu_of_this_worker()


def test_workers_that_cannot_use_their_gpu_are_not_connected_and_get_to_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NCCL's error, which names no driver, would come first."""

    class Group:
        def execute(self, call: object) -> list[bool]:
            assert call is gpu_check._cannot_use_its_gpu
            return [False, True]

    config = torch_config(uses_gpus=True)
    config.backend_cls().on_start(Group(), config)
    assert (config.backend, torch_config(uses_gpus=False).backend) == ("nccl", "gloo")
