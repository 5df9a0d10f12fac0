"""Which device a process computes on.

Torch decides, in the process that computes; a cluster's own count of GPUs only decides where that process is placed.
A GPU that was counted and that torch cannot use would be paid for and stand idle beside one core that does its work:
that is refused, with what does not fit.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from workloads.errors import InputError

if TYPE_CHECKING:
    import torch

MPS = "mps"
_LACKS = re.compile(r"not (currently )?(implemented|supported)|doesn't support|does not support|Cannot convert", re.I)

# The oldest driver that runs what is built for a major version of CUDA (NVIDIA's table of minor version compatibility).
_LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
_VERSION = re.compile(r"Kernel Module.*?\s(\d+(\.\d+)+)\s")


def torch_device(setting: str) -> "torch.device":
    """The device of a setting: ``auto`` is a GPU where torch has one (not Apple's), else the CPU; others are torch's.

    Raises
    ------
    InputError
        ``mps`` where torch does not offer it.
    """
    # Imported here: who only passes a setting on, as a driver does, is spared it.
    import torch

    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if setting == MPS and not torch.backends.mps.is_available():
        built = "is built without it" if not torch.backends.mps.is_built() else "finds no GPU of Apple"
        raise InputError(
            f"torch {torch.__version__} {built} here", key="compute.device", value=MPS, allowed="give auto, cpu or cuda"
        )
    return torch.device(setting)


def float64_device(setting: str) -> "torch.device":
    """The device of a setting for what is summed in float64, which Apple's GPUs do not have: there it is the CPU."""
    return torch_device("cpu" if setting == MPS else setting)


@contextmanager
def lacking_operations() -> Iterator[None]:
    """Say of an operation that a device lacks that it does.

    Raises
    ------
    InputError
        In place of what torch raises.
    """
    try:
        yield
    except (NotImplementedError, TypeError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else ""
        if "MPS" not in said or not _LACKS.search(said):
            raise
        raise InputError(
            f"an operation that is needed cannot be done there ({said})",
            key="compute.device",
            value=MPS,
            allowed="give cpu, or set PYTORCH_ENABLE_MPS_FALLBACK=1, with which torch does such operations on the CPU",
        ) from None


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
