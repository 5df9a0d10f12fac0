"""Whether what a run asks for can ever be placed: arithmetic on machines, before anything is started.

The model: a request is a number of equal bundles of cores and GPUs that must be placed together, one training or one
actor; a capacity is the machines there are now and the machines there can ever be, which is more where an autoscaler
is at work. The failure this guards against: a training that waits for ever for a GPU or a machine that will never come.
Nothing here knows Ray.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from workloads.formats import counted

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
        gpus = f" and {counted(self.gpus, 'GPU')}" if self.gpus else ""
        return f"{counted(self.count, 'machine')} with {counted(self.cores, 'core')}{gpus}"


@dataclass(frozen=True)
class ResourceRequest:
    """Bundles that are placed together: what for, how many, and what each of them takes."""

    purpose: str
    bundles: int
    cores: float
    gpus: float

    def __str__(self) -> str:
        return (
            f"{self.purpose} takes {counted(self.bundles, 'worker')} of {counted(self.cores, 'core')} and "
            f"{counted(self.gpus, 'GPU')} each, started together"
        )


@dataclass(frozen=True)
class Capacity:
    """The machines of a cluster: now, and at most.

    `limit` bounds how many machines there can be at once, over all kinds.
    """

    now: tuple[Machines, ...]
    most: tuple[Machines, ...]
    limit: int | None = None
    scales: bool = False

    @staticmethod
    def fixed(now: Sequence[Machines]) -> "Capacity":
        """A cluster that stays as it is."""
        return Capacity(tuple(now), tuple(now))

    def at_once(self, request: ResourceRequest) -> int:
        """How many such requests fit the machines that are up, placed beside nothing else."""
        return _placed(request, self.now, None)

    def most_at_once(self, request: ResourceRequest) -> int:
        """How many such requests fit when all machines are up."""
        return _placed(request, self.most, self.limit)

    @property
    def most_cores(self) -> float:
        """The most cores that can be up at once."""
        return self._most([(machines.cores, machines.count) for machines in self.most])

    @property
    def most_gpus(self) -> float:
        """The most GPUs that can be up at once; not always together with the most cores."""
        return self._most([(machines.gpus, machines.count) for machines in self.most])

    def _most(self, kinds: list[tuple[float, int]]) -> float:
        left = self.limit if self.limit is not None else sum(count for _, count in kinds)
        total = 0.0
        for each, count in sorted(kinds, reverse=True):
            taken = min(count, left)
            total += each * taken
            left -= taken
        return total

    def largest(self, *, gpus: bool) -> Machines:
        """The machine that a training is laid out for: with most GPUs where it uses them, else with most cores."""
        known = self.most or (Machines(1, 1),)
        return max(known, key=lambda one: (one.gpus, one.cores) if gpus else (one.cores, one.gpus))

    def describe(self, machines: Sequence[Machines]) -> str:
        """The machines in words."""
        text = ", ".join(str(one) for one in machines) or "no machine"
        return (
            f"{text} (at most {counted(self.limit, 'machine')} together)"
            if machines is self.most and self.limit
            else text
        )


@dataclass(frozen=True)
class Verdict:
    """What can never be placed, and what can only be placed once more machines are up."""

    refused: tuple[str, ...]
    waits: tuple[str, ...]


def judge(requests: Sequence[ResourceRequest], capacity: Capacity) -> Verdict:
    """Compare each request with what the cluster has and can ever have."""
    refused, waits = [], []
    for request in requests:
        if capacity.at_once(request):
            continue
        if capacity.most_at_once(request):
            waits.append(f"{request}; there is {capacity.describe(capacity.now)} now: waiting for the cluster to grow")
        else:
            refused.append(f"{request}; the cluster can never have more than {capacity.describe(capacity.most)}")
    return Verdict(tuple(refused), tuple(waits))


def grown(now: Sequence[Machines], ever: Capacity) -> Capacity:
    """The capacity of a cluster that grows, and what is up now even where it names no such machine."""
    listed = {(one.cores, one.gpus) for one in ever.most}
    unlisted = [one for one in now if (one.cores, one.gpus) not in listed]
    return replace(ever, now=tuple(now), most=(*ever.most, *unlisted))


def _placed(request: ResourceRequest, machines: Sequence[Machines], limit: int | None) -> int:
    left = limit if limit is not None else sum(one.count for one in machines)
    bundles = 0
    for one in sorted(machines, key=lambda one: -one.bundles(request.cores, request.gpus)):
        used = min(one.count, left)
        bundles += used * one.bundles(request.cores, request.gpus)
        left -= used
    return bundles // request.bundles
