"""The label maps, superpixels and predictions of a cell, read through the ledger and put into colours."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from orchestrator.ledger.manifests import Manifest
from orchestrator.ledger.shards import read_maps
from orchestrator.planning.cells import PlannedCell
from orchestrator.planning.plan import Plan
from orchestrator.storage.store import Storage
from workloads.datasets import Dataset, open_dataset
from workloads.errors import InputError
from workloads.figures import colourise, distinct_colours, matched_palette
from workloads.ignored import IGNORE_CLASS, IGNORE_LABEL

Maps = dict[str, np.ndarray]


@dataclass(frozen=True)
class CellMaps:
    """What the steps of a plan left of its cells. Labels are those of the val pool, where it is labelled."""

    plan: Plan
    storage: Storage

    def labels(self, cell: PlannedCell) -> Manifest | None:
        """The label maps of a cell, None where they are not done."""
        return self._done(cell, "label_val" if "label_val" in cell.roles else "label")

    def superpixels(self, cell: PlannedCell) -> Manifest | None:
        """The superpixels that these labels were voted with."""
        return self._done(cell, "superpixels_val" if "label_val" in cell.roles else "superpixels")

    def score(self, cell: PlannedCell) -> Manifest | None:
        """What matched the labels to classes."""
        return self._done(cell, "score")

    def network(self, cell: PlannedCell) -> Manifest | None:
        """The fine-tuned network of a cell, if it left predictions."""
        manifest = self._done(cell, "finetune")
        # Networks of an earlier version left none.
        return manifest if manifest and "predictions" in manifest.files else None

    def predictions(self, cell: PlannedCell) -> Maps:
        """Predicted classes of a few images."""
        manifest = self.network(cell)
        return dict(read_maps(self.storage, manifest.file("predictions").path)) if manifest else {}

    def maps(self, manifest: Manifest | None) -> Iterator[tuple[str, np.ndarray]]:
        """The maps of a step, in the order of its images."""
        records = manifest.shards if manifest else []
        return itertools.chain.from_iterable(read_maps(self.storage, record.path) for record in records)

    def first(self, manifest: Manifest | None, count: int) -> Maps:
        """The first few of them."""
        return dict(itertools.islice(self.maps(manifest), count))

    def num_clusters(self, cell: PlannedCell) -> int:
        """The number of clusters that were found."""
        return int(self.plan.done[cell.roles["cluster"].key].results["num_clusters"])

    def in_own_colours(self, cell: PlannedCell, labels: np.ndarray | None) -> np.ndarray | None:
        """A label map with a colour for each label."""
        if labels is None:
            return None
        return colourise(labels, distinct_colours(self.num_clusters(cell)), IGNORE_LABEL)

    def in_class_colours(self, cell: PlannedCell, dataset: Dataset, labels: np.ndarray | None) -> np.ndarray | None:
        """A label map in the colours of the classes that its labels were matched to."""
        score = self.score(cell)
        if labels is None or score is None:
            return None
        matching = {int(label): index for label, index in score.results["matching"].items()}
        return colourise(labels, matched_palette(matching, dataset.palette, self.num_clusters(cell)), IGNORE_LABEL)

    def _done(self, cell: PlannedCell, role: str) -> Manifest | None:
        step = cell.roles.get(role)
        return self.plan.done.get(step.key) if step else None


def dataset_of(cell: PlannedCell) -> Dataset:
    """The data set of a cell."""
    entry = cell.cell.entry.dataset
    return open_dataset(entry.config, entry.root)


def truth_of(dataset: Dataset, pool: str, name: str) -> np.ndarray | None:
    """The ground truth in colours; None where there is none, or none that can be used, which the score step reports."""
    if not dataset.labelled(pool):
        return None
    try:
        return colourise(dataset.read_ground_truth(pool, name), dataset.palette, IGNORE_CLASS)
    except InputError:
        return None


def legend_of(dataset: Dataset) -> list[tuple[str, tuple[int, int, int]]]:
    """The classes and their colours."""
    # A folder of one's own pictures has a palette for the supposed number of classes, and no names.
    palette = dataset.palette[: len(dataset.classes)].tolist()
    return [(text, (red, green, blue)) for text, (red, green, blue) in zip(dataset.classes, palette, strict=True)]
