"""Hosts on one machine: each has a network, processes, mounts and shared memory of its own, and an sshd.

The model: namespaces make what `ray up` takes for machines; their files are those of this machine, except for the home
of root, /tmp/ray, /dev/shm and /run. Must run behind `apart`, which ends them all in the end.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

NETWORK = "10.78.0"
LAUNCHER = f"{NETWORK}.254"

_INIT = """
set -e
mount --bind {home}/passwd /etc/passwd
mount --bind {home}/ray /tmp/ray
mount -t tmpfs -o size=1g,mode=1777 shm /dev/shm
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd
hostname {name}
cd {home}/root
exec env -i HOME={home}/root PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/sbin/sshd -D -e -f {home}/sshd_config
"""


def sh(command: str) -> None:
    """Run a line of shell that must succeed."""
    subprocess.run(["bash", "-euc", command], check=True, capture_output=True, text=True)


def make_bridge() -> None:
    """The network that hosts are plugged into; this process is the laptop on it."""
    sh(f"ip link add lab type bridge; ip address add {LAUNCHER}/24 dev lab; ip link set lab up")


@dataclass
class Host:
    """One host."""

    name: str
    number: int
    folder: Path
    environment: dict[str, str]
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def address(self) -> str:
        """Where the others reach it."""
        return f"{NETWORK}.{self.number}"

    def switch_on(self, public_key: str) -> None:
        """Make it and wait until it answers ssh."""
        name, home = self.name, self.folder
        sh(
            f"ip netns add {name}; ip -n {name} link set lo up\n"
            f"ip link add to-{name} type veth peer name eth0 netns {name}; ip link set to-{name} master lab up\n"
            f"ip -n {name} address add {self.address}/24 dev eth0; ip -n {name} link set eth0 up\n"
            # Ray finds its own address by the route to the outside.
            f"ip -n {name} route add default via {LAUNCHER}\n"
            f"mkdir -p {home}/root/.ssh {home}/ray; chmod 700 {home}/root {home}/root/.ssh\n"
            f"sed 's#:/root:#:{home}/root:#' /etc/passwd > {home}/passwd\n"
            f"ssh-keygen -q -t ed25519 -N '' -f {home}/host_key\n"
        )
        tools = Path(sys.executable).parent
        (home / "root/.ssh/authorized_keys").write_text(public_key)
        variables = "".join(f"export {name}={quote(value)}\n" for name, value in self.environment.items())
        (home / "root/.bashrc").write_text(f"export PATH={tools}:$PATH OMP_NUM_THREADS=1\n{variables}")
        (home / "root/.bash_profile").write_text(". ~/.bashrc\n")
        (home / "sshd_config").write_text(
            f"HostKey {home}/host_key\nPidFile none\nListenAddress {self.address}\nUsePAM no\n"
            "PermitRootLogin prohibit-password\nPasswordAuthentication no\nMaxStartups 100\nMaxSessions 100\n"
        )
        init = home / "init.sh"
        init.write_text(_INIT.format(home=home, name=name))
        kinds = ["--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--mount-proc"]
        with (home / "sshd.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{name}", "unshare", *kinds, "bash", str(init)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 120
        while subprocess.run(
            ["bash", "-c", f"</dev/tcp/{self.address}/22"], capture_output=True, check=False
        ).returncode:
            assert time.monotonic() < deadline, (home / "sshd.log").read_text()
            time.sleep(0.1)

    def unplug(self) -> None:
        """Take its network away; its processes go on."""
        sh(f"ip link set to-{self.name} down")

    def switch_off(self) -> None:
        """End all its processes at once."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def ray_processes(self) -> int:
        """How many raylets run on it."""
        return self._inside("ps", "-eo", "comm").split().count("raylet")

    def kill_trainers(self) -> int:
        """Kill the workers of all trainings on it; how many there were."""
        return len(self._inside("pkill", "--echo", "-KILL", "-f", "^ray::RayTrainWorker").splitlines())

    def _inside(self, *command: str) -> str:
        """What a command prints that sees the processes of this host alone; nothing when the host is off."""
        assert self.process is not None
        init = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        if not init:
            return ""
        entered = ["nsenter", "-t", init[0], "-p", "-m", *command]
        return subprocess.run(entered, capture_output=True, text=True, check=False).stdout


def make_hosts(count: int, environment: dict[str, str]) -> tuple[list[Host], Path]:
    """So many hosts, switched on, with variables for all that is started there; and the private key that opens them."""
    folder = Path(os.environ["LOOKBEYOND_LAB"])
    key = folder / "key"
    sh(f"ssh-keygen -q -t ed25519 -N '' -f {key}")
    hosts = [Host(f"host{number}", number, folder / f"host{number}", environment) for number in range(1, count + 1)]
    for host in hosts:
        host.switch_on(key.with_suffix(".pub").read_text())
    return hosts, key
