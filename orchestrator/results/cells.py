"""The results of an experiment as types, and the file ``results/NAME.json`` that holds them.

Everything that reads or writes results uses these types; JSON is made and taken apart here alone.
"""

import json
import math
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from orchestrator.execution.provenance import Code
from orchestrator.ledger.layout import RESULTS, results_path, stem
from orchestrator.results.statistics import RankCorrelation
from orchestrator.storage.store import Storage
from workloads.errors import InputError
from workloads.redaction import redacted

# A row may be named by a number in YAML: 200 superpixels.
_Name = Annotated[str | None, BeforeValidator(lambda value: value if value is None else str(value))]


class Status(StrEnum):
    """How a cell ended."""

    DONE = "done"
    CACHED = "cached"
    FAILED = "failed"
    NOT_TRAINED = "not trained"
    STOPPED = "stopped"

    @property
    def whole(self) -> bool:
        """Whether all steps of the cell are on the storage."""
        return self in (Status.DONE, Status.CACHED)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class Protocol(_Record):
    """What the scores of a cell were measured on."""

    dataset: str
    class_names: list[str] = []
    classes: int | None = None
    split: str | None = None
    scored_images: int | None = None


class ImageCount(_Record):
    """How many images of a pool a step used; `requested` is None where all were asked for."""

    pool: str
    requested: int | None = None
    available: int
    used: int


class Metrics(_Record):
    """The figures of a cell, in percent where they are shares of pixels or IoUs; further ones by their names.

    `per_class_iou` belongs to PmIoU and `miou_per_class` to mIoU; None in them is a class that does not occur.
    `silhouette` is that of the clustered sample, `stability` the adjusted Rand index of the labels of two seeds.
    `matching` is the class of every label that has one.
    """

    model_config = ConfigDict(extra="allow")

    pmiou: float | None = None
    coverage: float | None = None
    miou: float | None = None
    miou_multi_scale: float | None = None
    num_clusters: int | None = None
    silhouette: float | None = None
    stability: float | None = None
    per_class_iou: list[float | None] | None = None
    miou_per_class: list[float | None] | None = None
    matching: dict[int, int] | None = None
    protocol: Protocol | None = None

    def number(self, name: str) -> float | None:
        """A figure by its name; None where it is missing or not finite."""
        return finite(getattr(self, name, None))

    @property
    def numbers(self) -> dict[str, float]:
        """All finite figures by name."""
        found = {name: finite(value) for name, value in dict(self).items()}
        return {name: value for name, value in found.items() if value is not None}


class CellResult(_Record):
    """One cell: what tells it from the others, how it ended, its figures, and the steps that they come from.

    `error` says why it failed, `reason` why it was skipped. `steps`, `seconds` and `images` are by the role of a step.
    """

    values: dict[str, Any] = Field(alias="cell")
    row: _Name = None
    column: _Name = None
    paper: dict[str, float | str | None] | None = None
    status: Status
    error: str | None = None
    reason: str | None = None
    metrics: Metrics = Metrics()
    steps: dict[str, str] = {}
    seconds: dict[str, float] = {}
    images: dict[str, ImageCount] = {}
    quarantined: list[str] = []
    substitutes: list[str] = []

    @property
    def why(self) -> str | None:
        """What kept the cell from being whole; None where nothing did."""
        return None if self.status.whole else self.error or self.reason or self.status.value


class Machine(_Record):
    """A machine of a run; only its name is known where it computed for an earlier run."""

    host: str = "a machine"
    cores: float | None = None
    gpus: float | None = None
    memory: float | None = None


class Run(_Record):
    """The run that wrote the results: when, by which code and command, on which machines."""

    git: Code | None = None
    versions: dict[str, str] = {}
    seed: int | None = None
    started: str | None = None
    seconds: float | None = None
    command: list[str] = []
    machines: list[Machine] = []


class Results(_Record):
    """The results of an experiment; `agreement` says how well PmIoU orders what was trained, `doubts` what to mind."""

    experiment: dict[str, Any]
    cells: list[CellResult]
    provenance: Run
    agreement: RankCorrelation | None = None
    doubts: list[str] = []

    def to_bytes(self) -> bytes:
        """The results as JSON text, without credentials of URLs."""
        return redacted(self.model_dump_json(indent=1, by_alias=True, exclude_unset=True)).encode()

    @staticmethod
    def from_bytes(data: bytes, place: str) -> "Results":
        """The results that `to_bytes` wrote; `place` is where they lie, for the message.

        Raises:
            InputError: the bytes are not results.
        """
        try:
            return Results.model_validate(json.loads(redacted(data.decode())))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise InputError(
                f"{place} does not hold results: {key}: {first['msg']}; `lookbeyond run` writes it again"
            ) from None
        except ValueError as error:
            raise InputError(f"{place} cannot be read ({error}); `lookbeyond run` writes it again") from None


def finite(value: Any) -> float | None:
    """The value as a finite number, None where it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def read_results(storage: Storage, name: str) -> Results:
    """The results of an experiment.

    Raises:
        InputError: there are none, or the file does not hold results.
    """
    path = results_path(name)
    try:
        return Results.from_bytes(storage.read(path), storage.locate(path))
    except FileNotFoundError:
        there = ", ".join(experiment_names(storage)) or "none at all"
        raise InputError(f"no results of {name!r} on storage {storage.uri}; there are: {there}") from None


def experiment_names(storage: Storage) -> list[str]:
    """The experiments that have results on a storage, sorted."""
    return sorted(stem(file.path) for file in storage.files(RESULTS) if file.path.endswith(".json"))
