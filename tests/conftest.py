"""What several tests share: one Ray for the whole session, a tiny experiment, and the command line as a process."""

import atexit
import copy
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import settings

from orchestrator.storage.store import Storage

if TYPE_CHECKING:
    from support.command_line import Commands
    from support.s3_server import S3Server

torch.set_num_threads(1)
# Times are nobody's fault on a machine that does other work.
settings.register_profile("lookbeyond", deadline=None)
settings.load_profile("lookbeyond")
# Ray's workers give way to everything else by default, and here the tests themselves are everything else.
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray notes there which cluster of this machine was the last; other tests, and others on this machine, have theirs.
# Sockets lie below it, and their paths must be short.
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray", dir="/tmp")
atexit.register(shutil.rmtree, os.environ["RAY_TMPDIR"], ignore_errors=True)
# What was measured of this machine, and counted of networks, is its user's.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cache")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
# A shell starts with SIGINT ignored what it runs in the background, and all that is started from there inherits it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = {
    "name": "tiny",
    "dataset": {"name": "scenes", "image_size": [64, 96], "num_train": 24, "num_val": 8},
    "labels": {
        "extractor": {"arch": "filters", "output_stride": 8, "batch_size": 2},
        "sampling": {"pixels_per_image": 40},
        "superpixels": {"n_segments": 40},
        "outliers": 0.05,
    },
    "compute": {"shard_images": 4},
    "grid": {"labels.clustering.k_per_class": [1.0, 1.5], "labels.superpixels": [None, {"n_segments": 40}]},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests go first: the processes of `pytest --numprocesses` take modules in this order, and a slow one taken
    last would leave the others idle.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def tiny() -> dict[str, Any]:
    """A small experiment on generated scenes: four cells, six train shards and two val shards."""
    return copy.deepcopy(TINY)


@pytest.fixture(scope="session")
def s3() -> "Iterator[S3Server]":
    """An S3 server on this machine, and the variables by which it is found."""
    from support.s3_server import s3_server

    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(s3: "S3Server") -> str:
    """The name of an empty bucket."""
    return s3.make_bucket(f"bucket{secrets.token_hex(6)}")


@pytest.fixture
def make_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Storage]:
    """Makes the empty storage of a kind: `path` for a folder, or the scheme of a store of objects."""

    def make(kind: str) -> Storage:
        if kind == "path":
            return Storage(str(tmp_path / "storage"))
        return Storage(f"{kind}://{request.getfixturevalue('bucket')}/some/folder")

    return make


@pytest.fixture(params=["path", "s3"])
def storage(request: pytest.FixtureRequest, make_storage: Callable[[str], Storage]) -> Storage:
    """An empty storage of each kind."""
    return make_storage(request.param)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray on this machine with two cores, started once in a process of tests."""
    import ray

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    yield
    ray.shutdown()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a small CamVid tree and an experiment on it, ``small.yaml``."""
    from support.command_line import write_camvid, write_experiment

    write_camvid(tmp_path / "camvid")
    write_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOOKBEYOND_STORAGE", raising=False)
    return tmp_path


@pytest.fixture
def command(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> "Commands":
    """Commands in that folder, whose work is done in this process."""
    from support.command_line import Commands, run_here

    monkeypatch.setattr("orchestrator.cluster.run.run_plan", run_here)
    return Commands(folder, capsys)


@pytest.fixture
def lookbeyond(tmp_path: Path) -> "CommandLine":
    """The command line, run as a user would, in a folder of its own."""
    return CommandLine(tmp_path)


class CommandLine:
    """Runs ``python -m lookbeyond`` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command and return at once."""
        repository = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [repository, os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        environment.pop("RAY_ADDRESS", None)
        return subprocess.Popen(
            [sys.executable, "-m", "lookbeyond", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, timeout: float = 240) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)
