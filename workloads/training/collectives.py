"""What several workers share during a step: gathered keys, summed counts, batch statistics.

The loss of a step is a function of the whole batch, and workers only split the batch. `Workers` is all that the losses
know of them; `SingleProcess` is one worker, `ProcessGroup` is torch.distributed's default group. Gathering and summing
carry gradients, so that the sum of the workers' gradients is the gradient of the whole batch's loss.

The failure this guards against: `torch.distributed.all_gather`, which cuts the graph without a word, so that keys on
other workers get no gradient; and batch normalisation over a worker's share only, which makes the loss depend on their
number.
"""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn import functional


class Workers(Protocol):
    """The workers of one training run, as seen by one of them."""

    @property
    def rank(self) -> int:
        """Number of this worker, from 0."""

    @property
    def size(self) -> int:
        """How many workers there are."""

    def gather(self, tensor: Tensor) -> Tensor:
        """All workers' tensors of one shape (N, ...), in the order of ranks, as (size * N, ...); with gradients."""

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over workers; with gradients."""


class SingleProcess:
    """One worker: nothing to share."""

    rank = 0
    size = 1

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor


class ProcessGroup:
    """The workers of torch.distributed's default process group, which must be up."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def gather(self, tensor: Tensor) -> Tensor:
        """See `Workers.gather`."""
        return torch.cat(functional.all_gather(tensor))

    def sum(self, tensor: Tensor) -> Tensor:
        """See `Workers.sum`."""
        return functional.all_reduce(tensor)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision widened to float32; float32 and float64 as they are."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batches of all workers, on any device; `nn.SyncBatchNorm` knows GPUs only.

    Mean first, then the mean of squared differences from it: no cancellation. All workers must hold maps of one size.
    """

    workers: Workers = SingleProcess()

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) with the statistics of all workers while training, with the running ones otherwise."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        full = at_least_float32(x)
        count = full.numel() // full.shape[1] * self.workers.size
        mean = self.workers.sum(full.sum(dim=(0, 2, 3))) / count
        centred = full - mean[:, None, None]
        variance = self.workers.sum(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / max(1, count - 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def share_batch_norm(module: nn.Module, workers: Workers, device: torch.device) -> nn.Module:
    """Make every batch normalisation of `module` one over all workers; names and values stay. One worker: no change."""
    if workers.size == 1:
        return module
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for part in module.modules():
        if type(part) is nn.BatchNorm2d:
            # The same object with the same state, only normalising over more: no parameter is copied or renamed.
            part.__class__ = SharedBatchNorm2d
            object.__setattr__(part, "workers", workers)
    return module
