"""Runs as processes of their own: one that is interrupted and goes on, and two at once."""

import json
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from support.command_line import Commands, write_camvid, write_experiment

pytestmark = pytest.mark.slow

GRID = "grid.labels.outliers=[0.0, 0.1]"
INTERRUPTED = (
    "run",
    "interrupted.yaml",
    "dataset={name: scenes, image_size: [64, 96], num_train: 96, num_val: 8}",
    "labels.clustering={k: 5}",
    "labels.images=96",
)


def _wait_for_a_shard(folder: Path, process: "subprocess.Popen[str]", known: set[str]) -> None:
    """Until the run has finished one more than are known."""
    deadline = time.monotonic() + 120
    while _shards(folder) <= known:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no shard in two minutes"
        time.sleep(0.02)


def _shards(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("storage/shards/*/*.json")}


def test_an_interrupted_run_says_so_and_the_same_command_finishes(
    lookbeyond: Any, tmp_path: Path, command: Commands
) -> None:
    """By Ctrl-C, and again by a terminal that is closed while somebody presses Ctrl-C."""
    write_experiment(tmp_path, "interrupted")
    shards: set[str] = set()
    for numbers in ([signal.SIGINT], [signal.SIGHUP, signal.SIGINT]):
        process = lookbeyond.start(*INTERRUPTED)
        _wait_for_a_shard(tmp_path, process, shards)
        for number in numbers:
            process.send_signal(number)
        out, err = process.communicate(timeout=240)
        assert (process.returncode, out) == (130, "")
        assert "Traceback" not in err
        assert err.splitlines()[-1] == "lookbeyond: interrupted; the same command goes on from here"
        # A worker that was writing when it was ended may leave a file that nothing refers to.
        command.assert_nothing_wrong()
        before, shards = shards, _shards(tmp_path)
        assert before < shards
        assert not (tmp_path / "storage/results").exists()

    # The same command, now in this process, against a run that was never interrupted.
    answer = command(*INTERRUPTED, "--json")
    assert answer.code == 0
    assert shards <= _shards(tmp_path)
    assert command(*INTERRUPTED, "--storage", "whole", "--json").code == 0
    ours, whole = (command.results("interrupted", storage)["cells"][0] for storage in ("storage", "whole"))
    assert ours["metrics"] == whole["metrics"]
    assert ours["steps"] == whole["steps"]
    command.assert_nothing_wrong()


@pytest.mark.long
def test_a_run_whose_cluster_loses_its_head_says_so_and_leaves_no_lease(
    lookbeyond: Any, tmp_path: Path, command: Commands
) -> None:
    write_experiment(tmp_path, "interrupted")
    process = lookbeyond.start(*INTERRUPTED)
    _wait_for_a_shard(tmp_path, process, set())
    below = psutil.Process(process.pid).children(recursive=True)
    (head,) = (one for one in below if one.name() == "gcs_server")
    head.kill()
    # Ray itself would end the run after a minute.
    _, err = process.communicate(timeout=50)
    assert process.returncode == 1
    assert (
        err.splitlines()[-1] == "lookbeyond: the head of the Ray cluster has gone; the same command goes on from here"
    )
    assert "Traceback" not in err
    assert not [path for path in (tmp_path / "storage" / "leases").rglob("*") if path.is_file()]
    assert command(*INTERRUPTED, "--json").code == 0
    command.assert_nothing_wrong()
    psutil.wait_procs(below, timeout=60)
    assert not [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.long
def test_a_training_whose_head_is_ended_by_the_same_signal_ends_as_interrupted_with_no_lease(
    lookbeyond: Any, tmp_path: Path
) -> None:
    """As `timeout` and supervisors do it: to a whole group of processes, that of Ray's head among them."""
    views = {"image_size": [64, 96], "crop": [64, 96]}
    document = {
        "name": "long",
        "dataset": {"name": "scenes", "image_size": [64, 96], "num_train": 8, "num_val": 2},
        "finetune": {"recipe": "small", "steps": 10_000, "batch_size": 2, "augmentation": views},
        "compute": {"checkpoint_seconds": 0.5},
    }
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(document))
    process = lookbeyond.start("run", "long.yaml")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("storage/history/*.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    below = psutil.Process(process.pid).children(recursive=True)
    for one in (*below, psutil.Process(process.pid)):
        with suppress(psutil.NoSuchProcess):
            one.terminate()
    _, err = process.communicate(timeout=50)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "lookbeyond: interrupted; the same command goes on from here"
    assert not [path for path in (tmp_path / "storage" / "leases").rglob("*") if path.is_file()]


@pytest.mark.long
def test_two_runs_at_once_share_the_work(lookbeyond: Any, tmp_path: Path) -> None:
    write_camvid(tmp_path / "camvid", train=12, val=4)
    (tmp_path / "camvid/train/5.png").write_text("not an image")
    write_experiment(tmp_path)
    both = [lookbeyond.start("run", "small.yaml", GRID, "--json", f"name={name}") for name in ("one", "two")]
    ends = [(process, *process.communicate(timeout=240)) for process in both]
    for process, _, err in ends:
        assert process.returncode == 0, err
        assert "Traceback" not in err
    first, second = (json.loads(out)["cells"] for _, out, _ in ends)
    assert [cell["steps"] for cell in first] == [cell["steps"] for cell in second]
    assert [cell["metrics"] for cell in first] == [cell["metrics"] for cell in second]
    # Whoever executes a step names the images that were quarantined in it: of one executed twice both would speak.
    said = [line.split(":", 1)[0] for _, _, err in ends for line in err.splitlines() if line.startswith("quarantined ")]
    assert said.count("quarantined in sample") == said.count("quarantined in superpixels") == 1
    # The two label steps name the same image, which a run that executes both says once.
    assert said.count("quarantined in label") in (1, 2)
    assert len(said) == 2 + said.count("quarantined in label")
    here = list(tmp_path.glob("storage/shards/*/*.arrow"))
    assert len(here) == len(list(tmp_path.glob("storage/shards/*/*.json")))
    assert list(tmp_path.glob("storage/leases/*/*")) == []
    assert lookbeyond("verify", "storage").returncode == 0
