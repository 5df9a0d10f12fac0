"""Layer-wise adaptive rate scaling, the optimiser of PixPro's published recipe; torch has none."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim.optimizer import ParamsT


class Lars(torch.optim.SGD):
    """SGD with momentum whose gradient of each weight w, weight decay included, is scaled by |w| / |gradient|.

    Vectors (biases, scales of batch normalisations) are neither decayed nor scaled, as in PixPro's own code.

    Parameters
    ----------
    params : iterable
        Parameters or groups of them, as of `torch.optim.SGD`.
    lr : float
        Learning rate.
    momentum : float
        Of SGD.
    weight_decay : float
        Added to the gradient of matrices and kernels before it is scaled.
    trust : float
        Length of a step of learning rate 1, as a share of the weight's.

    References
    ----------
    You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks", arXiv:1708.03888.
    """

    def __init__(
        self, params: ParamsT, lr: float, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = 0.001
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum)
        self.decay, self.trust = weight_decay, trust

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; gradients are changed in place."""
        for group in self.param_groups:
            self._scale(group["params"])
        return super().step(closure)

    def _scale(self, parameters: Iterable[torch.Tensor]) -> None:
        for weight in parameters:
            gradient = weight.grad
            if gradient is None or weight.ndim < 2:
                continue
            gradient.add_(weight, alpha=self.decay)
            lengths = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(gradient)
            # A weight or a gradient of length zero has no direction to be scaled in.
            ratio = torch.where((lengths[0] > 0) & (lengths[1] > 0), self.trust * lengths[0] / lengths[1], 1.0)
            gradient.mul_(ratio)
