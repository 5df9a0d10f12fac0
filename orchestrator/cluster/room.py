"""Who uses which cores, GPUs and memory of which machine: what a run may hand out where.

The model: a book of machines, those that are up and those that a cluster can still grow to. All that a run hands out is
entered, and struck out when it has ended; Ray is asked for the same. Extraction and tasks are brief: a machine that a
training waits for gets no more of them, and is free within the length of a shard. A training takes the cores that suit
the machine it comes to. Memory decides how much goes on side by side, never whether: the first of a kind `insists`, or
an extraction actor and the superpixels that its next job needs would wait for one another. Ray is not asked for memory:
what one run holds of it while it waits, another would wait for. The failures this guards against: trainings of a
cluster of unequal machines that are laid out for the largest; a training that waits for cores that tasks take again and
again; more work side by side than a machine has memory for. Nothing here knows Ray.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.planning.capacity import Capacity
from workloads.formats import size

_ROUNDING = 1e-6


@dataclass(eq=False)
class Machine:
    """A machine; `node` is None as long as it is to come. `brief` is what extraction and tasks hold of what is held.

    Memory is in bytes. One that is `closed` is held whole: nothing else comes to it.
    """

    node: str | None
    cores: float
    gpus: float
    memory: float = math.inf
    held_cores: float = 0.0
    held_gpus: float = 0.0
    held_memory: float = 0.0
    brief_cores: float = 0.0
    brief_gpus: float = 0.0
    brief_memory: float = 0.0
    closed: bool = False

    @property
    def free_cores(self) -> float:
        """Cores that nothing of the run holds; below zero where tasks wait for them."""
        return self.cores - self.held_cores

    @property
    def free_gpus(self) -> float:
        """GPUs, or shares of one, that nothing of the run holds."""
        return self.gpus - self.held_gpus

    @property
    def free_memory(self) -> float:
        """Memory that nothing of the run holds; below zero where some insisted."""
        return self.memory - self.held_memory

    @property
    def is_used(self) -> bool:
        """Whether the run holds anything of it."""
        return max(self.held_cores, self.held_gpus, self.held_memory) > _ROUNDING

    def has_memory(self, each: float, free: float) -> bool:
        """Whether so much is free; of a machine that has less than that altogether, all of it."""
        return free + _ROUNDING >= min(each, self.memory)


@dataclass(frozen=True, eq=False)
class Claim:
    """Cores and GPUs of machines that work holds, the cores of each of its workers, and the memory of each part.

    The machines of one that is `whole` are closed to all others.
    """

    parts: tuple[tuple[Machine, float, float], ...]
    brief: bool
    cores: int = 0
    memory: float = 0.0
    whole: bool = False

    @property
    def machine(self) -> Machine:
        """The machine of work that has only one."""
        return self.parts[0][0]

    @property
    def nodes(self) -> tuple[str | None, ...]:
        """The machine of each part."""
        return tuple(machine.node for machine, _, _ in self.parts)


@dataclass(frozen=True)
class Workers:
    """The workers of a training: how many, whether each takes a GPU, and its cores where they were asked for.

    Each takes so much memory; where the training `insists`, it has its place even if that is not free. One that is to
    be `alone` has its machines to itself.
    """

    count: int
    uses_gpus: bool
    cores: int | None
    memory: float = 0.0
    insists: bool = False
    alone: bool = False

    def cores_on(self, machine: Machine) -> int:
        """The cores that suit a machine: its share beside each GPU, or that of each worker."""
        if self.cores is not None:
            return self.cores
        shares = max(1, int(machine.gpus)) if self.uses_gpus else self.count
        return max(1, int(machine.cores) // shares)


@dataclass
class Room:
    """The machines of a run. `capacity` says what a cluster that grows can grow to."""

    capacity: Capacity
    machines: list[Machine] = field(default_factory=list)
    reserved: set[Machine] = field(default_factory=set)

    def update(self, nodes: Mapping[str, Sequence[float]]) -> None:
        """Take notice of the machines that are up: cores, GPUs and, where it is known, memory by node."""
        self.machines = [one for one in self.machines if one.node is None or one.node in nodes]
        known = {one.node for one in self.machines}
        for node, (cores, gpus, *memory) in nodes.items():
            if node in known or not (cores or gpus):
                continue
            # What was handed out for a machine that was to come is on it now, one that is used first.
            expected = [one for one in self.machines if (one.node, one.cores, one.gpus) == (None, cores, gpus)]
            found = max(expected, key=lambda one: one.is_used) if expected else Machine(None, cores, gpus)
            if not expected:
                self.machines.append(found)
            found.node = node
            found.memory = memory[0] if memory else math.inf
        if self.capacity.scales:
            self._expect_more()
        self.reserved &= set(self.machines)

    def _expect_more(self) -> None:
        for kind in self.capacity.most:
            known = [one for one in self.machines if (one.cores, one.gpus) == (kind.cores, kind.gpus)]
            # One that is to come has what those of its kind have.
            memory = min((one.memory for one in known), default=math.inf)
            self.machines += [Machine(None, kind.cores, kind.gpus, memory) for _ in range(kind.count - len(known))]

    @property
    def cores(self) -> float:
        """Cores that work may be handed out for: those that are up, or that a cluster can grow to when it is asked."""
        up = sum(one.cores for one in self.machines if one.node is not None)
        return max(1.0, up, self.capacity.most_cores if self.capacity.scales else 0.0)

    @property
    def has_one_machine(self) -> bool:
        """Whether there is no choice of where to work."""
        return len(self.machines) == 1

    @property
    def has_plain_machines(self) -> bool:
        """Whether there are machines without a GPU, now or later."""
        return any(not one.gpus and one.cores for one in self.machines)

    def claim(
        self,
        cores: float,
        gpus: float,
        *,
        memory: float = 0.0,
        insists: bool = False,
        off_gpus: bool = False,
        queue: float = 0.0,
    ) -> Claim | None:
        """A place for brief work, on the machine with most room; None where there is none.

        It takes so much memory, and where it `insists`, even if that is not free. With `off_gpus` it keeps off machines
        with a GPU where there are others. `queue` is how many cores' worth of it may wait at each core.
        """
        off_gpus = off_gpus and self.has_plain_machines
        found = [
            one
            for one in self._usable()
            if one.free_cores + queue * one.cores + _ROUNDING >= cores
            and one.free_gpus + _ROUNDING >= gpus
            and (insists or one.has_memory(memory, one.free_memory))
            and one not in self.reserved
            and not (off_gpus and one.gpus)
        ]
        if not found:
            return None
        best = max(
            found,
            key=lambda one: (
                one.has_memory(memory, one.free_memory),
                one.node is not None,
                one.free_cores,
                one.free_memory,
            ),
        )
        return self._hold([(best, cores, gpus)], brief=True, memory=memory)

    def squeeze(self) -> Claim | None:
        """A place for a task where trainings have taken all cores: beside them, one a machine, holding none."""
        off_gpus = self.has_plain_machines
        for one in self._usable():
            brief = one.brief_cores > _ROUNDING
            if one.node is not None and not brief and one not in self.reserved and not (off_gpus and one.gpus):
                return self._hold([(one, 2 * _ROUNDING, 0.0)], brief=True)
        return None

    def claim_whole(self, gpus: float) -> Claim | None:
        """A whole machine for work that needs its memory; where none is free, one is reserved."""
        able = [one for one in self._usable() if one.gpus + _ROUNDING >= gpus]
        for one in able:
            if not one.is_used:
                return self._hold([(one, one.cores, gpus)], brief=True, whole=True)
        # The one that trainings hold least of.
        brief = min(able, key=lambda one: one.held_cores - one.brief_cores, default=None)
        self.reserved |= {brief} if brief is not None else set()
        return None

    def hold(self, machine: Machine, gpus: float, memory: float = 0.0, *, brief: bool = False) -> Claim:
        """Enter work that takes no core, such as clustering."""
        return self._hold([(machine, 0.0, gpus)], brief=brief, memory=memory)

    def with_memory(self) -> Machine | None:
        """The machine that is up with most free memory."""
        up = [one for one in self._usable() if one.node is not None]
        return max(up, key=lambda one: (one.free_memory, one.free_cores), default=None)

    def with_gpus(self, gpus: float, *, after_brief: bool = False) -> Machine | None:
        """A machine with so many free GPUs, or with so many once what is brief on it has ended."""
        found = [
            one
            for one in self._usable()
            if one.free_gpus + (one.brief_gpus if after_brief else 0.0) + _ROUNDING >= gpus
            and (after_brief or one not in self.reserved)
        ]
        return max(found, key=lambda one: (one.node is not None, one.free_gpus), default=None)

    def place(self, workers: Workers) -> Claim | None:
        """A place for a training, whose machines may be reserved for it; None where there is none."""
        plan = self._plan(workers, after_brief=False)
        if plan is None:
            return None
        cores, places = plan
        parts = [(one, float(cores), float(workers.uses_gpus)) for one in places]
        return self._hold(parts, brief=False, cores=cores, memory=workers.memory, whole=workers.alone)

    def reserve_for(self, workers: Workers) -> None:
        """Reserve the machines that a training finds room on once what is brief there has ended."""
        plan = self._plan(workers, after_brief=True)
        self.reserved |= set(plan[1]) if plan is not None else set()

    def release(self, claim: Claim) -> None:
        """Strike out what has ended."""
        for machine, cores, gpus in claim.parts:
            self._enter(machine, -cores, -gpus, -claim.memory, brief=claim.brief)
            machine.closed = machine.closed and not claim.whole

    def free(self) -> str:
        """What is free on each machine, in words."""
        up = [one for one in self.machines if one.node is not None]
        free = [
            f"{max(0.0, one.free_cores):.3g} cores and {one.free_gpus:.3g} GPUs"
            + (f" and {size(max(0.0, one.free_memory))} of memory" if math.isfinite(one.memory) else "")
            for one in up
        ]
        more = f", and {len(free) - 8} more machines" if len(free) > 8 else ""
        return f"free are {', '.join(free[:8])}{more}" if free else "no machine is up"

    def _plan(self, workers: Workers, *, after_brief: bool) -> tuple[int, list[Machine]] | None:
        """The cores of each worker, and its machine: all on one machine where they fit, else over several.

        One that insists has its place where there is memory for it, if there is such a place.
        """
        if workers.insists:
            patient = self._plan(replace(workers, insists=False), after_brief=after_brief)
            if patient is not None:
                return patient
        suits: dict[int, list[Machine]] = {}
        for one in self._usable():
            cores = workers.cores_on(one)
            if self._fit(one, cores, workers, after_brief):
                suits.setdefault(cores, []).append(one)
        # A machine that many GPUs are free on is kept for who needs them together.
        order = [(cores, sorted(suits[cores], key=lambda one: (one.node is None, one.free_gpus))) for cores in suits]
        order.sort(key=lambda each: -each[0])
        for cores, machines in order:
            for one in machines:
                if self._fit(one, cores, workers, after_brief) >= workers.count:
                    return cores, [one] * workers.count
        for cores, _ in order if workers.count > 1 else ():
            places = [
                one
                for larger, machines in order
                if larger >= cores
                for one in machines
                for _ in range(self._fit(one, cores, workers, after_brief))
            ]
            if len(places) >= workers.count:
                return cores, places[: workers.count]
        return None

    def _fit(self, one: Machine, cores: int, workers: Workers, after_brief: bool) -> int:
        free_cores = one.free_cores + (one.brief_cores if after_brief else 0.0)
        free_gpus = one.free_gpus + (one.brief_gpus if after_brief else 0.0)
        free_memory = one.free_memory + (one.brief_memory if after_brief else 0.0)
        held_memory = one.held_memory - (one.brief_memory if after_brief else 0.0)
        if workers.alone and max(one.cores - free_cores, one.gpus - free_gpus, held_memory) > 10 * _ROUNDING:
            return 0
        by_gpus = free_gpus + _ROUNDING if workers.uses_gpus else math.inf
        by_memory = math.inf
        needed = min(workers.memory, one.memory)
        if needed > 0 and not workers.insists:
            by_memory = (free_memory + _ROUNDING) / needed
        # What is squeezed in beside trainings holds next to nothing.
        return max(0, int(min((free_cores + 10 * _ROUNDING) / cores, by_gpus, by_memory, 1_000_000)))

    def _usable(self) -> Iterable[Machine]:
        """The machines that are up, and those that can be while no more than the limit are."""
        limit = self.capacity.limit if self.capacity.scales else None
        up = sum(one.node is not None or one.is_used for one in self.machines)
        return [
            one
            for one in self.machines
            if not one.closed and (one.node is not None or one.is_used or limit is None or up < limit)
        ]

    def _hold(
        self,
        parts: list[tuple[Machine, float, float]],
        *,
        brief: bool,
        cores: int = 0,
        memory: float = 0.0,
        whole: bool = False,
    ) -> Claim:
        for machine, each_cores, each_gpus in parts:
            self._enter(machine, each_cores, each_gpus, memory, brief=brief)
            machine.closed |= whole
        return Claim(tuple(parts), brief, cores, memory, whole)

    def _enter(self, machine: Machine, cores: float, gpus: float, memory: float, *, brief: bool) -> None:
        machine.held_cores += cores
        machine.held_gpus += gpus
        machine.held_memory += memory
        if brief:
            machine.brief_cores += cores
            machine.brief_gpus += gpus
            machine.brief_memory += memory
