"""What a cluster can ever offer, read from the file that brings it up.

The model: a cluster file names kinds of machines, how many of each there may be, and how many workers in all. The sum
is what work may be planned for. The failures this guards against: pools sized by what is up now, so that a cluster that
scales from zero never starts; and a request that no machine of the cluster will ever meet.
"""

from pathlib import Path
from typing import Any

from orchestrator.planning.capacity import Capacity, Machines
from orchestrator.spec.strict_yaml import YamlError, load_yaml
from workloads.errors import InputError
from workloads.places import expanded


def cluster_capacity(path: str | Path) -> Capacity:
    """What the cluster of this file (of `ray up`, or KubeRay's RayJob or RayCluster) can ever offer.

    Raises:
        InputError: no such file, not a cluster file, or one that does not say what its machines offer (machines of
            one's own, which Ray looks at when they are up).
    """
    document = _load(path)
    try:
        if document.get("kind") in ("RayJob", "RayCluster"):
            kinds, limit = _of_kuberay(document)
        else:
            kinds, limit = _of_launcher(document, path)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"key {error} is missing" if isinstance(error, KeyError) else f"{error}"
        raise InputError(f"{path}: not a cluster that Ray could start ({what})", key="compute.cluster_config") from None
    # The head comes first; there is one, and it does not count among the workers.
    head, *workers = kinds
    works = bool(head.cores or head.gpus)
    present = [kind for kind in workers + ([head] if works else []) if kind.count]
    return Capacity(now=(), most=tuple(present), limit=limit + works, scales=True)


def node_labels(path: str | Path) -> dict[str, dict[str, str]]:
    """The labels of every kind of machine in the file of a cluster, the head among them, by name.

    Raises:
        InputError: no such file, or not a cluster file.
    """
    document = _load(path)
    try:
        if document.get("kind") in ("RayJob", "RayCluster"):
            cluster = document["spec"].get("rayClusterSpec", document["spec"])
            groups = {group["groupName"]: group for group in cluster.get("workerGroupSpecs", [])}
            kinds = {"head": cluster["headGroupSpec"]} | groups
        else:
            kinds = document["available_node_types"]
        return {str(name): dict(kind.get("labels") or {}) for name, kind in kinds.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"key {error} is missing" if isinstance(error, KeyError) else f"{error}"
        raise InputError(f"{path}: not a cluster that Ray could start ({what})", key="compute.cluster_config") from None


def _load(path: str | Path) -> dict[str, Any]:
    try:
        document = load_yaml(expanded(path, "compute.cluster_config").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}", key="compute.cluster_config") from None
    except YamlError as error:
        raise InputError(f"{path} is not YAML: {error}", key="compute.cluster_config") from None
    if not isinstance(document, dict):
        raise InputError(
            f"{path} must hold a mapping of keys, got {type(document).__name__}", key="compute.cluster_config"
        )
    return document


def _of_launcher(document: dict[str, Any], path: str | Path) -> tuple[list[Machines], int]:
    """Head and workers of a file for `ray up`, and the most workers in all."""
    if document["provider"]["type"] == "local":
        raise InputError(
            f"{path} names machines of your own, not what they offer; leave the option out: "
            "they are all up, and a run uses what is up",
            key="compute.cluster_config",
        )
    limit = int(document["max_workers"])
    types = document["available_node_types"]
    head_type = document["head_node_type"]
    kinds = [_of_node_type(types[head_type], 1)]
    for name, node_type in types.items():
        # Ray's rule: a type without a maximum may fill the cluster, only the head's has no workers unless it says so.
        most = int(node_type.get("max_workers", 0 if name == head_type else limit))
        kinds.append(_of_node_type(node_type, most))
    return kinds, limit


def _of_node_type(node_type: dict[str, Any], count: int) -> Machines:
    resources = node_type["resources"]
    return Machines(count, float(resources["CPU"]), float(resources.get("GPU", 0)))


def _of_kuberay(document: dict[str, Any]) -> tuple[list[Machines], int]:
    """Head and workers of a RayJob or RayCluster, and the most workers in all."""
    spec = document["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    kinds = [_of_pod(cluster["headGroupSpec"], 1)]
    kinds += [_of_pod(group, int(group["maxReplicas"])) for group in cluster.get("workerGroupSpecs", [])]
    return kinds, sum(kind.count for kind in kinds[1:])


def _of_pod(group: dict[str, Any], count: int) -> Machines:
    """What Ray takes a pod to offer: what its start is told, else the limits of its first container."""
    told = group.get("rayStartParams", {})
    resources = group["template"]["spec"]["containers"][0]["resources"]
    limits = resources.get("limits", resources.get("requests"))
    cpus = told.get("num-cpus", limits["cpu"])
    gpus = told.get("num-gpus", limits.get("nvidia.com/gpu", 0))
    return Machines(count, _quantity(cpus), _quantity(gpus))


def _quantity(text: str | int | float) -> float:
    """A quantity as Kubernetes writes it: ``4``, ``"0.5"`` or ``500m``."""
    written = str(text)
    return float(written[:-1]) / 1000 if written.endswith("m") else float(written)
