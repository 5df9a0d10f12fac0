"""The contrast beside a fine-tuning: what it is computed from, as the step and its job have it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from orchestrator.ledger.image_sets import ImageSet
from orchestrator.ledger.manifests import Ledger
from orchestrator.steps.jobs import ImageSlice, Source
from orchestrator.steps.pretrain import TrainingImages, contrast_of
from orchestrator.steps.step import CellSteps, Step
from orchestrator.storage.store import Storage
from workloads.configs.training import JointConfig

if TYPE_CHECKING:
    from workloads.training.joint import Unlabelled


@dataclass(frozen=True, eq=False)
class Joint:
    """The images of the contrast, the step that labels them, and the options; positives follow `labels.source`."""

    config: JointConfig
    source: Source
    images: ImageSet
    labels: Step | None
    num_clusters: int | None

    @classmethod
    def plan(cls, cell: CellSteps) -> Self | None:
        """The contrast of a cell's fine-tuning, where it asks for one."""
        if cell.entry.joint is None:
            return None
        contrast, labels, num_clusters = contrast_of(cell, cell.entry.joint.contrast)
        config = cell.entry.joint.model_copy(update={"contrast": contrast})
        return cls(config, cell.train, cell.labelled_images, labels, num_clusters)

    def meaning(self) -> Mapping[str, Any]:
        """What of it decides the result, beside the labels."""
        return {"pool": self.source.pool, "images": self.images.digest, "config": self.config}

    def job(self) -> "JointJob":
        """What of it travels."""
        labels = (self.labels.kind, self.labels.key) if self.labels else None
        return JointJob(self.config, self.source, ImageSlice.of(self.images), labels, self.num_clusters)

    def origin(self, storage: Storage) -> str:
        """The content of the labels."""
        return Ledger(storage).finished(self.labels.kind, self.labels.key).content if self.labels else ""


@dataclass(frozen=True)
class JointJob:
    """The same for a worker; `labels` is the step (kind, key) whose maps say what is positive."""

    config: JointConfig
    source: Source
    images: ImageSlice
    labels: tuple[str, str] | None
    num_clusters: int | None

    def unlabelled(self, storage: Storage) -> "Unlabelled":
        """What the training loop takes."""
        from workloads.training.joint import Unlabelled

        images = TrainingImages.of(storage, self.source, self.images, self.labels)
        return Unlabelled(images, self.num_clusters, self.config)
