"""The one connection to Ray.

The model: a run connects once, to the cluster it is told of or else to one it starts for itself on this machine, and
leaves what it did not start as it found it. The failures this guards against: a second `ray.init` or a `ray stop` that
takes down somebody else's cluster, and a dashboard open to the network.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import FrameType
from typing import Any

import ray
from ray._private.services import get_webui_url_from_internal_kv
from ray.exceptions import AuthenticationError
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from orchestrator.cluster.malloc import share_arenas
from orchestrator.planning.capacity import Capacity, Machines, grown
from workloads.errors import InputError

# Tasks pass a few kilobytes through the object store; Ray's default would claim a third of the memory.
_OBJECT_STORE_BYTES = 150_000_000
_STARTS = 3
# Ray's log monitor looks for new files ten times a second unless they are many, which takes a hundredth of a core.
_FEW_LOOKS_FOR_LOGS = {"RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0", "LOG_NAME_UPDATE_INTERVAL_S": "5"}
TOKEN_ADVICE = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that holds it (default ~/.ray/auth_token)"
TOKEN_REFUSED = f"the cluster asks for a token and got none, or another; {TOKEN_ADVICE}"


@contextmanager
def session(address: str | None, *, dashboard: bool) -> Iterator[None]:
    """Connect to the cluster at `address` (``auto`` for the one on this machine), or start one for this run.

    Raises:
        InputError: there is no cluster at the address, or it asks for a token that is missing or another.
    """
    if ray.is_initialized():
        yield
        return
    share_arenas()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would hide the GPUs from tasks that ask for none; devices are chosen by torch, see `torch_device`.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = address or os.environ.get("RAY_ADDRESS") or None
    if not (dashboard or address):
        # Task events are for a dashboard, and there is none.
        os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "lookbeyond"}
    try:
        if address:
            ray.init(address=address, **common)
        else:
            _start_own(dashboard, common)
    except AuthenticationError:
        raise InputError(f"--address {address}: {TOKEN_REFUSED}") from None
    except (ConnectionError, ValueError) as error:
        # Ray gives up with the same error when the token is missing.
        raise InputError(
            f"--address {address}: no Ray cluster answers there ({error}); if it asks for a token, {TOKEN_ADVICE}"
        ) from None
    try:
        # Ray prints its warnings on standard output, which belongs to results.
        with redirect_stdout(sys.stderr), _termination_as_interrupt():
            yield
    finally:
        _release_placement_groups()
        ray.shutdown()


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM, as `ray job stop` and supervisors send it, ends a run as Ctrl-C does: trials are ended, nothing is lost.

    Ray has put a handler of its own there that leaves at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        # Tune has a handler of its own while trials run; one that ignores Ctrl-C, as in a shell's background, is none.
        handler = signal.getsignal(signal.SIGINT)
        (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_own(dashboard: bool, common: dict[str, Any]) -> None:
    """Start Ray on this machine; another Ray that starts at the same moment may take a port that was free just now.

    Raises:
        InputError: it did not start, several times in a row.
    """
    for name, value in _FEW_LOOKS_FOR_LOGS.items():
        os.environ.setdefault(name, value)
    for attempt in range(_STARTS):
        try:
            # Without an address Ray would join one that somebody else runs on this machine.
            ray.init(
                address="local",
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                object_store_memory=_OBJECT_STORE_BYTES,
                **common,
            )
        except (ConnectionError, ValueError) as error:
            ray.shutdown()
            if attempt == _STARTS - 1:
                raise InputError(f"Ray does not start on this machine: {error}") from None
        else:
            return


def capacity(ever: Capacity | None) -> Capacity:
    """The machines of the cluster now, and at most: as the file of a cluster that grows says, else those of now."""
    now = [
        Machines(1, float(node["Resources"].get("CPU", 0)), float(node["Resources"].get("GPU", 0)))
        for node in ray.nodes()
        if node["Alive"]
    ]
    return grown(now, ever) if ever else Capacity.fixed(now)


def _release_placement_groups() -> None:
    """Give back what this run still reserves.

    Ray does so itself when a driver ends in good order. It was seen not to when one was interrupted while workers
    waited for cores that were taken: on a cluster that stays up they would be reserved for ever.
    """
    # A placement group's identity ends in that of the job that made it.
    job = ray.get_runtime_context().get_job_id()
    for name, group in placement_group_table().items():
        if name.endswith(job) and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(name)))


def own_machine_is_up() -> bool:
    """Whether Ray is alive on the machine that this process runs on."""
    own = ray.get_runtime_context().get_node_id()
    return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == own)


def has_dashboard() -> bool:
    """Whether the cluster shows itself on a dashboard, so that someone takes its metrics."""
    # Ray's own word for it, `get_dashboard_url`, holds in a driver only; this one in every process.
    return ray.is_initialized() and bool(get_webui_url_from_internal_kv())


def free() -> dict[str, float]:
    """Cores and GPUs that nobody holds at the moment."""
    resources = ray.available_resources()
    return {"cores": resources.get("CPU", 0.0), "GPUs": resources.get("GPU", 0.0)}


def cores() -> int:
    """Cores of the cluster as it is now, at least one."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def gpus() -> float:
    """GPUs of the cluster as it is now."""
    return float(ray.cluster_resources().get("GPU", 0))


def machines() -> list[dict[str, object]]:
    """Name and resources of every live machine, for the provenance of results."""
    return [
        {
            "host": node["NodeManagerHostname"],
            "cores": node["Resources"].get("CPU", 0),
            "gpus": node["Resources"].get("GPU", 0),
            "memory": int(node["Resources"].get("memory", 0)),
        }
        for node in ray.nodes()
        if node["Alive"]
    ]
