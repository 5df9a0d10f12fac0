"""Optimisers and learning rates of training runs, as functions of the step.

Two groups of parameters, the backbone with what was loaded and all that is new, each at its own multiple of one
learning rate, which is a closed formula of the step. A schedule object would have a state to lose or to count twice
when a run is resumed.
"""

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn

from workloads.configs.training import OptimiserConfig
from workloads.training.lars import Lars


def learning_rate_factor(config: OptimiserConfig, step: int, total: int) -> float:
    """What the learning rate is multiplied by at a step (from 0) of `total`."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    match config.schedule:
        case "poly":
            decay = (1 - done) ** config.power
        case "cosine":
            decay = 0.5 * (1 + float(np.cos(np.pi * done)))
        case "constant":
            return 1.0
    return config.final_share + (1 - config.final_share) * decay


def build_optimiser(config: OptimiserConfig, module: nn.Module, loaded: Collection[str] = ()) -> torch.optim.Optimizer:
    """Two groups: the backbone with all that was loaded, and new layers at `head_factor` times the learning rate.

    `loaded` has names of the segmentor's state.
    """
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            own = name.removeprefix("segmentor.")
            groups[name.startswith("segmentor.backbone.") or own in loaded].append(parameter)
    parts = [
        {"params": parameters, "lr": config.learning_rate * factor, "factor": factor}
        for parameters, factor in ((groups[True], 1.0), (groups[False], config.head_factor))
        if parameters
    ]
    match config.kind:
        case "sgd":
            return torch.optim.SGD(
                parts, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
            )
        case "lars":
            return Lars(parts, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay)
        case "adamw":
            return torch.optim.AdamW(parts, lr=config.learning_rate, weight_decay=config.weight_decay)
