"""The actors of a run: those that extract, and the one that clusters, each with its place in the room.

The model: an actor holds its cores and GPU for as long as it lives. Extraction is filler: on a machine that is reserved
for something else an actor gets no new work, and ends when it has none left, which is within the length of a shard or
two. The failure this guards against: actors that wait for work and hold what the work before them waits for.
"""

import os
from dataclasses import dataclass, field
from typing import Any

import ray

from orchestrator.cluster.room import Claim, Room
from orchestrator.cluster.workers import SHARE, start_clustering, start_extraction
from orchestrator.execution.execution import Task
from orchestrator.execution.schedule import Schedule
from orchestrator.planning.memory import MemoryNeeds
from orchestrator.spec.experiment import Compute
from orchestrator.steps.step import Pool
from workloads.devices import MPS

# One job runs on an actor while the next one waits at its door, so that no actor idles for a round trip.
_QUEUED_PER_ACTOR = 2

# Each holds a decoded picture or two; a GPU is fed by fewer.
_MOST_HELPERS = 16


@dataclass(eq=False)
class Actor:
    """An actor, what it holds (None: nothing), and how many jobs are at it."""

    handle: Any
    claim: Claim | None
    load: int = 0


@dataclass
class Actors:
    """The actors of a run."""

    room: Room
    compute: Compute
    uses_gpus: bool
    memory: MemoryNeeds = field(default_factory=MemoryNeeds)
    extractors: list[Actor] = field(default_factory=list)
    clusterer: Actor | None = None

    def for_extraction(self, ready: int) -> Actor | None:
        """An actor that takes one more job, if need be a new one; None where there is none and no room."""
        usable = [one for one in self.extractors if one.claim is None or one.claim.machine not in self.room.reserved]
        idle = next((one for one in usable if not one.load), None)
        if idle is None and len(self.extractors) < self._most(ready):
            gpus = self.compute.gpus_per_worker if self.uses_gpus else 0.0
            # With room for a task beside each: what an actor labels next waits for superpixels.
            memory = self.memory.of(Pool.EXTRACT) + self.memory.of(Pool.PROCESS)
            claim = self.room.claim(SHARE, gpus, memory=memory, insists=not self.extractors)
            if claim is not None:
                node = None if self.room.has_one_machine else claim.machine.node
                # Beside a GPU its share of the machine's cores decodes and votes; without one every core has an actor.
                helpers = int(claim.machine.cores * gpus / claim.machine.gpus) if gpus else 1
                idle = Actor(start_extraction(gpus, node, min(max(1, helpers), _MOST_HELPERS)), claim)
                self.extractors.append(idle)
        if idle is None:
            idle = min(usable, key=lambda one: one.load, default=None)
        return idle if idle is not None and idle.load < _QUEUED_PER_ACTOR else None

    def for_clustering(self, *, waits: bool) -> Actor | None:
        """The clustering actor if it takes one more job; where it `waits` for a GPU one is reserved for it."""
        if self.clusterer is None:
            gpus = 1.0 if self.uses_gpus else 0.0
            claim = None
            if gpus:
                machine = self.room.with_gpus(gpus)
                if machine is None:
                    soon = self.room.with_gpus(gpus, after_brief=True) if waits else None
                    self.room.reserved |= {soon} if soon is not None else set()
                    return None
                claim = self.room.hold(machine, gpus, self.memory.of(Pool.CLUSTER))
            elif (machine := self.room.with_memory()) is not None:
                claim = self.room.hold(machine, gpus, self.memory.of(Pool.CLUSTER), brief=True)
            node = claim.machine.node if claim is not None and not self.room.has_one_machine else None
            self.clusterer = Actor(start_clustering(gpus, threads=os.cpu_count() or 1, node=node), claim)
        return self.clusterer if self.clusterer.load < _QUEUED_PER_ACTOR else None

    def end_idle(self, schedule: Schedule[Task]) -> None:
        """End the actors of a pool that has nothing left to do, or that holds a GPU which others are ready for."""
        if self.extractors and not schedule.unsettled(Pool.EXTRACT):
            for actor in list(self.extractors):
                self.end(actor)
        if self.clusterer is not None and not self.clusterer.load and not schedule.ready(Pool.CLUSTER):
            others = schedule.ready(Pool.TRAIN) or schedule.ready(Pool.EXTRACT)
            if not schedule.unsettled(Pool.CLUSTER) or (self.uses_gpus and others):
                self.end(self.clusterer)

    def give_way(self) -> None:
        """End the actors that have nothing to do on machines that are reserved."""
        for actor in [*self.extractors, *([self.clusterer] if self.clusterer else [])]:
            if not actor.load and actor.claim is not None and actor.claim.machine in self.room.reserved:
                self.end(actor)

    def end(self, actor: Actor) -> None:
        """End an actor, or take notice that it has ended, and give back what it held."""
        ray.kill(actor.handle)
        if actor is self.clusterer:
            self.clusterer = None
        else:
            self.extractors = [other for other in self.extractors if other is not actor]
        if actor.claim is not None:
            self.room.release(actor.claim)
            actor.claim = None

    def close(self) -> None:
        """End all actors."""
        for actor in [*self.extractors, *([self.clusterer] if self.clusterer else [])]:
            self.end(actor)

    def _most(self, ready: int) -> int:
        """Actors that there is work for, at most one a core (or as many as GPUs take) or what the user asked for."""
        machines = self.room.machines
        if self.uses_gpus:
            limit = int(sum(one.gpus for one in machines) / self.compute.gpus_per_worker)
        else:
            limit = int(sum(one.cores - one.held_cores + one.brief_cores for one in machines))
        if self.compute.device == MPS:
            # Ray counts no GPU of Apple's; there is one, and a network on it for each worker.
            limit = 1
        limit = max(1, limit)
        if self.compute.workers is not None:
            limit = min(limit, self.compute.workers) if self.uses_gpus else self.compute.workers
        return min(limit, len(self.extractors) + ready)
