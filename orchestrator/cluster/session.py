"""The one connection to Ray.

The model: a run connects once, to the cluster it is told of or else to one it starts for itself on this machine, and
leaves what it did not start as it found it. Its pools are sized by what the cluster can ever offer where that is told,
else by what is up. The failures this guards against: a second `ray.init` or a `ray stop` that takes down somebody
else's cluster, a dashboard open to the network, and a cluster scaled to zero that no demand ever wakes.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from orchestrator.cluster_config import Offer
from workloads.errors import InputError

# Tasks pass a few kilobytes through the object store; Ray's default would claim a third of the memory.
_OBJECT_STORE_BYTES = 150_000_000
TOKEN_ADVICE = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that holds it (default ~/.ray/auth_token)"
TOKEN_REFUSED = f"the cluster asks for a token and got none, or another; {TOKEN_ADVICE}"
_NOTHING = Offer(cpus=0, gpus=0, machine_cpus=0, machine_gpus=0)
_offered = _NOTHING


@contextmanager
def session(address: str | None, *, dashboard: bool, offered: Offer | None = None) -> Iterator[None]:
    """Connect to the cluster at `address` (``auto`` for the one on this machine), or start one for this run.

    `offered` is what the cluster can ever offer, where that is more than what is up now.

    Raises:
        InputError: there is no cluster at the address, or it asks for a token that is missing or another.
    """
    global _offered  # noqa: PLW0603  (there is one connection per process, and this is part of it)
    _offered = offered or _NOTHING
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would hide the GPUs from tasks that ask for none; devices are chosen by torch, see `torch_device`.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = address or os.environ.get("RAY_ADDRESS") or None
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "lookbeyond"}
    try:
        if address:
            ray.init(address=address, **common)
        else:
            ray.init(
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                object_store_memory=_OBJECT_STORE_BYTES,
                **common,
            )
    except AuthenticationError:
        raise InputError(f"--address {address}: {TOKEN_REFUSED}") from None
    except (ConnectionError, ValueError) as error:
        # Ray gives up with the same error when the token is missing.
        raise InputError(
            f"--address {address}: no Ray cluster answers there ({error}); if it asks for a token, {TOKEN_ADVICE}"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def cores() -> int:
    """Cores of the cluster, as it can ever be where that is known and else as it is now; at least one."""
    return max(1, int(_offered.cpus), int(ray.cluster_resources().get("CPU", 1)))


def cores_of_a_machine() -> int:
    """Cores of the largest machine of the cluster, as it can ever be or as it is now; at least one."""
    return max(
        [
            1,
            int(_offered.machine_cpus),
            *(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]),
        ]
    )


def gpus() -> float:
    """GPUs of the cluster, as it can ever be or as it is now."""
    return max(_offered.gpus, float(ray.cluster_resources().get("GPU", 0)))


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
