"""A short campaign of kills, by the program that runs the long one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_whatever_is_killed_the_same_command_ends_with_the_same_bytes() -> None:
    repository = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "benchmarks.faults.kills", "--kills", "3", "--seed", "70"]
    command += ["--until", "labels", "--points", "worker.kill", "driver.kill", "storage.full"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    ended = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "\n3 faults in " in ended.stdout
    for point in ("worker.kill", "driver.kill", "storage.full"):
        assert f" {point} " in ended.stdout
