"""How large the images of a plan are, and what decoding them takes: one of each pool is read.

An imagined data set (`imagined`) has the size that it was given.
"""

import time
from dataclasses import dataclass, field

from orchestrator.ledger.keys import canonical_json
from orchestrator.planning.plan import Plan
from orchestrator.steps.jobs import Source
from orchestrator.steps.step import Step
from workloads.costs.work import Size, megapixels
from workloads.datasets import open_dataset
from workloads.errors import BrokenImageError, InputError

# Where no image can be read: as what the assumed bytes are of.
USUAL_SIZE = (360, 480)
_TRIED = 3


@dataclass
class ImageSizes:
    """Sizes by data set and pool; `imagined` stands for all of them."""

    imagined: Size | None = None
    _read: dict[Source, tuple[Size, float | None]] = field(default_factory=dict)
    _datasets: dict[str, tuple[Size, float | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan) -> "ImageSizes":
        """Those of a plan's data sets."""
        sizes = cls(plan.imagined.size if plan.imagined is not None else None)
        for step in plan.steps.values():
            if step.read_from is not None and "dataset" in step.meaning:
                found = sizes.of_step(step), sizes.decoding(step)
                sizes._datasets.setdefault(canonical_json(step.meaning["dataset"]), found)
        return sizes

    def of_step(self, step: Step) -> Size:
        """Height and width of the images that a step reads."""
        if self.imagined is not None:
            return self.imagined
        return self._of(step.read_from)[0] if step.read_from is not None else USUAL_SIZE

    def decoding(self, step: Step) -> float | None:
        """Seconds that a million pixels took to read; None where none was."""
        return None if self.imagined is not None or step.read_from is None else self._of(step.read_from)[1]

    def of_dataset(self, identity: object) -> tuple[Size, float | None] | None:
        """The same of a data set that some step of the plan reads."""
        return self._datasets.get(canonical_json(identity)) if identity is not None else None

    def _of(self, source: Source) -> tuple[Size, float | None]:
        if source not in self._read:
            self._read[source] = _look(source)
        return self._read[source]


def _look(source: Source) -> tuple[Size, float | None]:
    """The size of a pool's first images that can be read, and the least core-seconds that reading one took."""
    try:
        # Not the process's own, which notes what it has read.
        dataset = open_dataset(source.config, source.root)
        names = [entry.id for entry in dataset.entries(source.pool)[:_TRIED]]
    except (InputError, OSError):
        return USUAL_SIZE, None
    size, best = None, None
    for name in names:
        begun = time.thread_time()
        try:
            height, width = dataset.read_image(source.pool, name).shape[:2]
        except (BrokenImageError, InputError, OSError):
            continue
        seconds = (time.thread_time() - begun) / megapixels((height, width))
        size, best = size or (height, width), seconds if best is None else min(best, seconds)
    return size or USUAL_SIZE, best
