"""A cluster of three hosts from `ray up` to `ray down`, with the project's own on-premise file; two of them are lost.

The experiment runs three times: on the laptop alone; on the cluster with a bucket that fails now and then, while the
workers of its trainings are killed; on the cluster with a shared folder, while two of the hosts go. All three must end
with the same bytes.

Run by `make cluster-test`.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_lab.hosts import LAUNCHER, Host, make_bridge, make_hosts
from support.s3_server import KINDS, S3Server, s3_server

from orchestrator.execution.provenance import Code
from orchestrator.ledger.manifests import Ledger
from orchestrator.storage.store import Storage

REPOSITORY = Path(__file__).resolve().parents[2]
EXPERIMENT = [
    "demo",
    "dataset.num_train=24",
    "dataset.num_val=8",
    "dataset.image_size=[64,96]",
    "labels.superpixels.n_segments=40",
    "compute.shard_images=2",
    "labels.extractor.batch_size=2",
    "pretrain.epochs=4",
    "finetune.steps=40",
    "compute.checkpoint_seconds=1",
]


AUTOSCALER = "RAY_UP_enable_autoscaler_v2"
ADDRESS = "http://127.0.0.1:8265"
LOOKBEYOND = [sys.executable, "-m", "lookbeyond"]
COUNT_NODES = (
    'import ray; ray.init(address="auto", log_to_driver=False); '
    'print("alive", sum(node["Alive"] for node in ray.nodes()))'
)


class Laptop:
    """This process as a user's machine: a home of its own, the cluster's file and its token."""

    def __init__(self, folder: Path, hosts: list[Host], key: Path) -> None:
        self.folder = folder
        (folder / ".ray").mkdir(parents=True)
        (folder / "sessions").mkdir()
        self.environment = os.environ | {
            "HOME": str(folder),
            "RAY_TMPDIR": str(folder / "sessions"),
            AUTOSCALER: os.environ.get(AUTOSCALER, "0"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        self.run("ray", "get-auth-token", "--generate")
        document = yaml.safe_load((REPOSITORY / "clusters/on-premise.yaml").read_text())
        head, *workers = hosts
        document["provider"] |= {"head_ip": head.address, "worker_ips": [host.address for host in workers]}
        document["auth"] = {"ssh_user": "root", "ssh_private_key": str(key)}
        self.cluster = folder / "on-premise.yaml"
        self.cluster.write_text(yaml.safe_dump(document))

    def run(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """A command, to its end."""
        ended = subprocess.run(
            words,
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        assert not check or ended.returncode == 0, f"{' '.join(words)}\n{ended.stdout}{ended.stderr}"
        return ended

    def start(self, log: Path, *words: str) -> "subprocess.Popen[bytes]":
        """A command whose output goes to a file."""
        with log.open("wb") as output:
            return subprocess.Popen(
                words,
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def nodes_alive(self) -> int:
        """Machines of the cluster, as its head counts them."""
        command = f"RAY_AUTH_MODE=token python -c '{COUNT_NODES}'"
        ended = self.run("ray", "exec", str(self.cluster), command, check=False)
        counts = [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("alive ")]
        return int(counts[-1]) if counts else 0


class Clock:
    """Says how long each part took."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        begun = time.monotonic()
        yield
        print(f"{time.monotonic() - self._begun:6.0f} s  {name} took {time.monotonic() - begun:.0f} s", flush=True)


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        time.sleep(0.5)


def digests(storage: Storage) -> dict[str, Any]:
    """SHA-256 of all files of every step that has any, trained networks too, and the scores."""
    found = {}
    for manifest in Ledger(storage).manifests():
        shards = [record.sha256 for record in manifest.records]
        found[f"{manifest.kind}/{manifest.key}"] = shards or manifest.results
    return found


def records(storage: Path) -> int:
    """Finished shards."""
    return len(list(storage.glob("shards/**/*.json")))


def states(storage: Storage) -> list[str]:
    """The trainings that have a state to go on from."""
    return [file.path.split("/")[1][:8] for file in storage.files("checkpoints") if file.path.endswith(".pt")]


def answers(port: int) -> bool:
    """Whether somebody listens here."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def lose_two_hosts(
    job: "subprocess.Popen[bytes]", storage: Path, everything: int, hosts: list[Host], log: Path
) -> None:
    """Switch one host off while images are labelled, and unplug another while networks are trained."""

    def reached(condition: Callable[[], bool]) -> Callable[[], bool]:
        return lambda: job.poll() is not None or condition()

    def still_running() -> None:
        assert job.poll() is None, f"the job ended before the hosts were lost:\n{log.read_text()}"

    wait_for("the first shards", reached(lambda: records(storage) >= everything // 5), 900)
    still_running()
    hosts[2].switch_off()
    print(f"          {records(storage)} of {everything} shards: {hosts[2].name} switched off", flush=True)
    wait_for("a state of a training", reached(lambda: bool(states(Storage(str(storage))))), 900)
    still_running()
    hosts[1].unplug()
    print(f"          a training has begun: {hosts[1].name} unplugged", flush=True)


@dataclass
class Lab:
    """Three hosts and a laptop, the cluster up, and what the experiment came to on the laptop alone."""

    clock: Clock
    hosts: list[Host]
    laptop: Laptop
    s3: S3Server
    tunnel: "subprocess.Popen[bytes]"
    expected: dict[str, Any]

    def submission(self, storage: str) -> list[str]:
        """The command that runs the experiment on the cluster."""
        return [*LOOKBEYOND, "submit", *EXPERIMENT, "--address", ADDRESS, "--storage", storage]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Everything up to the experiment."""
    folder = Path(os.environ["LOOKBEYOND_LAB"])
    clock = Clock()
    make_bridge()
    with s3_server(LAUNCHER) as s3:
        with clock.part("three hosts"):
            hosts, key = make_hosts(3, s3.environment())
            laptop = Laptop(folder / "laptop", hosts, key)
        with clock.part("the experiment on the laptop alone"):
            laptop.run(*LOOKBEYOND, "run", *EXPERIMENT, "--storage", str(folder / "here"))
        with clock.part("ray up"):
            laptop.run("ray", "up", "-y", "--no-config-cache", str(laptop.cluster))
        with clock.part("the workers"):
            wait_for("three machines", lambda: laptop.nodes_alive() == 3, 600)
        tunnel = laptop.start(folder / "tunnel.log", "ray", "dashboard", str(laptop.cluster), "--port", "8265")
        wait_for("a tunnel to the dashboard", lambda: answers(8265), 120)
        yield Lab(clock, hosts, laptop, s3, tunnel, digests(Storage(str(folder / "here"))))


@pytest.mark.timeout(1800)
def test_without_the_token_nothing_is_submitted(lab: Lab) -> None:
    refused = lab.laptop.run(*lab.submission("/storage"), check=False)
    assert refused.returncode == 2
    assert "asks for a token" in refused.stderr
    lab.laptop.environment["RAY_AUTH_MODE"] = "token"


@pytest.mark.timeout(1800)
def test_on_s3_that_fails_trainings_go_on_from_what_lies_there(lab: Lab) -> None:
    """Three hosts share nothing but the bucket; all workers of all trainings are killed once."""
    storage = Storage(f"s3://{lab.s3.make_bucket('lab')}/folder")
    log = Path(os.environ["LOOKBEYOND_LAB"]) / "s3.log"
    lab.s3.trouble.begin(0.02, seed=1)
    with lab.clock.part("the experiment on s3"):
        job = lab.laptop.start(log, *lab.submission(storage.uri))
        wait_for("a state", lambda: job.poll() is not None or bool(states(storage)), 900)
        killed = {host.name: host.kill_trainers() for host in lab.hosts}
        print(f"          trainings {' and '.join(states(storage))} had a state; workers killed: {killed}", flush=True)
        code = job.wait(timeout=900)
    trouble = dict(lab.s3.trouble.made)
    lab.s3.trouble.end()
    print(log.read_text())
    print(f"          trouble made at {lab.s3.trouble.requests} requests: {trouble}")
    assert code == 0
    assert sum(killed.values()) >= 1
    assert "the training continues from its last state" in log.read_text()
    assert set(trouble) == set(KINDS)
    assert digests(storage) == lab.expected
    print(lab.laptop.run(*LOOKBEYOND, "verify", storage.uri).stdout)


@pytest.mark.timeout(1800)
def test_an_experiment_outlives_two_of_three_hosts(lab: Lab) -> None:
    folder = Path(os.environ["LOOKBEYOND_LAB"])
    shared, fetched, log = folder / "shared", folder / "fetched", folder / "job.log"
    with lab.clock.part("the experiment on a shared folder"):
        job = lab.laptop.start(log, *lab.submission(str(shared)))
        lose_two_hosts(job, shared, records(folder / "here"), lab.hosts, log)
        code = job.wait(timeout=900)
    print(log.read_text())
    assert code == 0
    assert "lost the worker of" in log.read_text()

    with lab.clock.part("results fetched and verified"):
        lab.laptop.run("ray", "rsync-down", str(lab.laptop.cluster), f"{shared}/", str(fetched))
        print(lab.laptop.run(*LOOKBEYOND, "verify", str(fetched)).stdout)
    assert len(lab.expected) == 18
    assert digests(Storage(str(fetched))) == lab.expected
    provenance = json.loads((fetched / "results/demo.json").read_text())["provenance"]
    assert {machine["host"] for machine in provenance["machines"]} == {host.name for host in lab.hosts}
    assert provenance["git"] == json.loads(json.dumps(asdict(Code.of(REPOSITORY))))


@pytest.mark.timeout(1800)
def test_ray_down_leaves_nothing_on_the_head(lab: Lab) -> None:
    with lab.clock.part("ray down"):
        lab.tunnel.terminate()
        lab.laptop.run("ray", "down", "-y", str(lab.laptop.cluster))
    assert lab.hosts[0].ray_processes() == 0
