"""Which device a process computes on.

Torch decides, in the process that computes; a cluster's own count of GPUs only decides where that process is placed.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def torch_device(setting: str) -> "torch.device":
    """The device of a setting: ``auto`` is a GPU where torch has one, else the CPU; others are torch's own names."""
    # Imported here: who only passes a setting on, as a driver does, is spared it.
    import torch

    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(setting)
