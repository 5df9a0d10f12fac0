"""A cluster of three hosts from `ray up` to `ray down`, with the project's own on-premise file; two of them are lost.

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
from pathlib import Path
from typing import Any

import pytest
import yaml
from hosts import Host, make_hosts

from orchestrator.code_state import code_state

REPOSITORY = Path(__file__).resolve().parents[2]
EXPERIMENT = [
    "demo",
    "dataset.num_train=24",
    "dataset.num_val=8",
    "dataset.image_size=[64,96]",
    "labels.superpixels.n_segments=40",
    "compute.shard_images=2",
    "labels.extractor.batch_size=2",
]


AUTOSCALER = "RAY_UP_enable_autoscaler_v2"
ADDRESS = "http://127.0.0.1:8265"
LOOKBEYOND = [sys.executable, "-m", "orchestrator"]
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


def digests(storage: Path) -> dict[str, Any]:
    """SHA-256 of every shard of every step that works on images, and the scores."""
    found = {}
    for path in storage.glob("steps/*/*.json"):
        manifest = json.loads(path.read_text())
        found[f"{manifest['kind']}/{manifest['key']}"] = (
            [shard["sha256"] for shard in manifest["shards"]] if manifest["kind"] != "score" else manifest["results"]
        )
    return found


def records(storage: Path) -> int:
    """Finished shards."""
    return len(list(storage.glob("shards/**/*.json")))


def answers(port: int) -> bool:
    """Whether somebody listens here."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def lose_two_hosts(
    job: "subprocess.Popen[bytes]", storage: Path, everything: int, hosts: list[Host], log: Path
) -> None:
    """Switch one host off and unplug another while the job is at work."""

    def reached(share: float) -> Callable[[], bool]:
        return lambda: records(storage) > everything * share or job.poll() is not None

    wait_for("a tenth of the shards", reached(0.1), 900)
    hosts[2].switch_off()
    print(f"          {records(storage)} of {everything} shards: {hosts[2].name} switched off", flush=True)
    wait_for("a third of the shards", reached(0.33), 900)
    hosts[1].unplug()
    print(f"          {records(storage)} of {everything} shards: {hosts[1].name} unplugged", flush=True)
    assert job.poll() is None, f"the job ended before the hosts were lost:\n{log.read_text()}"


@pytest.mark.timeout(3600)
def test_an_experiment_outlives_two_of_three_hosts() -> None:
    folder = Path(os.environ["LOOKBEYOND_LAB"])
    here, shared, fetched = (folder / name for name in ("here", "shared", "fetched"))
    clock = Clock()
    with clock.part("three hosts"):
        hosts, key = make_hosts(3)
        laptop = Laptop(folder / "laptop", hosts, key)
    with clock.part("the experiment on the laptop alone"):
        laptop.run(*LOOKBEYOND, "run", *EXPERIMENT, "--storage", str(here))
    with clock.part("ray up"):
        laptop.run("ray", "up", "-y", "--no-config-cache", str(laptop.cluster))
    with clock.part("the workers"):
        wait_for("three machines", lambda: laptop.nodes_alive() == 3, 600)

    tunnel = laptop.start(folder / "tunnel.log", "ray", "dashboard", str(laptop.cluster), "--port", "8265")
    wait_for("a tunnel to the dashboard", lambda: answers(8265), 120)
    submission = [*LOOKBEYOND, "submit", *EXPERIMENT, "--address", ADDRESS, "--storage", str(shared)]
    with clock.part("a submission without the token"):
        refused = laptop.run(*submission, check=False)
        assert refused.returncode == 2
        assert "asks for a token" in refused.stderr
    laptop.environment["RAY_AUTH_MODE"] = "token"
    log = folder / "job.log"
    with clock.part("the experiment on the cluster"):
        job = laptop.start(log, *submission)
        lose_two_hosts(job, shared, records(here), hosts, log)
        code = job.wait(timeout=1800)
    print(log.read_text())
    assert code == 0
    assert "lost the worker of" in log.read_text()

    with clock.part("results fetched and verified"):
        laptop.run("ray", "rsync-down", str(laptop.cluster), f"{shared}/", str(fetched))
        laptop.run(*LOOKBEYOND, "verify", str(fetched))
    assert digests(here)
    assert digests(fetched) == digests(here)
    provenance = json.loads((fetched / "results/demo.json").read_text())["provenance"]
    assert {machine["host"] for machine in provenance["machines"]} == {host.name for host in hosts}
    assert provenance["git"] == code_state(REPOSITORY)

    with clock.part("ray down"):
        tunnel.terminate()
        laptop.run("ray", "down", "-y", str(laptop.cluster))
    assert hosts[0].ray_processes() == 0
