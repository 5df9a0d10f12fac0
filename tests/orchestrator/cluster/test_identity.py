"""Nothing lost, nothing changed: the same bytes with one worker, with four on three nodes, and after any kill."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.cluster.gpu_check import VARIABLE
from orchestrator.cluster.run import RunReport, run_plan
from orchestrator.execution.progress import Progress
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.verification import verify
from orchestrator.planning.plan import make_plan
from orchestrator.storage.store import Storage

pytestmark = pytest.mark.slow

Digests = dict[str, list[str]]


def digests(folder: Path) -> Digests:
    """SHA-256 of every shard of every step, and the scores."""
    found = {}
    for manifest in Ledger(Storage(str(folder))).manifests():
        found[f"{manifest.kind}/{manifest.key}"] = [record.sha256 for record in manifest.records]
        if manifest.kind == "score":
            found[f"{manifest.kind}/{manifest.key}"] = [json.dumps(manifest.results, sort_keys=True)]
    return found


def run(document: dict[str, Any], folder: Path) -> RunReport:
    storage = Storage(str(folder))
    plan = make_plan(document, storage, write_listings=True)
    with Progress() as progress:
        report = run_plan(plan, storage, progress, address=None, dashboard=False)
    assert not report.failed
    return report


@pytest.fixture(scope="module")
def experiment() -> dict[str, Any]:
    return {
        "name": "identity",
        "dataset": {"name": "scenes", "image_size": [96, 128], "num_train": 24, "num_val": 8},
        "labels": {
            "extractor": {"arch": "resnet18", "weights": "random", "output_stride": 16, "batch_size": 2},
            "sampling": {"pixels_per_image": 30},
            "superpixels": {"n_segments": 60},
        },
        "compute": {"shard_images": 2},
        "grid": {"labels.clustering.k_per_class": [1.0, 1.5], "labels.outliers": [0.0, 0.1]},
    }


@pytest.fixture(scope="module")
def undisturbed(experiment: dict[str, Any], ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Digests:
    folder = tmp_path_factory.mktemp("undisturbed")
    run({**experiment, "compute": {"shard_images": 2, "workers": 1}}, folder)
    found = digests(folder)
    assert len(found) == 1 + 2 + 2 + 8 + 4, "sample, superpixels twice, two clusters, eight labellings, four scores"
    return found


def test_a_cell_alone_writes_what_it_writes_in_a_grid(
    experiment: dict[str, Any], undisturbed: Digests, ray_session: None, tmp_path: Path
) -> None:
    alone = {**experiment, "grid": {"labels.clustering.k_per_class": [1.5], "labels.outliers": [0.1]}}
    run(alone, tmp_path)
    found = digests(tmp_path)
    assert found.items() <= undisturbed.items()
    assert len(found) == 1 + 2 + 1 + 2 + 1


def test_two_workers_that_are_killed_write_what_one_worker_writes(
    experiment: dict[str, Any], undisturbed: Digests, ray_session: None, tmp_path: Path
) -> None:
    # A plain task, the clustering actor and an extraction actor.
    killers = [Killer(job, tmp_path, done) for job, done in (("SuperpixelJob", 1), ("ClusterJob", 0), ("LabelJob", 2))]
    for killer in killers:
        killer.start()
    report = run(experiment, tmp_path)
    for killer in killers:
        killer.join()
        assert killer.victim, f"no process was seen running a {killer.job}"
    assert digests(tmp_path) == undisturbed
    assert report.retries.get("lost", 0) >= len(killers), "the run did not notice every kill"
    assert not verify(Storage(str(tmp_path)), repair=False).damaged


class Killer(threading.Thread):
    """Kills a worker process while it runs a job of a kind, when this many shards are done."""

    def __init__(self, job: str, storage: Path, done: int) -> None:
        super().__init__(daemon=True)
        self.job = job
        self._storage = storage
        self._done = done
        self.victim = 0

    def run(self) -> None:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            if len(list(self._storage.glob("shards/*/*.json"))) < self._done:
                time.sleep(0.005)
                continue
            for process in psutil.Process().children(recursive=True):
                try:
                    title = " ".join(process.cmdline())
                except psutil.Error:
                    continue
                if title.startswith(f"ray::{self.job}"):
                    process.send_signal(signal.SIGKILL)
                    self.victim = process.pid
                    return
            # Jobs take longer than this; without a pause the search would take a core from the very jobs it waits for.
            time.sleep(0.005)


_NODES = """
import json, random, sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
import ray

def main():
    document, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    from orchestrator.cluster.run import run_plan
    from orchestrator.planning.plan import make_plan
    from orchestrator.execution.progress import Progress
    from orchestrator.storage.store import Storage
    beat = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 5}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": beat}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    # The GPU is there for Ray only: torch finds none, and the same bytes come out.
    nodes = [cluster.add_node(num_cpus=cores, num_gpus=gpus) for cores, gpus in ((2, 0), (1, 1), (1, 0))]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    removed = []
    def unplug():
        wanted = random.Random(0).randrange(2, 20)
        while len(list(folder.glob("shards/*/*.json"))) < wanted:
            time.sleep(0.01)
        removed.append(1)
        cluster.remove_node(nodes[0], allow_graceful=False)
    threading.Thread(target=unplug, daemon=True).start()
    storage = Storage(str(folder))
    plan = make_plan(document, storage, write_listings=True)
    with Progress() as progress:
        report = run_plan(plan, storage, progress, address=None, dashboard=False)
    outcome = {"failed": report.failed, "removed": len(removed), "machines": len(report.machines)}
    (folder / "outcome.json").write_text(json.dumps(outcome))
    ray.shutdown()
    cluster.shutdown()

main()
"""


def test_four_workers_on_three_nodes_of_which_one_is_lost(
    experiment: dict[str, Any], undisturbed: Digests, tmp_path: Path
) -> None:
    document = {**experiment, "compute": {"shard_images": 2, "workers": 4}}
    repository = str(Path(__file__).resolve().parents[3])
    environment = os.environ | {"PYTHONPATH": repository, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", VARIABLE: "cpu"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", _NODES, json.dumps(document), str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    # Not on standard output: Ray's processes write there, too, when a machine is lost.
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome == {"failed": {}, "removed": 1, "machines": 4}
    assert digests(tmp_path) == undisturbed
