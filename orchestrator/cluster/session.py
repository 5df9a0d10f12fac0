"""The one connection to Ray.

The model: a run connects once, to the cluster it is told of or else to one it starts for itself on this machine, and
leaves what it did not start as it found it. The failures this guards against: a second `ray.init` or a `ray stop` that
takes down somebody else's cluster, and a dashboard open to the network.
"""

import logging
import math
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from orchestrator.cluster import ray_private
from orchestrator.cluster.environment import asked_address, fit_for_ray, require_answer
from orchestrator.cluster.interruption import Interruption
from orchestrator.cluster.malloc import share_arenas
from orchestrator.execution.errors import HeadLostError
from orchestrator.planning.capacity import Capacity, Machines, grown
from workloads.errors import InputError

# Tasks pass a few kilobytes through the object store; Ray's default would claim a third of the memory.
_OBJECT_STORE_BYTES = 150_000_000
_STARTS = 3
_CONNECT_SECONDS = 2.0
TOKEN_ADVICE = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that holds it (default ~/.ray/auth_token)"
TOKEN_REFUSED = f"the cluster asks for a token and got none, or another; {TOKEN_ADVICE}"


@contextmanager
def session(address: str | None, *, dashboard: bool, interruption: Interruption) -> Iterator[bool]:
    """Connect to the cluster at `address` (``auto`` for the one on this machine), or start one for this run.

    Yields whether the cluster shows itself on a dashboard, so that someone takes its metrics.

    Raises:
        InputError: there is no cluster at the address, or it asks for a token that is missing or another.
    """
    if ray.is_initialized():
        # Ray's way of telling where the connection at hand leads.
        yield bool(ray.init(ignore_reinit_error=True, logging_level=logging.ERROR).dashboard_url)
        return
    share_arenas()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would hide the GPUs from tasks that ask for none; devices are chosen by torch, see `torch_device`.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address, asked = asked_address(address)
    if not (dashboard or address):
        _set_unless_set(ray_private.NO_TASK_EVENTS)
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "lookbeyond"}
    common["job_config"] = ray_private.job_without_current_folder()
    with ExitStack() as stack:
        context = _join(address, asked, common) if address else stack.enter_context(_own(dashboard, common))
        # Ray has put a handler of its own on SIGTERM that leaves at once.
        stack.enter_context(interruption.taken())
        stack.callback(_leave)
        # Ray prints its warnings on standard output, which belongs to results.
        with redirect_stdout(sys.stderr):
            yield bool(context.dashboard_url)


def _leave() -> None:
    if not head_answers():
        # Its processes on this machine notice by themselves; to ask Ray to end them would take for ever. A signal to a
        # whole group of processes, as of `timeout`, ends the head of this run beside it.
        if isinstance(sys.exception(), KeyboardInterrupt):
            raise HeadLostError
        return
    # Ray does so itself when a driver ends in good order. It was seen not to when one was interrupted while workers
    # waited for cores that were taken: on a cluster that stays up they would be reserved for ever.
    ray_private.remove_placement_groups_of_this_job()
    ray.shutdown()


def _join(address: str, asked: str, common: dict[str, Any]) -> Any:
    """Connect to a cluster that runs.

    Raises:
        InputError: there is none at the address, or it asks for a token that is missing or another.
    """
    require_answer(address, asked)
    try:
        return ray.init(address=address, **common)
    except AuthenticationError:
        raise InputError(f"{asked}: {TOKEN_REFUSED}") from None
    except (ConnectionError, ValueError, RuntimeError) as error:
        # Ray gives up with the same error when the token is missing.
        raise InputError(
            f"{asked}: no Ray cluster answers there ({error}); if it asks for a token, {TOKEN_ADVICE}"
        ) from None


def _set_unless_set(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)


@contextmanager
def _own(dashboard: bool, common: dict[str, Any]) -> Iterator[Any]:
    """A Ray on this machine for this run alone.

    Raises:
        InputError: it does not start here; what is in its way.
    """
    _set_unless_set(ray_private.FEW_LOOKS_FOR_LOGS)
    with fit_for_ray(_OBJECT_STORE_BYTES) as folder:
        common |= ray_private.session_folder(folder)
        context = _start_own(dashboard, common)
        if not ray.cluster_resources().get("CPU"):
            # A share of a core rounds down to none; one process at a time can use it all the same.
            ray.shutdown()
            context = _start_own(dashboard, common | {"num_cpus": 1})
        yield context


def _start_own(dashboard: bool, common: dict[str, Any]) -> Any:
    """Start Ray, if need be again: another one may have taken a port that was free, or the machine be too busy."""
    for attempt in range(1, _STARTS + 1):
        try:
            # Without an address Ray would join one that somebody else runs on this machine.
            return ray.init(
                address="local",
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                object_store_memory=_OBJECT_STORE_BYTES,
                **common,
            )
        except Exception as error:  # of many kinds, a plain one among them for a start that took too long
            ray.shutdown()
            if attempt == _STARTS:
                raise InputError(
                    f"Ray does not start on this machine: {error}; is it very busy, or is there a limit (`ulimit -a`)?"
                ) from None
    raise AssertionError("the last start returns or raises")


def capacity(ever: Capacity | None) -> Capacity:
    """The machines of the cluster now, and at most: as the file of a cluster that grows says, else those of now."""
    now = [
        Machines(1, float(node["Resources"].get("CPU", 0)), float(node["Resources"].get("GPU", 0)))
        for node in ray.nodes()
        if node["Alive"]
    ]
    return grown(now, ever) if ever else Capacity.fixed(now)


def head_answers() -> bool:
    """Whether the head of the cluster takes connections.

    Asked of the head itself: what Ray is asked while it is gone comes back never, and after a minute Ray ends the
    process that asks without a word that would help.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def own_machine_is_up() -> bool:
    """Whether Ray is alive on the machine that this process runs on."""
    own = ray.get_runtime_context().get_node_id()
    return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == own)


def nodes() -> dict[str, tuple[float, float, float]]:
    """Cores, GPUs and bytes of memory of every live machine, by Ray's name of it."""
    return {
        node["NodeID"]: (
            float(node["Resources"].get("CPU", 0)),
            float(node["Resources"].get("GPU", 0)),
            float(node["Resources"].get("memory", math.inf)),
        )
        for node in ray.nodes()
        if node["Alive"]
    }


def free() -> dict[str, float]:
    """Cores and GPUs that nobody holds at the moment."""
    resources = ray.available_resources()
    return {"cores": resources.get("CPU", 0.0), "GPUs": resources.get("GPU", 0.0)}


def free_in_words() -> str:
    """What nobody holds at the moment."""
    left = free()
    # Down to tenths: what is left beside the slivers of drivers is no room.
    cores, gpus = (math.floor(10 * left[kind]) / 10 for kind in ("cores", "GPUs"))
    return f"free are {cores:g} cores and {gpus:g} GPUs over all machines"


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
