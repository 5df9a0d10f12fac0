"""The experiment file: what may be written in it, and one readable message for everything that is wrong with it.

The model: a YAML file is a base configuration, a `grid`, and what makes a table of it (`documents`, `tables`); every
cell is validated by the same strict types. Fields that decide a result are in `HashedConfig`s; paths, devices and
worker counts in `RuntimeConfig`s, never hashed. All errors of a file are reported together, each with its key, its
value and what is allowed.
"""

import difflib
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from orchestrator.spec.merging import laid_over
from orchestrator.spec.references import resolved
from orchestrator.spec.runtime_config import RuntimeConfig
from orchestrator.spec.training import FinetuneEntry, PretrainEntry
from workloads.configs.base import HashedConfig
from workloads.configs.clustering import DbscanConfig, KMeansConfig
from workloads.configs.extraction import ExtractorConfig
from workloads.configs.networks import SegmentorConfig
from workloads.configs.superpixels import SuperpixelConfig
from workloads.datasets import DatasetConfig
from workloads.errors import InputError

FINETUNED = "finetuned"


class SamplingConfig(HashedConfig, tag="SamplingConfig"):
    """Which feature pixels of an image are kept for clustering."""

    pixels_per_image: int = Field(200, ge=1, description="seeded sample of feature pixels per image")


class DatasetEntry(RuntimeConfig):
    """A data set: its configuration (hashed) and where it lies (not hashed)."""

    config: DatasetConfig
    root: str | None = Field(None, description="folder of the data set; relative to the working directory")
    order_seed: int = Field(0, ge=0, description="seed of the one order of the pool of which n images are a prefix")

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        return _gather_config(data, own=("root", "order_seed"))


class ExtractorEntry(RuntimeConfig):
    """A feature extractor: its configuration (hashed) and its weights (hashed by content, not by place).

    With ``weights: finetuned`` it is a network that this experiment fine-tunes for the purpose, by `finetune`.
    """

    config: ExtractorConfig
    weights: str | None = Field(None, description="'random', 'finetuned', a torchvision weights name, a file or a URL")
    finetune: FinetuneEntry | None = Field(
        None, description="how the network of weights 'finetuned' is trained; laid over the cell's own finetune"
    )

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        data = _gather_config(data, own=("weights", "finetune"))
        if isinstance(data, dict) and data.get("weights") == FINETUNED and isinstance(data["config"], dict):
            data["config"] = {"arch": "segmentor", "network": _network_of(data.get("finetune"))} | data["config"]
        return data

    @model_validator(mode="after")
    def _finetuned_only(self) -> Self:
        if (self.weights == FINETUNED) != (self.finetune is not None):
            raise ValueError(
                f"weights {self.weights!r} and finetune do not go together; weights 'finetuned' needs a finetune, here "
                "or in the experiment, and nothing else takes one"
            )
        return self


ClusteringConfig = Annotated[KMeansConfig | DbscanConfig, Field(discriminator="method")]


class LabelsEntry(RuntimeConfig):
    """Auxiliary labels: from which images, by which features, clusters, superpixels and outlier share."""

    source: Literal["auxiliary", "superpixel", "pixel"] = Field(
        "auxiliary",
        description="auxiliary labels, or the conditions of Table 1: #2 superpixel ids, #1 pixel ids",
    )
    images: int | None = Field(None, ge=1, description="first n images of the pool's seeded order; null for all")
    extractor: ExtractorEntry = Field(default_factory=lambda: ExtractorEntry.model_validate({"arch": "filters"}))
    sampling: SamplingConfig = SamplingConfig()
    clustering: ClusteringConfig = KMeansConfig()
    superpixels: SuperpixelConfig | None = SuperpixelConfig()
    outliers: float = Field(0.05, ge=0, lt=1, description="share of each cluster's farthest pixels that cast no vote")

    @model_validator(mode="before")
    @classmethod
    def _default_method(cls, data: Any) -> Any:
        """K-means unless another method is named, so that one option can be set without the others."""
        if isinstance(data, dict) and isinstance(data.get("clustering"), dict):
            return {**data, "clustering": {"method": "kmeans", **data["clustering"]}}
        return data


class EarlyStopping(RuntimeConfig):
    """When a fine-tuning is given up: asynchronous successive halving (Li et al. 2020).

    After `grace` of its steps, and again after each `reduction_factor` times as many, a fine-tuning goes on if its mIoU
    is among the best 1/`reduction_factor` of those of its column that came so far.
    """

    reduction_factor: float = Field(3.0, gt=1, description="one in so many goes on at each comparison")
    grace: float = Field(0.2, gt=0, lt=1, description="share of a fine-tuning's steps before the first comparison")


class Compute(RuntimeConfig):
    """How the work is run. Nothing here changes a byte of the results on one kind of machine, with one exception:
    which trainings `early_stopping` gives up depends on which come first.
    """

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU where the cluster has one")
    workers: int | None = Field(None, ge=1, description="extraction workers; null for one per core (or per GPU)")
    gpus_per_worker: float = Field(1.0, gt=0, le=1, description="share of a GPU that an extraction worker takes")
    shard_images: int = Field(16, ge=1, description="images per shard; a multiple of labels.extractor.batch_size")
    quarantine_limit: float = Field(0.01, ge=0, le=1, description="share of broken images beyond which a step fails")
    lost_worker_retries: int = Field(20, ge=0, description="times one shard is tried again after its machine was lost")
    error_retries: int = Field(1, ge=0, description="times one shard is tried again after an error in the work itself")
    train_workers: int = Field(1, ge=1, description="workers of one training run; they split its batch")
    train_cores: int | None = Field(None, ge=1, description="cores of one training worker; null for all of a machine")
    start_seconds: float | None = Field(
        None, gt=0, description="time in which the workers of a training must start; null: 60, or 900 where it scales"
    )
    checkpoint_seconds: float = Field(20.0, ge=0, description="time between two states of a training that are kept")
    early_stopping: EarlyStopping | None = Field(
        None, description="give up fine-tunings that do worse than others of their column; null: never, {}: defaults"
    )
    cluster_config: str | None = Field(None, description="file of `ray up`: what the cluster can grow to")
    lease_seconds: float = Field(60.0, gt=0, description="silence after which another run's lease is taken over")


# What an experiment file may hold beside the configuration of its cells.
TABLE_KEYS = ("extends", "title", "layout", "size", "sizes", "rows", "columns", "grid", "notes")


class ExperimentEntry(RuntimeConfig):
    """One cell of an experiment: everything but what makes the cells (`TABLE_KEYS`)."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="names the results file")
    seed: int = Field(0, ge=0, description="seed of sampling and clustering; added to the seeds of training")
    weights: dict[str, str | None] = Field(
        default_factory=dict, description="weights by name, for what is written as $name; null: not at hand"
    )
    dataset: DatasetEntry
    labels: LabelsEntry = Field(default_factory=LabelsEntry)
    pretrain: PretrainEntry | None = Field(None, description="contrastive pre-training; null for none")
    finetune: FinetuneEntry | None = Field(None, description="fine-tuning and mIoU; null for none")
    compute: Compute = Compute()

    @model_validator(mode="before")
    @classmethod
    def _finetuned_extractor(cls, data: Any) -> Any:
        """An extractor that is fine-tuned here sees exactly the labelled images that the cell's own network sees."""
        match data:
            case {"labels": {"extractor": {"weights": "finetuned", **extractor}, **labels}}:
                pass
            case _:
                return data
        own, base = extractor.get("finetune") or {}, data.get("finetune")
        if not isinstance(own, dict) or not isinstance(base, dict):
            return data
        for name in ("pool", "fraction", "number"):
            if name in own and own[name] != base.get(name):
                raise ValueError(
                    f"labels.extractor.finetune.{name} {own[name]!r} differs from finetune.{name} {base.get(name)!r}; "
                    "an extractor may see the labels of its own cell only, so leave it out"
                )
        extractor |= {"weights": FINETUNED, "finetune": laid_over(base, own)}
        return {**data, "labels": {**labels, "extractor": extractor}}


def parse_entry(document: dict[str, Any]) -> ExperimentEntry:
    """Validate one cell's document (without `TABLE_KEYS`), after filling in what stands for something else.

    Raises:
        InputError: one line per wrong key, each with the key, the value and what is allowed.
    """
    try:
        entry = ExperimentEntry.model_validate(resolved(document))
    except ValidationError as error:
        lines = [_explain(detail) for detail in error.errors(include_url=False)]
        raise InputError("\n".join(dict.fromkeys(lines))) from None
    batch = entry.labels.extractor.config.batch_size
    if entry.compute.shard_images % batch:
        raise InputError(
            f"compute.shard_images: {entry.compute.shard_images} must be a multiple of "
            f"labels.extractor.batch_size ({batch})"
        )
    return entry


def _network_of(finetune: Any) -> Any:
    """The architecture that a fine-tuning trains; what is wrong with the fine-tuning is reported where it stands."""
    try:
        return FinetuneEntry.model_validate(finetune).config.segmentor
    except ValidationError:
        return SegmentorConfig()


def _gather_config(data: Any, own: tuple[str, ...]) -> Any:
    if not isinstance(data, dict) or "config" in data:
        return data
    return {name: data[name] for name in own if name in data} | {
        "config": {name: value for name, value in data.items() if name not in own}
    }


def _explain(detail: Any) -> str:
    parts = [str(part) for part in detail["loc"]]
    key = ".".join(_without_tags(parts))
    value = detail.get("input")
    match detail["type"]:
        case "extra_forbidden":
            if key in _known_keys():
                return f"{key}: {value!r} is not allowed; {parts[-2]} has no such option"
            near = _nearest(key)
            return f"unknown key {key}" + (f"; did you mean {near}?" if near else "")
        case "missing":
            return f"{key} is missing"
        case "union_tag_not_found" | "union_tag_invalid":
            context = detail["ctx"]
            tag = str(context["discriminator"]).strip("'")
            got = f"{context['tag']!r} is not known" if "tag" in context else "is missing"
            allowed = context.get("expected_tags") or ", ".join(_tags(key))
            return f"{key}.{tag}: {got}; allowed: {allowed}"
        case "model_type" | "model_attributes_type":
            return f"{key}: {value!r} is not allowed; give a mapping of keys: {', '.join(_keys_below(key))}"
        case _:
            message = detail["msg"].removeprefix("Value error, ")
            return f"{key}: {value!r} is not allowed; {message[0].lower()}{message[1:]}"


def _without_tags(parts: list[str]) -> list[str]:
    """Drop what pydantic adds to a location: the inner `config` and the tag of a union."""
    kept: list[str] = []
    skip_tag = False
    for part in parts:
        if part == "config":
            skip_tag = kept[-1:] == ["dataset"]
            continue
        if skip_tag or (kept[-2:] == ["labels", "clustering"] and part in ("kmeans", "dbscan")):
            skip_tag = False
            continue
        if part in ("float", "int", "str") or part.startswith("literal["):
            continue
        kept.append(part)
    return kept


def _tags(key: str) -> list[str]:
    """The names that tell the alternatives of a union apart."""
    properties = ExperimentEntry.model_json_schema()["$defs"]["DatasetEntry"]["properties"]["config"]
    return list(properties["discriminator"]["mapping"]) if key == "dataset" else []


def _keys_below(key: str) -> list[str]:
    inner = (name.removeprefix(f"{key}.") for name in _known_keys() if name.startswith(f"{key}."))
    return [name for name in inner if "." not in name]


def _nearest(key: str) -> str | None:
    """The known key that is spelt most alike, or ends most alike: a key is often right but in the wrong place."""
    known = _known_keys()
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return near[0]
    ends = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    end = difflib.get_close_matches(key.rsplit(".", 1)[-1], ends, n=1, cutoff=0.6)
    return ends[end[0]] if end else None


def _known_keys() -> list[str]:
    """Every dotted key that an experiment file may hold."""
    schema = ExperimentEntry.model_json_schema()
    found: set[str] = set()

    def walk(node: dict[str, Any], prefix: str) -> None:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        for option in node.get("anyOf", []) + node.get("oneOf", []):
            walk(option, prefix)
        for name, child in node.get("properties", {}).items():
            if name == "config":
                walk(child, prefix)
                continue
            found.add(f"{prefix}{name}")
            walk(child, f"{prefix}{name}.")

    walk(schema, "")
    return sorted(found | set(TABLE_KEYS))
