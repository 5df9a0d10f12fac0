"""How much memory a worker of each pool takes: what a rule says, corrected by what workers of the run took.

The failure this guards against: as many extraction workers on a machine as it has cores, and no memory for them.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.planning.image_sizes import ImageSizes
from orchestrator.planning.plan import Plan
from orchestrator.steps.step import Pool, Step
from workloads.formats import size as in_words

# The next worker may take a little more than those before it, and one that was ended more than was thought.
_MARGIN = 1.1
_MORE = 1.5


@dataclass
class MemoryNeeds:
    """Bytes that a worker of a pool holds at most; none of a pool that nothing is known of.

    The rule says it of every step. What workers were seen to take corrects it for their pool, by the largest of its
    quotients; trainings, whose processes report nothing of the kind, go by the rule alone.
    """

    assumed: Mapping[Pool, float] = field(default_factory=dict)
    uses_gpus: bool = False
    sizes: ImageSizes = field(default_factory=ImageSizes)
    _factors: dict[Pool, float] = field(default_factory=dict)
    _rules: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_plan(cls, plan: Plan, *, uses_gpus: bool) -> "MemoryNeeds":
        """Those of what is left to do: the most that any of the steps of a pool takes."""
        needs = cls(uses_gpus=uses_gpus, sizes=ImageSizes.of(plan))
        most: dict[Pool, float] = {}
        for step in plan.pending:
            most[step.pool] = max(needs.rule(step), most.get(step.pool, 0.0))
        return replace(needs, assumed=most)

    def rule(self, step: Step) -> float:
        """What the rule says of a step."""
        if step.key not in self._rules:
            uses_gpu = self.uses_gpus and step.pool is not Pool.PROCESS
            self._rules[step.key] = step.worker_bytes(self.sizes.of_step(step), uses_gpu=uses_gpu)
        return self._rules[step.key]

    def of(self, pool: Pool) -> float:
        """What the next worker is taken to need."""
        return self.assumed.get(pool, 0.0) * self._factors.get(pool, 1.0)

    def saw(self, step: Step, peak: float) -> None:
        """Take notice of the most that a process held which worked on a step."""
        quotient = _MARGIN * peak / self.rule(step)
        self._factors[step.pool] = max(quotient, self._factors.get(step.pool, 0.0))

    def fell_short(self, pool: Pool) -> None:
        """Take notice that a worker was ended for memory: what it needs is not known, but that it is more."""
        self._factors[pool] = _MORE * self._factors.get(pool, 1.0)

    def doubts(self, machines: Iterable[float]) -> list[str]:
        """What the largest of the machines, each of so many bytes, may have too little memory for; in words."""
        largest = max(machines, default=math.inf)
        return [
            f"a worker of {pool} steps may take {in_words(need)} of memory; the largest machine offers "
            f"{in_words(largest)}, so one runs at a time, and may be ended for memory"
            for pool, need in self.assumed.items()
            if largest < need
        ]
