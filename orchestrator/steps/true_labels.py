"""Labelled images of a pool, as training and scoring read them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.steps.jobs import Source

if TYPE_CHECKING:
    from workloads.training.batches import Sample


@dataclass(frozen=True)
class TrueLabels:
    """Images with their ground truth."""

    source: Source
    ids: Sequence[str]

    def load(self, image_id: str) -> "Sample":
        """Decode one image and its ground truth."""
        from workloads.training.batches import Sample

        dataset = self.source.open()
        pool = self.source.pool
        return Sample(dataset.read_image(pool, image_id), dataset.read_ground_truth(pool, image_id))

    def ground_truth(self, start: int, step: int) -> Iterator[np.ndarray]:
        """The ground truth of every `step`-th image from `start` on, uint8 (H, W), 255 ignored."""
        dataset = self.source.open()
        return (dataset.read_ground_truth(self.source.pool, image_id) for image_id in self.ids[start::step])
