"""How much memory a worker of each pool takes: as a rule says, until workers of the run have said what they took.

The failure this guards against: as many extraction workers on a machine as it has cores, and no memory for them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.planning.image_sizes import ImageSizes
from orchestrator.planning.plan import Plan
from orchestrator.steps.step import Pool, Step
from workloads.formats import size as in_words

# The next worker may take a little more than those before it.
_MARGIN = 1.1


@dataclass
class MemoryNeeds:
    """Bytes that a worker of a pool holds at most; none of a pool that nothing is known of."""

    assumed: Mapping[Pool, float] = field(default_factory=dict)
    _seen: dict[Pool, float] = field(default_factory=dict)

    @classmethod
    def of_plan(cls, plan: Plan, *, uses_gpus: bool) -> "MemoryNeeds":
        """Those of what is left to do."""
        sizes = ImageSizes.of(plan)
        return cls.of_steps(plan.pending, sizes, uses_gpus=uses_gpus)

    @classmethod
    def of_steps(cls, steps: Iterable[Step], sizes: ImageSizes, *, uses_gpus: bool) -> "MemoryNeeds":
        """The most that any of the steps of a pool takes."""
        most: dict[Pool, float] = {}
        for step in steps:
            each = step.worker_bytes(sizes.of_step(step), uses_gpu=uses_gpus and step.pool is not Pool.PROCESS)
            most[step.pool] = max(each, most.get(step.pool, 0.0))
        return cls(most)

    def of(self, pool: Pool) -> float:
        """What the next worker is taken to need."""
        return self._seen.get(pool, self.assumed.get(pool, 0.0))

    def saw(self, pool: Pool, peak: float) -> None:
        """Take notice of the most that a process held."""
        self._seen[pool] = max(_MARGIN * peak, self._seen.get(pool, 0.0))

    def doubts(self, machines: Iterable[float]) -> list[str]:
        """What the largest of the machines, each of so many bytes, may have too little memory for; in words."""
        largest = max(machines, default=0.0)
        return [
            f"a worker of {pool} steps may take {in_words(need)} of memory; the largest machine offers "
            f"{in_words(largest)}, so one runs at a time, and may be ended for memory"
            for pool, need in self.assumed.items()
            if 0 < largest < need
        ]
