"""A GPU that was counted and cannot be used is refused with what does not fit."""

from pathlib import Path

import pytest
import torch

from workloads import devices
from workloads.devices import driver_version, gpu_problem, require_usable_gpu
from workloads.errors import InputError

PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder)\n"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch says it of a driver that is too old."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020).\nPlease update.")

    monkeypatch.setattr(torch, "zeros", refuse)
    monkeypatch.setattr(torch.version, "cuda", "13.0")


@pytest.mark.parametrize(("text", "version"), [(PROPRIETARY, "535.104.05"), (OPEN, "570.86.15"), ("?", None)])
def test_the_driver_says_its_version(
    text: str, version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_KERNEL_MODULE", tmp_path / "version")
    assert driver_version() is None
    (tmp_path / "version").write_text(text)
    assert driver_version() == version


def test_a_driver_that_is_too_old_is_named(broken: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_KERNEL_MODULE", tmp_path / "version")
    (tmp_path / "version").write_text(PROPRIETARY)
    with pytest.raises(InputError) as refused:
        require_usable_gpu("node-7")
    assert str(refused.value) == (
        "compute.device: a GPU of node-7 was given to this process, and torch cannot use it: "
        f"torch {torch.__version__} is built for CUDA 13.0, which needs driver 580 or later, and the driver here is "
        "535.104.05 (The NVIDIA driver on your system is too old (found version 12020)); install what fits "
        "(clusters/Dockerfile, docs/cluster.md), or cpu to leave GPUs alone"
    )
    (tmp_path / "version").unlink()
    assert "no NVIDIA driver was found here" in (gpu_problem() or "")


def test_a_torch_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert "is built without CUDA" in (gpu_problem() or "")


def test_where_nothing_is_wrong_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *args, **kwargs: zeros(*args))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert gpu_problem() is None
    require_usable_gpu("node-7")
