"""Which device a process computes on.

Torch decides, in the process that computes; a cluster's own count of GPUs only decides where that process is placed.
A GPU that was counted and that torch cannot use would be paid for and stand idle beside one core that does its work:
that is refused, with what does not fit.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from workloads.errors import InputError

if TYPE_CHECKING:
    import torch

# The oldest driver that runs what is built for a major version of CUDA (NVIDIA's table of minor version compatibility).
_LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
_VERSION = re.compile(r"Kernel Module.*?\s(\d+(\.\d+)+)\s")


def torch_device(setting: str) -> "torch.device":
    """The device of a setting: ``auto`` is a GPU where torch has one, else the CPU; others are torch's own names."""
    # Imported here: who only passes a setting on, as a driver does, is spared it.
    import torch

    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(setting)


def require_usable_gpu(host: str) -> None:
    """Refuse to work where a GPU was given to this process and torch cannot compute on it.

    Raises
    ------
    InputError
        With the versions of torch, of the CUDA that it is built for, and of the driver.
    """
    problem = gpu_problem()
    if problem is not None:
        raise InputError(
            f"a GPU of {host} was given to this process, and torch cannot use it: {problem}",
            key="compute.device",
            allowed="install what fits (clusters/Dockerfile, docs/cluster.md), or cpu to leave GPUs alone",
        )


def gpu_problem() -> str | None:
    """Why torch cannot compute on the first GPU that this process sees; None where it can."""
    import torch

    built = torch.version.cuda
    if built is None:
        if torch.version.hip is not None:
            built = f"ROCm {torch.version.hip}"
        else:
            return f"torch {torch.__version__} is built without CUDA{_driver_words()}"
    try:
        torch.zeros(1, device="cuda").add_(1).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()
        said = f" ({reason[0].rstrip('.')})" if reason else ""
        return f"torch {torch.__version__} is built for CUDA {built}{_least_driver(built)}{_driver_words()}{said}"
    return None


def _least_driver(built: str) -> str:
    major = built.split(".", 1)[0]
    least = _LEAST_DRIVER.get(int(major)) if major.isdigit() else None
    return f", which needs driver {least} or later" if least else ""


def _driver_words() -> str:
    version = driver_version()
    return f", and the driver here is {version}" if version else ", and no NVIDIA driver was found here"


def driver_version() -> str | None:
    """The version of NVIDIA's driver on this machine; None where there is none."""
    try:
        found = _VERSION.search(_KERNEL_MODULE.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return found[1] if found else None
