"""What a kind of step says of itself, so that nobody else has to know the kinds.

A step is a distinct piece of work. Its key is the digest of its kind, its code version, its meaning, its images and the
keys of the steps it is computed from. A step over images also belongs to a stream (the same without the images), whose
shards are shared by all image counts. The failure this guards against: doing equal work twice because two cells came to
it by different roads.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, Self

from orchestrator.ledger.image_sets import ImageSet, ShardRange
from orchestrator.ledger.keys import canonical, digest
from orchestrator.ledger.layout import short
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.ledger.shards import origin_of
from orchestrator.spec.experiment import ExperimentEntry
from orchestrator.steps.jobs import Job, Source
from orchestrator.steps.rates import Extent, Rate
from orchestrator.storage.store import Storage
from workloads.costs.memory import worker_bytes
from workloads.costs.work import Size, Work
from workloads.datasets import Dataset

Stage = Literal["labels", "pretrain", "finetune"]


class Pool(StrEnum):
    """Who runs a step: actors that keep a network, plain tasks, the one actor that clusters, trials of trainings."""

    EXTRACT = "extract"
    PROCESS = "process"
    CLUSTER = "cluster"
    TRAIN = "train"


@dataclass(frozen=True)
class Need:
    """What a piece waits for: a step as a whole, or one shard of it."""

    step: str
    shard: ShardRange | None = None


@dataclass(frozen=True)
class Piece:
    """A part of a step that is handed out by itself; pieces of one name are done together for all their steps.

    A `divisible` piece that many steps share is handed out in as many parts as there are cores.
    """

    name: str
    shard: ShardRange | None = None
    needs: tuple[Need, ...] = ()
    divisible: bool = False


class CellSteps(Protocol):
    """A cell of an experiment while its steps are planned: each is asked for by its role, and made once.

    Attributes
    ----------
    entry : the configuration.
    dataset : the data set.
    train, val : the pools that labels are made of, and that all is scored on.
    until : the last stage of the method that is wanted.
    storage : where lists are written; None where nothing may be.
    """

    entry: ExperimentEntry
    dataset: Dataset
    train: Source
    val: Source
    until: Stage
    storage: Storage | None

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the data set is to the key of a step that reads ground truth: images, their order, classes."""

    @property
    def image_identity(self) -> Mapping[str, Any]:
        """The same to any other step: images and their order."""

    @property
    def makes_labels(self) -> bool:
        """Whether the cell is about labels at all."""

    @property
    def scores_labels(self) -> bool:
        """Whether the labels of the validation pool have a PmIoU."""

    def step(self, role: str) -> "Step | None":
        """The step of a role; None where the cell has none."""

    @property
    def labelled_images(self) -> ImageSet:
        """The images that labels are made for: those that pre-training sees, or those that are clustered."""

    def image_set(self, source: Source, requested: int | None) -> ImageSet:
        """The first images of a pool, or all."""

    def truth_digest(self, source: Source, image_ids: Iterable[str] | None = None) -> str:
        """What identifies the ground truth of a pool's images, of all where none are named."""

    def images_digest(self, source: Source, image_ids: Iterable[str]) -> str:
        """What identifies images of a pool."""

    def weights_identity(self, arch: str, weights: str | None) -> str:
        """What identifies the content of weights."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Step(ABC):
    """A distinct piece of work.

    Attributes
    ----------
    kind : name of the kind, as keys and the storage know it.
    code_version : raised by hand when the step computes something else from the same meaning.
    title : what is being done, in words.
    pool : who runs it.
    roles : what the steps of this kind are to a cell.
    assumed_rate : what an image costs, used only until something was measured.
    shown_results : which of its results a cell shows; None for all.
    shows_images : whether a cell says how many images it used.
    timed : whether its seconds are its own, and not those of several that were done together.
    may_be_given_up : whether early stopping may end it, see `execution.early_stopping`.
    images : the images it works on.
    """

    kind: ClassVar[str]
    code_version: ClassVar[int]
    title: ClassVar[str]
    pool: ClassVar[Pool]
    roles: ClassVar[tuple[str, ...]]
    assumed_rate: ClassVar[Rate]
    shown_results: ClassVar[tuple[str, ...] | None] = ()
    shows_images: ClassVar[bool] = False
    may_be_given_up: ClassVar[bool] = False
    timed: ClassVar[bool] = True

    images: ImageSet

    @classmethod
    @abstractmethod
    def plan(cls, role: str, cell: CellSteps) -> Self | None:
        """The step of a role in a cell; None where the cell has no use for it.

        Raises
        ------
        InputError
            The cell asks for it and it cannot be.
        """

    @property
    @abstractmethod
    def inputs(self) -> dict[str, "Step"]:
        """The steps that it is computed from, by role."""

    @abstractmethod
    def own_meaning(self) -> Mapping[str, Any]:
        """All that decides what it computes, beside its images and inputs."""

    @classmethod
    @abstractmethod
    def job(cls, storage: Storage, steps: "tuple[Self, ...]", shard: ShardRange | None, device: str) -> Job:
        """The job of a piece of the steps; `device` is where extraction or clustering runs."""

    @cached_property
    def meaning(self) -> dict[str, Any]:
        """What decides what it computes, as plain JSON types."""
        return dict(canonical(self.own_meaning()))

    @cached_property
    def key(self) -> str:
        """What makes two steps one."""
        return digest(self._identity() | {"images": self.images.digest})

    @property
    def stream(self) -> str:
        """What its shards belong to; empty for a step without shards."""
        return ""

    @property
    def input_keys(self) -> dict[str, str]:
        """The keys of its inputs, by role."""
        return {role: step.key for role, step in self.inputs.items()}

    def pieces(self, ledger: Ledger) -> list[Piece]:
        """What is left to do: by default all at once, when the inputs are done."""
        del ledger
        return [Piece(f"{self.kind}/{self.key}", needs=tuple(Need(key) for key in self.input_keys.values()))]

    def finished_images(self, ledger: Ledger) -> int:
        """How many of its images lie in finished shards, of this step or of one of another image count."""
        del ledger
        return 0

    @classmethod
    def rate_name(cls, meaning: Mapping[str, Any]) -> str:
        """Steps of one name cost about the same per image."""
        del meaning
        return cls.kind

    @property
    def image_passes(self) -> int:
        """Images that it works through; a training counts each of them once an epoch."""
        return self.images.count

    @classmethod
    def work_of(cls, meaning: Mapping[str, Any], extent: Extent) -> Work | None:
        """What time depends on in a step of this kind; None where that is not known, and `assumed_rate` has to do.

        Raises
        ------
        ValueError
            The meaning is one of an earlier version.
        """
        del meaning, extent
        return None

    def work(self, size: Size, images: int) -> Work | None:
        """What there is to do where so many images, of such a size, are left."""
        passes = self.image_passes * images // max(self.images.count, 1)
        return self.work_of(self.meaning, Extent(images, passes, size))

    def bytes_per_image(self, size: Size) -> float:
        """What it writes, until something was measured."""
        del size
        return self.assumed_rate.bytes

    @property
    def read_from(self) -> Source | None:
        """The pool whose images it reads; None where it reads none."""
        source = getattr(self, "source", None)
        return source if isinstance(source, Source) else None

    def memory_bytes(self, rate_of: Callable[["Step"], Rate]) -> int:
        """Bytes that it holds at once beyond what all steps do."""
        del rate_of
        return 0

    def worker_bytes(self, size: Size, *, uses_gpu: bool) -> float:
        """Bytes that a process takes at most that works on it, on images of such a size."""
        return worker_bytes(self.work(size, self.images.count), size, uses_gpu=uses_gpu)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is likely to be a mistake in what it is asked for."""
        return ()

    @property
    def weights(self) -> str | None:
        """Where the weights come from that it loads, as the experiment names them."""
        return None

    def evaluated(self, role: str) -> tuple[Source, int] | None:
        """The pool that it is scored on in a cell and the number of classes; None where it is not."""
        del role
        return None

    def shown(self, role: str, manifest: Manifest) -> dict[str, Any]:
        """The results that a cell shows of the step in a role."""
        del role
        names = manifest.results if self.shown_results is None else self.shown_results
        # Steps that were done by an earlier version may have fewer.
        return {name: manifest.results[name] for name in names if name in manifest.results}

    def _identity(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "version": self.code_version,
            "meaning": self.meaning,
            "inputs": self._input_identities(),
        }

    def _input_identities(self) -> dict[str, str]:
        return self.input_keys


@dataclass(frozen=True, eq=False, kw_only=True)
class ShardedStep(Step):
    """A step that is done shard by shard. `dataset` is the data set's identity and the order of its images."""

    dataset: Mapping[str, Any]
    source: Source

    def made_by(self) -> tuple[tuple[Step, str], ...]:
        """The files (step and name) that decide the content of its shards: what came out of trainings and fits."""
        return ()

    def origin(self, ledger: Ledger) -> str | None:
        """What the shards are made by, as their records say; empty where that is the images alone, None while it is not
        there yet.
        """
        makers = self.made_by()
        found = [(ledger.manifest(step.kind, step.key), name) for step, name in makers]
        made = [manifest.file(name).sha256 for manifest, name in found if manifest is not None]
        return origin_of(*made) if len(made) == len(makers) else None

    @cached_property
    def stream(self) -> str:
        """What its shards belong to: the step without its images."""
        return digest(self._identity())

    def unfinished(self, ledger: Ledger) -> Iterator[ShardRange]:
        """The shards that have no record yet, or one that was made by other networks or clusters than are there now."""
        finished = ledger.finished_shards(self.stream)
        origin = self.origin(ledger) if finished else ""
        if origin is None:
            return iter(self.images.shards)
        if origin:
            there = [shard.digest for shard in self.images.shards if short(shard.digest) in finished]
            records = ledger.shards(self.stream, there)
            finished = {short(one) for one, record in records.items() if record.origin == origin}
        return (shard for shard in self.images.shards if short(shard.digest) not in finished)

    def finished_images(self, ledger: Ledger) -> int:
        """How many of its images lie in finished shards, of this step or of one of another image count."""
        return self.images.count - sum(shard.stop - shard.start for shard in self.unfinished(ledger))

    def pieces(self, ledger: Ledger) -> list[Piece]:
        """One piece a shard, the same for all image counts."""
        return [Piece(self.piece_name(shard), shard, self.needs(shard)) for shard in self.unfinished(ledger)]

    def piece_name(self, shard: ShardRange) -> str:
        """Names what is done together for several steps."""
        return f"{self.kind}/{self.stream[:16]}/{short(shard.digest)}"

    def needs(self, shard: ShardRange) -> tuple[Need, ...]:
        """What a shard waits for."""
        del shard
        return tuple(Need(key) for key in self.input_keys.values())
