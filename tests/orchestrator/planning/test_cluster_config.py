"""The cluster files that come with the project: valid by Ray's own schema, and what they can ever offer."""

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from orchestrator.planning.cluster_config import cluster_capacity
from workloads.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[3]
LAUNCHED = ["cluster.yaml", "clusters/gcp.yaml", "clusters/on-premise.yaml"]


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((REPOSITORY / name).read_text())
    return document


def locked(package: str) -> str:
    """The version of a package in requirements.lock."""
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    return next(line.split("==")[1].split()[0] for line in lines if line.startswith(f"{package}=="))


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_the_file(name: str) -> None:
    prepared = prepare_config(load(name))
    validate_config(prepared)
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**prepared, "idle_timeout_minuts": 5})


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_start_asks_for_the_token_and_keeps_the_dashboard_at_home(name: str) -> None:
    document = load(name)
    for role in ("head", "worker"):
        stop, start = document[f"{role}_start_ray_commands"]
        assert stop == "ray stop"
        assert start.startswith("export RAY_AUTH_MODE=token ")
        assert "--object-spilling-directory=" in start
    assert "--dashboard-host=127.0.0.1" in document["head_start_ray_commands"][1]
    assert document["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}


@pytest.mark.parametrize("name", ["cluster.yaml", "clusters/gcp.yaml"])
def test_the_head_runs_no_work_and_workers_come_from_zero_on_spot(name: str) -> None:
    document = load(name)
    types = dict(document["available_node_types"])
    head = types.pop(document["head_node_type"])
    assert head["resources"] == {"CPU": 0, "lookbeyond_driver": 1}
    assert head["labels"]["lookbeyond.role"] == "head"
    assert "--num-cpus=0" in document["head_start_ray_commands"][1]
    assert "spot" not in str(head).lower()
    for node_type in types.values():
        assert node_type["min_workers"] == 0
        assert "spot" in str(node_type["node_config"]).lower()
    # A pool of spot machines that is empty leaves another, on which a training fits as well.
    pools = [[own for own in types.values() if bool(own["resources"].get("GPU")) is gpu] for gpu in (False, True)]
    for pool in pools:
        assert len({str(own["node_config"]) for own in pool}) == len(pool) > 1
        assert all(own["resources"] == pool[0]["resources"] for own in pool)
    assert pools[1][0]["idle_timeout_s"] < pools[0][0]["idle_timeout_s"]
    # Ray adds ssh and the cluster itself; any further rule would open a port.
    assert "IpPermissions" not in document["provider"].get("security_group", {})


LEAST_DRIVER = 580


@pytest.mark.parametrize(("name", "place"), [("cluster.yaml", "ImageId"), ("clusters/gcp.yaml", "sourceImage")])
def test_machines_come_with_a_driver_for_the_torch_of_their_image(name: str, place: str) -> None:
    """torch is built for CUDA 13, of which no driver before 580 knows."""
    lock = (REPOSITORY / "clusters/requirements.lock").read_text()
    assert "nvidia-cudnn-cu13==" in lock and f"torch=={locked('torch')}" in lock
    configs = [kind["node_config"] for kind in load(name)["available_node_types"].values()]
    if place == "ImageId":
        # Looked up by EC2 in each region; its driver was 580 in December 2025 and 595 from April 2026 on.
        family = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
        assert {config[place] for config in configs} == {f"resolve:ssm:{family}"}
    else:
        disks = [disk["initializeParams"] for config in configs for disk in config["disks"]]
        drivers = {int(disk[place].rpartition("-nvidia-")[2]) for disk in disks}
        assert min(drivers) >= LEAST_DRIVER
        assert all(disk["diskType"].endswith("/pd-balanced") for disk in disks), "G2 machines take no pd-standard"


def test_the_image_holds_what_runs_by_hash_and_nothing_that_develops() -> None:
    lines = (REPOSITORY / "clusters/requirements.lock").read_text().splitlines()
    pins = dict(line.rstrip(" \\").split("==") for line in lines if "==" in line and not line.startswith(" "))
    assert {"ray", "torch", "boto3", "google-api-python-client", "nvidia-ml-py"} <= pins.keys()
    assert not {"pytest", "mypy", "ruff", "moto", "hypothesis", "uv", "pip-audit"} & pins.keys()
    for name in ("ray", "torch", "torchvision", "numpy", "pyarrow"):
        assert pins[name] == locked(name), "a laptop and its cluster compute the same"
    installs = [line for line in (REPOSITORY / "clusters/Dockerfile").read_text().splitlines() if "pip install" in line]
    assert installs and all("--require-hashes" in line for line in installs)


def test_pods_may_run_on_spot_and_gpu_nodes_and_have_an_account() -> None:
    cluster = load("clusters/kuberay-job.yaml")["spec"]["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    assert {pod["serviceAccountName"] for pod in pods} == {"lookbeyond"}
    tolerated = [{one["key"] for one in pod.get("tolerations", [])} for pod in pods]
    assert not tolerated[0], "the head is not on spot"
    assert tolerated[2] - tolerated[1] == {"nvidia.com/gpu"}
    assert "cloud.google.com/gke-spot" in tolerated[1]


def test_the_kubernetes_job_is_of_one_piece() -> None:
    cluster = load("clusters/kuberay-job.yaml")["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == locked("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    containers = [group["template"]["spec"]["containers"][0] for group in groups]
    assert len({container["image"] for container in containers}) == 1
    for container in containers:
        assert container["resources"]["requests"] == container["resources"]["limits"]
    for group in cluster["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]


def most(path: Path) -> tuple[float, float, float, float]:
    """The most cores and GPUs of all machines together, and of one machine."""
    capacity = cluster_capacity(path)
    return capacity.most_cores, capacity.most_gpus, capacity.largest(gpus=False).cores, capacity.largest(gpus=True).gpus


@pytest.mark.parametrize("name", ["cluster.yaml", "clusters/gcp.yaml", "clusters/kuberay-job.yaml"])
def test_what_it_can_ever_offer(name: str) -> None:
    # On Kubernetes 8 machines of 16 cores and 4 of 8 cores and a GPU; elsewhere as many of two types each, 12 in all.
    assert most(REPOSITORY / name) == ((160, 4, 16, 1) if "kuberay" in name else (12 * 16, 8, 16, 1))


def test_the_limit_of_all_workers_holds_for_each_resource(tmp_path: Path) -> None:
    document = one_type_each() | {"max_workers": 5}
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(document))
    assert most(path) == (5 * 16, 4, 16, 1)
    del document["available_node_types"]["cpu"]["max_workers"]
    document["max_workers"] = 20
    path.write_text(yaml.safe_dump(document))
    assert cluster_capacity(path).most_cores == 20 * 16


def test_a_head_that_works_and_shares_of_cores_count(tmp_path: Path) -> None:
    document = load("clusters/kuberay-job.yaml")
    cluster = document["spec"]["rayClusterSpec"]
    del cluster["headGroupSpec"]["rayStartParams"]["num-cpus"]
    for place in ("limits", "requests"):
        cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"][place]["cpu"] = "500m"
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    assert most(path) == (4 + 8 * 0.5 + 4 * 8, 4, 8, 1)


def one_type_each() -> dict[str, Any]:
    document = copy.deepcopy(load("cluster.yaml"))
    types = document["available_node_types"]
    return document | {"available_node_types": {name: types[name] for name in ("head", "cpu", "gpu")}}


def test_a_kind_without_machines_is_not_the_largest(tmp_path: Path) -> None:
    document = one_type_each()
    document["available_node_types"]["cpu"]["max_workers"] = 0
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(document))
    assert most(path) == (4 * 8, 4, 8, 1)


def without(*keys: str) -> dict[str, Any]:
    document = copy.deepcopy(load("cluster.yaml"))
    place = document
    for key in keys[:-1]:
        place = place[key]
    del place[keys[-1]]
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (load("clusters/on-premise.yaml"), "machines of your own, not what they offer"),
        (without("max_workers"), "key 'max_workers' is missing"),
        (without("available_node_types", "gpu", "resources"), "key 'resources' is missing"),
        (load("cluster.yaml") | {"max_workers": "many"}, "many"),
        (load("cluster.yaml") | {"available_node_types": ["cpu"]}, "not a cluster that Ray could start"),
        ({"name": "an experiment"}, "key 'provider' is missing"),
        (["a", "list"], "must hold a mapping of keys, got list"),
    ],
)
def test_a_file_that_does_not_say_it_is_refused_in_one_line(document: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(InputError, match=message) as caught:
        cluster_capacity(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no-such\.yaml cannot be read: No such file"):
        cluster_capacity(tmp_path / "no-such.yaml")
