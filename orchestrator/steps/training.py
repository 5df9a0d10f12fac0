"""Pre-training and fine-tuning as jobs: what of a training step travels to the workers of a training run.

The model: a job is a small value that the driver makes; what runs it (`orchestrator.steps.training_runs`) is imported
by the workers of the run alone.
"""

from dataclasses import dataclass

from orchestrator.steps.jobs import ImageSlice, Source
from orchestrator.storage.store import Storage
from workloads.configs.networks import Initialisation
from workloads.configs.training import FinetuneConfig, PretrainConfig


@dataclass(frozen=True)
class PretrainJob:
    """Pre-train a network on auxiliary labels, superpixels or pixel correspondence."""

    storage: Storage
    key: str
    source: Source
    images: ImageSlice
    labels: tuple[str, str] | None
    config: PretrainConfig
    weights: str | None
    num_labels: int | None

    @property
    def title(self) -> str:
        """The job's name on Ray's dashboard."""
        return f"PretrainJob {self.config.objective} {self.key[:8]}"


@dataclass(frozen=True)
class FinetuneJob:
    """Fine-tune a network on labelled images, and score it on the validation images."""

    storage: Storage
    key: str
    source: Source
    labelled: str
    judged: Source
    judged_images: ImageSlice
    num_classes: int
    config: FinetuneConfig
    pretrained: str | None
    init: Initialisation
    weights: str | None

    @property
    def title(self) -> str:
        """The job's name on Ray's dashboard."""
        return f"FinetuneJob {self.key[:8]}"


TrainingJob = PretrainJob | FinetuneJob
