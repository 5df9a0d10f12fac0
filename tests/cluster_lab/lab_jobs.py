"""Jobs on a head from `ray start`: what `lookbeyond submit` and plain `ray job submit` come to, and how they end.

Run by `make cluster-test`, apart from other processes: `ray stop` ends every Ray there is.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.ledger.manifests import Ledger
from orchestrator.storage.store import Storage

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ["LOOKBEYOND_LAB"])
# A job is sent what it needs from the folder that it is submitted in.
WORK = FOLDER / "work"
ADDRESS = "http://127.0.0.1:8265"
SUBMIT = [sys.executable, "-m", "lookbeyond", "submit"]
LABELLING: dict[str, Any] = {
    "name": "jobs",
    "dataset": {"name": "scenes", "image_size": [64, 96], "num_train": 8, "num_val": 4},
    "labels": {"extractor": {"arch": "filters", "output_stride": 8}, "superpixels": {"n_segments": 40}},
    "compute": {"shard_images": 4},
}
# The second row cannot be planned, and fails alone.
HALF = LABELLING | {
    "rows": [
        {"row": "good", "set": {}},
        {"row": "bad", "set": {"labels.extractor": {"arch": "resnet18", "weights": "missing.pth"}}},
    ]
}
# There is no GPU: only the job can know.
NEVER = LABELLING | {"compute": {"device": "cuda"}}


def call(*words: str) -> "subprocess.CompletedProcess[str]":
    """A command, as on a laptop with a copy of the code in front of it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"HOME": str(FOLDER), "RAY_AUTH_MODE": "disabled", "PATH": path}
    return subprocess.run(words, cwd=WORK, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module", autouse=True)
def head() -> Iterator[None]:
    """A cluster of one machine."""
    for package in ("lookbeyond", "orchestrator", "workloads"):
        shutil.copytree(REPOSITORY / package, WORK / package, ignore=shutil.ignore_patterns("__pycache__"))
    started = call(
        *("ray", "start", "--head", "--num-cpus=2", "--object-store-memory=100000000"),
        *("--dashboard-host=127.0.0.1", "--disable-usage-stats"),
    )
    assert started.returncode == 0, started.stderr
    yield
    call("ray", "stop")


def experiment(name: str, document: dict[str, Any]) -> str:
    """Write an experiment beside the code."""
    path = WORK / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path.name


def outcomes(storage: Path) -> dict[str, Any]:
    """SHA-256 of all files and the scores, by step."""
    return {
        f"{manifest.kind}/{manifest.key}": ([record.sha256 for record in manifest.records], manifest.results)
        for manifest in Ledger(Storage(str(storage))).manifests()
    }


def submit(name: str, document: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    """`lookbeyond submit`."""
    return call(*SUBMIT, experiment(name, document), "--address", ADDRESS, "--storage", str(FOLDER / name))


def plain(name: str, document: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    """`ray job submit` of the command that a user would type on the head."""
    command = ["python", "-m", "lookbeyond", "run", experiment(name, document), "--storage", str(FOLDER / name)]
    return call("ray", "job", "submit", "--address", ADDRESS, "--working-dir", ".", "--", *command)


@pytest.mark.timeout(600)
def test_both_ways_come_to_the_same() -> None:
    ours, theirs = submit("ours", LABELLING), plain("theirs", LABELLING)
    assert ours.returncode == 0, ours.stdout + ours.stderr
    assert theirs.returncode == 0, theirs.stdout + theirs.stderr
    assert "jobs: 1 cell" in ours.stdout
    assert len(outcomes(FOLDER / "ours")) == 7
    assert outcomes(FOLDER / "ours") == outcomes(FOLDER / "theirs")
    print(f"          both ended with 0 and the same {len(outcomes(FOLDER / 'ours'))} steps")


@pytest.mark.timeout(600)
def test_the_codes_of_failed_jobs_come_back() -> None:
    half, never = submit("half", HALF), submit("never", NEVER)
    assert half.returncode == 1, half.stdout + half.stderr
    cells = json.loads((FOLDER / "half/results/jobs.json").read_text())["cells"]
    assert [cell["status"] for cell in cells] == ["done", "failed"]
    assert never.returncode == 2, never.stdout + never.stderr
    assert "1 GPU" in never.stdout
    # Ray's own command knows only that a job failed.
    assert plain("again", NEVER).returncode == 1
    print("          a failed cell ended with 1, a GPU that is not there with 2; by `ray job submit` with 1")
