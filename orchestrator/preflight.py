"""Whether what a run asks for can ever be placed: arithmetic on machines, before anything is started.

The model: a demand is a number of equal bundles of cores and GPUs that must be placed together, one training or one
actor; an offer is the machines there are now and the machines there can ever be, which is more where an autoscaler is
at work. The failure this guards against: a training that waits for ever for a GPU or a machine that will never come.
Nothing here knows Ray.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from workloads.errors import InputError

# Ray counts resources in ten-thousandths.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Machines:
    """Some equal machines: how many, and the cores and GPUs of each."""

    count: int
    cores: float
    gpus: float = 0.0

    def bundles(self, cores: float, gpus: float) -> int:
        """How many bundles fit one of them."""
        by_cores = (self.cores + _ROUNDING) / cores if cores else math.inf
        by_gpus = (self.gpus + _ROUNDING) / gpus if gpus else math.inf
        return int(min(by_cores, by_gpus, 1_000_000))

    def __str__(self) -> str:
        gpus = f" and {_count(self.gpus, 'GPU')}" if self.gpus else ""
        return f"{_count(self.count, 'machine')} with {_count(self.cores, 'core')}{gpus}"


@dataclass(frozen=True)
class Demand:
    """Bundles that are placed together: what for, how many, and what each of them takes."""

    purpose: str
    bundles: int
    cores: float
    gpus: float

    def __str__(self) -> str:
        return (
            f"{self.purpose} takes {_count(self.bundles, 'worker')} of {_count(self.cores, 'core')} and "
            f"{_count(self.gpus, 'GPU')} each, started together"
        )


@dataclass(frozen=True)
class Offer:
    """The machines of a cluster: now, and at most.

    `limit` bounds how many machines there can be at once, over all kinds. `unstated` names kinds of machines whose
    cores and GPUs are not known before one of them is up.
    """

    now: tuple[Machines, ...]
    most: tuple[Machines, ...]
    limit: int | None = None
    unstated: tuple[str, ...] = ()
    scales: bool = False

    @staticmethod
    def fixed(now: Sequence[Machines]) -> "Offer":
        """A cluster that stays as it is."""
        return Offer(tuple(now), tuple(now))

    def at_once(self, demand: Demand) -> int:
        """How many such demands fit the machines that are up, placed beside nothing else."""
        return _placed(demand, self.now, None)

    def ever_at_once(self, demand: Demand) -> int:
        """How many such demands fit when all machines are up."""
        return _placed(demand, self.most, self.limit)

    @property
    def ever_gpus(self) -> float:
        """GPUs of all machines together, when they are up."""
        return sum(machines.count * machines.gpus for machines in self.most)

    def largest(self, *, gpus: bool) -> Machines:
        """The machine that a training is laid out for: with most GPUs where it uses them, else with most cores."""
        known = self.most or (Machines(1, 1),)
        return max(known, key=lambda one: (one.gpus, one.cores) if gpus else (one.cores, one.gpus))

    def describe(self, machines: Sequence[Machines]) -> str:
        """The machines in words."""
        text = ", ".join(str(one) for one in machines) or "no machine"
        return (
            f"{text} (at most {_count(self.limit, 'machine')} together)"
            if machines is self.most and self.limit
            else text
        )


@dataclass(frozen=True)
class Verdict:
    """What can never be placed, and what can only be placed once more machines are up."""

    refused: tuple[str, ...]
    waits: tuple[str, ...]


def judge(demands: Sequence[Demand], offer: Offer) -> Verdict:
    """Compare each demand with what the cluster has and can ever have."""
    refused, waits = [], []
    for demand in demands:
        if offer.at_once(demand):
            continue
        if offer.ever_at_once(demand) or offer.unstated:
            waits.append(f"{demand}; there is {offer.describe(offer.now)} now: waiting for the cluster to grow")
        else:
            refused.append(f"{demand}; the cluster can never have more than {offer.describe(offer.most)}")
    return Verdict(tuple(refused), tuple(waits))


def autoscaled(now: Sequence[Machines], path: str) -> Offer:
    """The offer of a cluster that grows as a cluster configuration (the YAML file of ``ray up``) says.

    Raises:
        InputError: there is no such file, or it is no cluster configuration.
    """
    try:
        document = yaml.safe_load(Path(path).expanduser().read_text())
        kinds = document["available_node_types"]
        head = document.get("head_node_type")
        limit = int(document.get("max_workers", 2)) + 1
        most, unstated = [], []
        for name, kind in kinds.items():
            # The head is one machine whatever its kind says; workers of that kind come on top.
            count = int(kind.get("max_workers", limit - 1 if name != head else 0)) + (name == head)
            resources = kind.get("resources") or {}
            if count and "CPU" not in resources:
                unstated.append(name)
            elif count:
                most.append(Machines(count, float(resources["CPU"]), float(resources.get("GPU", 0))))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"compute.cluster_config: {path!r} cannot be read: {_one_line(error)}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"compute.cluster_config: {path!r} is no cluster configuration ({type(error).__name__}: {error}); "
            "allowed: the YAML file of `ray up`, with available_node_types"
        ) from None
    return Offer(tuple(now), (*most, *_unlisted(now, most)), limit, tuple(unstated), scales=True)


def _unlisted(now: Sequence[Machines], most: Sequence[Machines]) -> list[Machines]:
    """Machines that are up though the configuration does not name their like: they are there all the same."""
    listed = {(one.cores, one.gpus) for one in most}
    return [one for one in now if (one.cores, one.gpus) not in listed]


def _placed(demand: Demand, machines: Sequence[Machines], limit: int | None) -> int:
    left = limit if limit is not None else sum(one.count for one in machines)
    bundles = 0
    for one in sorted(machines, key=lambda one: -one.bundles(demand.cores, demand.gpus)):
        used = min(one.count, left)
        bundles += used * one.bundles(demand.cores, demand.gpus)
        left -= used
    return bundles // demand.bundles


def _count(number: float, name: str) -> str:
    return f"{number:g} {name}{'' if number == 1 else 's'}"


def _one_line(error: Any) -> str:
    return " ".join(str(error).split())
