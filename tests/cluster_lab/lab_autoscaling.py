"""The node types of cluster.yaml as fake machines: a labelling run starts from none, and they go when it is done.

Run by `make cluster-test`, apart from other processes: the cluster stops Ray by the names of processes.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.cluster_utils import AutoscalingCluster
from ray.util.state import list_actors

from orchestrator.cluster.gpu_check import VARIABLE

REPOSITORY = Path(__file__).resolve().parents[2]
IDLE_SECONDS = 6
# One type of each pool.
MOST = {"cpu": 2, "gpu": 1}
# What Ray's own test cluster reads and its wheel does not hold.
FAKE_DEFAULTS = {
    "cluster_name": "fake",
    "max_workers": 8,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 0.1,
    "provider": {"type": "fake_multinode"},
    "available_node_types": {},
    "head_node_type": "ray.head.default",
    "auth": {"ssh_user": "root"},
    "docker": {},
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "initialization_commands": [],
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
}
LABELLING = [
    "demo",
    "dataset.num_train=16",
    "dataset.num_val=4",
    "dataset.image_size=[64,96]",
    "labels.superpixels.n_segments=40",
    "compute.shard_images=2",
    "labels.extractor.batch_size=2",
]
TRIALS = {
    "name": "trials",
    "dataset": {"name": "scenes", "image_size": [64, 96], "num_train": 8, "num_val": 2},
    "labels": {"extractor": {"arch": "filters", "output_stride": 8}, "superpixels": {"n_segments": 40}},
    "finetune": {
        "recipe": "small",
        "steps": 2,
        "batch_size": 2,
        "augmentation": {"image_size": [64, 96], "crop": [49, 81]},
    },
    # The fake GPU is no device.
    "compute": {"device": "cpu", "shard_images": 8},
    "grid": {"finetune.steps": [2, 3]},
}


def give_ray_its_defaults(folder: Path) -> None:
    """Mount a copy of the folder that lacks a file, with the file, over it; seen by this process's children alone."""
    original = Path(ray.__path__[0]) / "autoscaler/_private/fake_multi_node"
    copy = folder / "fake_multi_node"
    shutil.copytree(original, copy)
    (copy / "example.yaml").write_text(yaml.safe_dump(FAKE_DEFAULTS))
    subprocess.run(["mount", "--bind", str(copy), str(original)], check=True)


def fake_workers() -> dict[str, Any]:
    """The worker types of cluster.yaml, on one core each, few of them and soon idle."""
    types = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())["available_node_types"]
    return {
        name: {
            "resources": {resource: min(amount, 1) for resource, amount in kind["resources"].items()},
            "labels": kind.get("labels", {}),
            "min_workers": kind["min_workers"],
            "max_workers": MOST[name],
            "idle_timeout_s": IDLE_SECONDS,
            "node_config": {},
        }
        for name, kind in types.items()
        if name in MOST
    }


def start_head(config: Path) -> None:
    """What `AutoscalingCluster.start` does, for a head with the label of cluster.yaml's.

    The variable by which Ray's own start takes labels is read by the autoscaler, too, and gives them to all workers.
    """
    variables = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    command = ["ray", "start", "--head", f"--autoscaling-config={config}", "--labels=lookbeyond.role=head"]
    command += ["--num-cpus=0", "--object-store-memory=100000000", "--disable-usage-stats"]
    subprocess.run(command, env=os.environ | variables, check=True)


class Watch(threading.Thread):
    """Notes every machine that is seen to be up, and how many there were at once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.resources: dict[str, dict[str, float]] = {}
        self.most = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.3):
            self.look()

    def look(self) -> int:
        """Workers that are up now."""
        workers = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        self.resources |= {node["NodeID"]: node["Resources"] for node in workers}
        self.most = max(self.most, len(workers))
        return len(workers)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """An autoscaling cluster that this process is connected to, and the file that says what it can grow to."""
    folder = Path(os.environ["LOOKBEYOND_LAB"])
    give_ray_its_defaults(folder)
    os.environ["HOME"] = str(folder)
    # `AutoscalingCluster.shutdown` calls `ray` by its name, as the start does.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # Without a token at home there is none; the machines are processes of one user that nobody else reaches.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    # The fake GPUs are none that torch could use.
    os.environ[VARIABLE] = "cpu"
    autoscaling = AutoscalingCluster(
        head_resources={"CPU": 0},
        worker_node_types=fake_workers(),
        autoscaler_v2=True,
        max_workers=sum(MOST.values()),
    )
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(autoscaling._config))
    start_head(path)
    ray.init("auto", log_to_driver=False)
    yield path
    ray.shutdown()
    autoscaling.shutdown()


def run(*words: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "lookbeyond", "run", *words, "--address", "auto"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    print(ended.stderr + ended.stdout)
    assert ended.returncode == 0


def wait_until_all_have_gone(watch: Watch) -> float:
    begun = time.monotonic()
    while watch.look():
        assert time.monotonic() - begun < 120, "machines are still up"
        time.sleep(0.5)
    return time.monotonic() - begun


@pytest.mark.timeout(900)
def test_a_labelling_run_wakes_machines_and_lets_them_go(cluster: Path) -> None:
    storage = cluster.parent / "labels"
    watch = Watch()
    assert watch.look() == 0
    watch.start()
    begun = time.monotonic()
    run(*LABELLING, "--until", "labels", "--storage", str(storage), f"compute.cluster_config={cluster}")
    print(f"          the run took {time.monotonic() - begun:.0f} s, with up to {watch.most} machines")
    # Extraction and clustering want the GPU; superpixels run on the others.
    assert watch.most >= 2
    clustering = [actor.node_id for actor in actors() if actor.required_resources == {"GPU": 1.0}]
    assert clustering
    assert all("GPU" in watch.resources[node] for node in clustering)
    print(f"          all machines gone {wait_until_all_have_gone(watch):.0f} s later")
    watch.done.set()


@pytest.mark.timeout(900)
def test_a_fit_that_asks_for_no_core_wakes_a_machine_too(cluster: Path) -> None:
    """The samples are there from the run before: the first thing wanted is the clustering actor, here without a GPU."""
    storage = cluster.parent / "labels"
    watch = Watch()
    assert watch.look() == 0
    watch.start()
    more = [*LABELLING, "labels.clustering.num_restarts=2", "compute.device=cpu"]
    run(*more, "--until", "labels", "--storage", str(storage), f"compute.cluster_config={cluster}")
    clustering = [actor.node_id for actor in actors() if not actor.required_resources]
    assert clustering
    assert all(node in watch.resources for node in clustering), "it ran on a machine that works, not on the head"
    print(f"          all machines gone {wait_until_all_have_gone(watch):.0f} s later")
    watch.done.set()


def actors() -> list[Any]:
    """All actors there have been, those of the head's own services left out."""
    return [actor for actor in list_actors(detail=True, limit=1000) if actor.class_name == "_Worker"]


@pytest.mark.timeout(900)
def test_a_grid_of_two_trials_wakes_machines_and_lets_them_go(cluster: Path) -> None:
    storage = cluster.parent / "trials"
    path = cluster.parent / "trials.yaml"
    path.write_text(yaml.safe_dump(TRIALS))
    watch = Watch()
    assert watch.look() == 0
    watch.start()
    run(str(path), "--storage", str(storage), f"compute.cluster_config={cluster}")
    print(f"          with up to {watch.most} machines")
    assert watch.most >= 1
    cells = json.loads((storage / "results/trials.json").read_text())["cells"]
    assert [cell["status"] for cell in cells] == ["done", "done"]
    print(f"          all machines gone {wait_until_all_have_gone(watch):.0f} s later")
    watch.done.set()
