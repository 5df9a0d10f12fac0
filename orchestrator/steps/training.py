"""What pre-training and fine-tuning share as steps and as jobs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from orchestrator.ledger.image_sets import ShardRange
from orchestrator.ledger.leases import Fence
from orchestrator.ledger.outcomes import Outcome
from orchestrator.steps.jobs import Source, WorkerCache
from orchestrator.steps.step import CellSteps, Pool, Step
from orchestrator.storage.store import Storage
from workloads.configs.networks import Initialisation, imagenet_weights
from workloads.configs.training import OptimiserConfig
from workloads.errors import InputError
from workloads.formats import counted
from workloads.networks.weight_identity import travelling_name

if TYPE_CHECKING:
    from workloads.training.batches import Source as Images
    from workloads.training.collectives import Workers
    from workloads.training.decoded import DecodedCache
    from workloads.training.loop import Loop, Machine, Wrap

# How often a training is evaluated on a subset while it runs: enough to see it improve.
SUBSET_EVALUATIONS = 5


@dataclass(frozen=True)
class DistributedContext:
    """One worker's place in a training run: its machine, its peers, how its module is wrapped, decoded images."""

    machine: "Machine"
    workers: "Workers"
    wrap: "Wrap | None"
    cache: "DecodedCache | None" = None

    def cached(self, images: "Images") -> "Images":
        """The images, each decoded once where there is a cache for them."""
        return images if self.cache is None else self.cache.of(images)


@dataclass(frozen=True)
class TrainingJob(ABC):
    """A training as it travels to the workers of its run; `orchestrator.steps.training_runs` runs it.

    Each worker builds the same network, and reads images and label shards itself; rank 0 alone writes.
    """

    storage: Storage
    key: str
    source: Source
    # None where nobody else can be at work on the step.
    fence: Fence | None = field(default=None, kw_only=True)
    # What it is computed from as it came out; a state or outcome of something else is none.
    origin: str = field(default="", kw_only=True)

    def require_lease(self) -> None:
        """Refuse to write for a step that another run has taken over.

        Raises
        ------
        LeaseLostError
            It has.
        """
        if self.fence is not None:
            self.fence.require()

    @property
    @abstractmethod
    def name(self) -> str:
        """What is trained."""

    @property
    def title(self) -> str:
        """The job's name on Ray's dashboard."""
        return f"{self.name} {self.key[:8]}"

    @abstractmethod
    def build(self, context: DistributedContext) -> "Loop":
        """The training loop of one worker, at step 0."""

    @property
    def scores_at(self) -> Sequence[float]:
        """Shares of the steps after which `score_at` is asked."""
        return ()

    def score_at(self, loop: "Loop", share: float) -> dict[str, float]:
        """What is scored on the way, after a share of the steps."""
        del loop, share
        return {}

    def evaluate_subset(self, loop: "Loop") -> dict[str, float]:
        """What an evaluation on the way shows."""
        del loop
        return {}

    @abstractmethod
    def finish(self, loop: "Loop", last_loss: float | None) -> Outcome:
        """Write what was trained, and score it."""

    @abstractmethod
    def run(self, cache: WorkerCache) -> Outcome:
        """Train in this process, as the only worker."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingStep(Step):
    """A training from first weights of the given identity; `first_weights` is where they are."""

    pool: ClassVar[Pool] = Pool.TRAIN
    shown_results: ClassVar[tuple[str, ...] | None] = None

    dataset: Mapping[str, Any]
    source: Source
    weights_identity: str
    first_weights: str | None

    @property
    @abstractmethod
    def total_steps(self) -> int:
        """Steps of the optimiser."""

    @property
    @abstractmethod
    def optimiser(self) -> OptimiserConfig:
        """The optimiser."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """A warm-up that leaves little of the training: what works on thousands of images is long for sixty."""
        warmup, steps = self.optimiser.warmup_steps, self.total_steps
        if 2 * warmup < steps:
            return ()
        return (
            f"{self.kind}.optimiser.warmup_steps: the learning rate still rises in {min(warmup, steps)} of the "
            f"{counted(steps, 'step')} of the training; fewer, or a longer training, lets it learn",
        )

    @classmethod
    def rate_name(cls, meaning: Mapping[str, Any]) -> str:
        """Steps of one name cost about the same per image: kind/network/output stride."""
        segmentor = meaning["config"]["segmentor"]
        return f"{cls.kind}/{segmentor['head']}_{segmentor['backbone']}/{segmentor['output_stride']}"

    @classmethod
    def job(cls, storage: Storage, steps: tuple[Self, ...], shard: ShardRange | None, device: str) -> TrainingJob:
        """The training as a whole; where it runs is for its workers to say."""
        del shard, device
        (step,) = steps
        return step.training_job(storage)

    def travelling_weights(self, backbone: str, init: Initialisation) -> str | None:
        """The first weights by a name that any worker finds."""
        default = imagenet_weights(backbone) if init == "imagenet" else None
        return travelling_name(backbone, self.first_weights or default)

    @abstractmethod
    def training_job(self, storage: Storage) -> TrainingJob:
        """The training as it travels."""


def require_batch(cell: CellSteps, place: str, batch_size: int, least: int = 1) -> None:
    """Refuse batches that cannot be split among the workers of a training, each with `least` images or more.

    Raises
    ------
    InputError
        With the numbers.
    """
    workers = cell.entry.compute.train_workers
    if batch_size % workers or batch_size < least * workers:
        share = "one pooled cell cannot be normalised, so " if least > 1 else ""
        raise InputError(
            f"{{key}} {batch_size} cannot be split among {workers} workers (compute.train_workers)",
            key=f"{place}.batch_size",
            value=batch_size,
            allowed=f"{share}allowed is a multiple of {workers}, at least {least * workers}",
        )


def first_weights_identity(
    cell: CellSteps, place: str, backbone: str, init: Initialisation, weights: str | None
) -> str:
    """What the first weights are; the file itself is checked when it is loaded."""
    if init == "random":
        if weights is not None:
            message = f"{weights!r} is given, but init is 'random'"
            raise InputError(message, key=f"{place}.weights", value=weights, allowed="name another init")
        return "random"
    if weights is None and init != "imagenet":
        raise InputError(f"{{key}} is missing: init {init!r} needs a file or URL", key=f"{place}.weights")
    try:
        return f"{init}:{cell.weights_identity(backbone, weights or imagenet_weights(backbone))}"
    except InputError as error:
        raise error.below(place) from None
