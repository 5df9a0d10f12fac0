"""What the machine and its environment must have for Ray, looked at before Ray is started."""

import os
import re
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from orchestrator.cluster.environment import asked_address, fit_for_ray, require_answer
from workloads.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[3]


def test_the_address_of_the_option_goes_before_that_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert asked_address("auto") == ("auto", "--address auto")
    assert asked_address(None) == ("10.0.0.1:6379", "RAY_ADDRESS=10.0.0.1:6379")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert asked_address(None)[0] is None
    monkeypatch.delenv("RAY_ADDRESS")
    assert asked_address(None)[0] is None


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:8265", "RAY_ADDRESS=x is a job server; `lookbeyond submit --address http://127.0.0.1:8265`"),
        ("ray://127.0.0.1:10001", "RAY_ADDRESS=x is no address of a Ray cluster; allowed: HOST:PORT, or auto"),
        ("nonsense", "is no address of a Ray cluster"),
        ("127.0.0.1:99999", "RAY_ADDRESS=x: no Ray cluster answers there"),
    ],
)
def test_what_is_no_address_of_a_cluster_is_refused(address: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        require_answer(address, "RAY_ADDRESS=x")


def test_an_address_at_which_nothing_answers_is_refused_within_seconds() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(InputError, match=rf"RAY_ADDRESS={address}: no Ray cluster answers there .*refused"):
            require_answer(address, f"RAY_ADDRESS={address}")
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("-n 64", "ulimit -n allows 64 open files; Ray needs 512"),
        ("-f 1024", "ulimit -f allows 1,048,576 bytes in a file"),
        ("-v 2000000", "ulimit -v allows 2,048,000,000 bytes of address space"),
    ],
)
def test_a_limit_that_is_too_low_is_named(limit: str, said: str) -> None:
    program = "from orchestrator.cluster.environment import fit_for_ray\nwith fit_for_ray(150_000_000): pass"
    ended = subprocess.run(
        ["bash", "-c", f'ulimit {limit}; exec "$0" -c "$1"', sys.executable, program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said in ended.stderr


def test_too_few_processes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root is held to no limit by the kernel, and so not by this."""
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (500, 500) if kind == resource.RLIMIT_NPROC else (-1, -1))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    with fit_for_ray(1):
        pass
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with (
        pytest.raises(InputError, match=r"ulimit -u allows this user 500 processes and threads, of which 0 are there;"),
        monkeypatch.context() as patch,
    ):
        patch.setattr(os, "sched_getaffinity", lambda _: range(8))
        with fit_for_ray(1):
            pass


def test_a_full_temporary_folder_is_replaced_and_named_where_all_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    room = {"/tmp": 0, "/var/tmp": 10**9, "/dev/shm": 10**9}
    monkeypatch.setattr("orchestrator.storage.disk_space.free_bytes", lambda folder: room[os.fspath(folder)])
    with fit_for_ray(1) as own:
        assert own is not None and own.startswith("/var/tmp/lb")
    room |= {"/var/tmp": 1_500_000, "/dev/shm": 0}
    with (
        pytest.raises(InputError, match=r"/tmp has 0\.0 MB left, /var/tmp has 1\.5 MB left, .*needs 20 MB in TMPDIR"),
        fit_for_ray(1),
    ):
        pass


def test_an_unknown_way_to_authenticate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "nonsense")
    with (
        pytest.raises(InputError, match="RAY_AUTH_MODE=nonsense is not known; allowed: token, disabled"),
        fit_for_ray(1),
    ):
        pass


@pytest.mark.parametrize("name", ["a" * 40, "my tmp", "é", "q'uote", "d$x", "missing", "ray-of-somebody"])
def test_a_folder_that_cannot_hold_sockets_is_replaced_by_one_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    folder = Path(f"/tmp/{os.getpid()}/{name}")
    if name != "missing":
        folder.mkdir(parents=True)
    if name == "ray-of-somebody":
        (folder / "ray").write_text("in the way")
    try:
        monkeypatch.setenv("TMPDIR", str(folder))
        with fit_for_ray(1) as own:
            assert own is not None and Path(own).is_dir() and len(own) < 20
        assert not Path(own).exists()
        monkeypatch.setenv("TMPDIR", str(folder.parent))
        if folder.parent.exists():
            with fit_for_ray(1) as own:
                assert own is None
    finally:
        subprocess.run(["rm", "-rf", str(folder.parent)], check=True)


def test_where_the_home_folder_cannot_be_written_the_run_has_a_token_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with fit_for_ray(1):
        assert "RAY_AUTH_TOKEN" not in os.environ
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    with fit_for_ray(1):
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 32
    # Taken away by the monkey patch it would be put back at the end, for all tests that follow.
    del os.environ["RAY_AUTH_TOKEN"]


@pytest.mark.slow
def test_a_run_in_a_folder_of_modules_without_a_home_and_a_usable_temporary_folder(
    lookbeyond: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy", "torch", "random", "ray"):
        (tmp_path / f"{name}.py").write_text("open('/'.join([__file__ + '-was-run']), 'w')\nraise SystemExit(3)\n")
    (tmp_path / "my 'tmp' é").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "my 'tmp' é"))
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    experiment = {"name": "own", "dataset": {"name": "folder", "root": "."}, "labels": {"clustering": {"k": 2}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(experiment))
    ended = lookbeyond("run", "own.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert list(tmp_path.glob("*-was-run")) == []
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.slow
@pytest.mark.long
def test_a_run_that_is_ended_for_memory_says_how_much_there_was(
    lookbeyond: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "50")
    experiment = {"name": "own", "dataset": {"name": "scenes", "num_train": 2, "num_val": 1}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(experiment | {"compute": {"lost_worker_retries": 1}}))
    ended = lookbeyond("run", "own.yaml", "--until", "labels")
    assert ended.returncode == 1
    said = r"images 0 to 1 of pool train\) was ended for memory, also with a machine to itself: [\d.]+GB of [\d.]+GB "
    assert re.search(said + r"were in use, [\d.]+GB of them by this worker; less is", ended.stderr), ended.stderr


@pytest.mark.parametrize(("name", "value"), [("PYTHONOPTIMIZE", "2"), ("PYTHONWARNINGS", "error")])
def test_a_variable_with_which_ray_does_not_start_is_named(name: str, value: str) -> None:
    program = "from orchestrator.cluster.environment import fit_for_ray\nwith fit_for_ray(1): pass"
    environment = os.environ | {name: value}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert f"{name}={value}" in ended.stderr
