"""The steps of a cell: every kind is asked for those of its roles, which ask for those that they are computed from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from orchestrator.ledger.image_sets import ImageSet, build_image_set, entries_digest
from orchestrator.ledger.inputs import Files, InputFiles
from orchestrator.planning.imagined import Imagined
from orchestrator.spec.experiment import ExperimentEntry
from orchestrator.spec.grid import Cell
from orchestrator.spec.references import weights_identity
from orchestrator.steps.jobs import Source
from orchestrator.steps.kinds import BY_ROLE
from orchestrator.steps.step import Stage, Step
from orchestrator.storage.store import Storage
from workloads.datasets import Dataset, ImageEntry, absolute_root, open_dataset
from workloads.datasets.base import FileKind
from workloads.errors import InputError


@dataclass
class PlannedCell:
    """A cell, the steps it needs by role, and what keeps it from being run (or None)."""

    cell: Cell
    roles: dict[str, Step] = field(default_factory=dict)
    error: InputError | None = None


class StepNotDoneError(InputError):
    """What a command starts from has not been computed."""

    @classmethod
    def of(cls, what: str, where: str) -> Self:
        """That of a step, in words, on a storage."""
        return cls(f"{what} of this cell is not done on {where}; `lookbeyond run` does it")


class CellPlanner:
    """Plans cells one after the other, listing every data set and hashing every weights file once."""

    def __init__(
        self, storage: Storage | None, until: Stage, inputs: InputFiles, imagined: Imagined | None = None
    ) -> None:
        self.storage = storage
        self.until = until
        self._inputs = inputs
        self._imagined = imagined
        self._entries: dict[Files, dict[str, ImageEntry]] = {}
        self._datasets: dict[Any, Dataset] = {}
        self._images: dict[Any, ImageSet] = {}
        self._weights: dict[Any, str] = {}

    def plan(self, cell: Cell) -> PlannedCell:
        """The cell with its steps, inputs before what needs them; or with what is wrong with it."""
        try:
            roles = _Roles(self, cell.entry)
            for role in BY_ROLE:
                roles.step(role)
        except InputError as error:
            return PlannedCell(cell, error=error)
        return PlannedCell(cell, {role: step for role, step in roles.planned.items() if step is not None})

    def dataset(self, entry: ExperimentEntry) -> Dataset:
        """The data set of a cell."""
        name = (entry.dataset.config, entry.dataset.root)
        if name not in self._datasets and self._imagined is not None:
            self._datasets[name] = self._imagined.dataset(name[0])
        elif name not in self._datasets:
            self._datasets[name] = open_dataset(name[0], name[1])
        return self._datasets[name]

    def image_set(self, entry: ExperimentEntry, source: Source, requested: int | None) -> ImageSet:
        """The first images of a pool, or all, in the cell's order."""
        name = (entry.dataset, source.pool, requested, entry.compute.shard_images)
        if name not in self._images:
            try:
                self._images[name] = build_image_set(
                    source.pool,
                    self.files(entry, source, "images").values(),
                    requested,
                    order_seed=entry.dataset.order_seed,
                    shard_images=entry.compute.shard_images,
                    storage=self.storage,
                )
            except InputError as error:
                raise of_pool(error, "pool" if source.pool == entry.dataset.config.pool else "val") from None
        return self._images[name]

    def files(self, entry: ExperimentEntry, source: Source, kind: FileKind) -> dict[str, ImageEntry]:
        """The images of a pool, or their label files, by id; those told by their content have it."""
        files = Files(source.config, source.root, source.pool, kind)
        if files not in self._entries:
            dataset = self.dataset(entry)
            if kind == "images":
                listed = dataset.entries(source.pool)
            else:
                listed = [dataset.label_entry(source.pool, image) for image in self.files(entry, source, "images")]
            self._entries[files] = {found.id: found for found in self._inputs.told(files, dataset, listed)}
        return self._entries[files]

    def weights_identity(self, arch: str, weights: str | None) -> str:
        """What identifies the content of weights."""
        if self._imagined is not None:
            return f"imagined:{weights}"
        name = (arch, weights)
        if name not in self._weights:
            self._weights[name] = weights_identity(arch, weights)
        return self._weights[name]


class _Roles:
    """The steps of one cell by role, each planned when it is first asked for (see `CellSteps`)."""

    def __init__(self, planner: CellPlanner, entry: ExperimentEntry) -> None:
        self.planned: dict[str, Step | None] = {}
        self.entry = entry
        self.storage, self.until = planner.storage, planner.until
        self.dataset = planner.dataset(entry)
        self._planner = planner
        config = entry.dataset.config
        if config.val not in self.dataset.pools and "val" in config.model_fields_set:
            # Left at its default, a missing pool means that nothing is scored; named, it is a mistake.
            raise InputError(
                f"{config.val!r} is not a pool of {self.dataset.name} here",
                key="dataset.val",
                value=config.val,
                allowed=f"pools: {', '.join(self.dataset.pools)}",
            )
        root = absolute_root(config, entry.dataset.root)
        self.train = Source(config, root, config.pool)
        self.val = Source(config, root, config.val)

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """What the data set is to a key of a step that reads ground truth."""
        return {"identity": self.dataset.identity(), "order_seed": self.entry.dataset.order_seed}

    @cached_property
    def image_identity(self) -> Mapping[str, Any]:
        """What its images are to a key of any other step."""
        return {"identity": self.dataset.image_identity(), "order_seed": self.entry.dataset.order_seed}

    @cached_property
    def makes_labels(self) -> bool:
        """Whether labels are made for their own sake, or a contrast reads them."""
        if self.until == "labels":
            return True
        if self.entry.joint is not None:
            return True
        if self.entry.pretrain is not None:
            return self.entry.pretrain.config.objective == "contrast"
        return self.entry.finetune is None

    @cached_property
    def scores_labels(self) -> bool:
        """Whether the validation pool has ground truth."""
        return self.val.pool in self.dataset.pools and self.dataset.labelled(self.val.pool)

    @cached_property
    def labelled_images(self) -> ImageSet:
        """The images that labels are made for: those that pre-training sees, or those that are clustered."""
        if self.entry.pretrain is not None:
            return self.image_set(self.train, self.entry.pretrain.images)
        return self.image_set(self.train, None if self.entry.joint else self.entry.labels.images)

    def step(self, role: str) -> Step | None:
        """The step of a role; None where the cell has none."""
        if role not in self.planned:
            self.planned[role] = BY_ROLE[role].plan(role, self)
        return self.planned[role]

    def image_set(self, source: Source, requested: int | None) -> ImageSet:
        """The first images of a pool, or all."""
        return self._planner.image_set(self.entry, source, requested)

    def truth_digest(self, source: Source, image_ids: Iterable[str] | None = None) -> str:
        """What identifies the ground truth of a pool's images, of all where none are named."""
        labels = self._planner.files(self.entry, source, "labels")
        return entries_digest(labels[image] for image in (labels if image_ids is None else image_ids))

    def images_digest(self, source: Source, image_ids: Iterable[str]) -> str:
        """What identifies images of a pool."""
        images = self._planner.files(self.entry, source, "images")
        return entries_digest(images[image] for image in image_ids)

    def weights_identity(self, arch: str, weights: str | None) -> str:
        """What identifies the content of weights."""
        return self._planner.weights_identity(arch, weights)


def of_pool(error: InputError, key: str) -> InputError:
    """The error, with the key of the experiment file that named the pool where it is about a pool."""
    return error.at(f"dataset.{key}") if error.key == "pool" else error
