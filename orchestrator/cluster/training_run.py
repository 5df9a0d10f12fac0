"""What all waves of a run share: where they write, what they may use, and how often they try again."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.cluster.metrics import RunMetrics
from orchestrator.cluster.training import Scale
from orchestrator.execution.early_stopping import SuccessiveHalving
from orchestrator.execution.progress import Progress
from orchestrator.execution.trial_info import TrialInfo
from orchestrator.planning.capacity import Capacity
from orchestrator.spec.experiment import Compute
from orchestrator.steps.step import Step
from orchestrator.storage.store import Storage


@dataclass
class TrainingRun:
    """The trainings of one run."""

    storage: Storage
    name: str
    compute: Compute
    scale: Scale
    capacity: Capacity
    progress: Progress
    info: Callable[[Step], TrialInfo]
    retries: Counter[str]
    metrics: RunMetrics
    halving: SuccessiveHalving | None = None
    _lost: Counter[str] = field(default_factory=Counter)

    def may_try_again(self, key: str) -> bool:
        """Whether a trial that its machine or its room was lost to is within its budget."""
        self._lost[key] += 1
        self.retried("lost")
        return self._lost[key] <= self.compute.lost_worker_retries

    def retried(self, cause: str) -> None:
        """Count a training that is started again."""
        self.retries[cause] += 1
        self.metrics.add("retries", cause=cause)
