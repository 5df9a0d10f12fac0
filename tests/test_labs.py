"""What `make cluster-test` runs is at least collected: it takes half an hour and root, so nobody starts it often."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LABS = Path(__file__).resolve().parent / "cluster_lab"


@pytest.mark.slow
def test_every_lab_is_collected(tmp_path: Path) -> None:
    labs = sorted(str(path) for path in LABS.glob("lab_*.py"))
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "--quiet", *labs],
        cwd=LABS.parents[1],
        env=os.environ | {"LOOKBEYOND_LAB": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert all(Path(lab).name in ended.stdout for lab in labs)
