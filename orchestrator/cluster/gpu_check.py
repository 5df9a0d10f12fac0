"""GPUs that Ray has given to a worker and that torch cannot use.

Ray counts devices and asks no one whether they work. The failure this guards against: a machine whose driver is too old
for torch labels on one core beside its idle GPU, and ends a training in an error of NCCL's.
"""

import os
import socket
from typing import TYPE_CHECKING, Any

import ray

from workloads.devices import gpu_problem, require_usable_gpu

if TYPE_CHECKING:
    from ray.train.torch import TorchConfig

# With the value `cpu`, such GPUs are left alone and their machine's cores do the work.
VARIABLE = "LOOKBEYOND_UNUSABLE_GPUS"


def require_gpu_of_this_worker() -> None:
    """Refuse to work on a core beside a GPU that was given to this worker and that torch cannot use.

    Raises:
        InputError: it is so; with the versions of torch, of CUDA and of the driver.
    """
    if _has_a_gpu() and os.environ.get(VARIABLE) != "cpu":
        require_usable_gpu(socket.gethostname())


def _has_a_gpu() -> bool:
    return bool(ray.get_runtime_context().get_accelerator_ids().get("GPU"))


def _cannot_use_its_gpu() -> bool:
    return _has_a_gpu() and gpu_problem() is not None


def torch_config(*, uses_gpus: bool) -> "TorchConfig":
    """Train's configuration of torch.

    Workers that cannot use their GPUs are not connected, so that the first thing they do can be to say why.
    """
    from ray.train.torch import TorchConfig

    if not uses_gpus:
        return TorchConfig(backend="gloo")
    base: Any = TorchConfig(backend="nccl").backend_cls

    class CheckedBackend(base):
        def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
            if not any(worker_group.execute(_cannot_use_its_gpu)):
                base.on_start(self, worker_group, backend_config)

    class CheckedTorchConfig(TorchConfig):
        @property
        def backend_cls(self) -> Any:
            return CheckedBackend

    return CheckedTorchConfig(backend="nccl")
