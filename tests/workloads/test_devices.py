"""A GPU that was counted and cannot be used is refused with what does not fit."""

from pathlib import Path

import pytest
import torch

from workloads import devices
from workloads.devices import (
    driver_version,
    float64_device,
    gpu_problem,
    lacking_operations,
    require_usable_gpu,
    torch_device,
)
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


def test_apples_gpu_is_refused_where_torch_does_not_offer_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"compute\.device: torch .* here; give auto, cpu or cuda"):
        torch_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert torch_device("mps").type == "mps"
    assert float64_device("mps").type == "cpu", "clusters are summed in float64"
    assert float64_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    "error",
    [
        NotImplementedError("The operator 'aten::linalg_qr' is not currently implemented for the MPS device. If"),
        TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."),
        RuntimeError("Adaptive pool MPS: input sizes must be divisible by output sizes. Non-divisible not supported"),
    ],
)
def test_an_operation_that_apples_gpu_lacks_is_the_users_to_mend(error: Exception) -> None:
    said = r"compute\.device: an operation .*MPS.*; give cpu, or set PYTORCH_ENABLE_MPS"
    with pytest.raises(InputError, match=said), lacking_operations():
        raise error


@pytest.mark.parametrize("error", [RuntimeError("MPS backend out of memory"), TypeError("bad operand"), KeyError("x")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, lacking_operations():
        raise error
    assert raised.value is error
