"""The experiment file: what may be written in it, and one readable message for everything that is wrong with it.

The model: a YAML file is a base configuration and a `grid`; every cell of the grid is validated by the same strict
types. Fields that decide a result are `What`s (hashed); paths, devices and worker counts are `How`s (never hashed).
All errors of a file are reported together, each with its key, its value and what is allowed.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from orchestrator.how import How
from orchestrator.training_spec import FinetuneEntry, PretrainEntry
from workloads.clustering import KMeansConfig
from workloads.config import What
from workloads.datasets import DatasetConfig
from workloads.dbscan import DbscanConfig
from workloads.errors import InputError
from workloads.extractors import ExtractorConfig
from workloads.superpixels import SuperpixelConfig


class SamplingConfig(What):
    """Which feature pixels of an image are kept for clustering."""

    pixels_per_image: int = Field(200, ge=1, description="seeded sample of feature pixels per image")


class DatasetEntry(How):
    """A data set: its configuration (hashed) and where it lies (not hashed)."""

    config: DatasetConfig
    root: str | None = Field(None, description="folder of the data set; relative to the working directory")
    order_seed: int = Field(0, ge=0, description="seed of the one order of the pool of which n images are a prefix")

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        return _gather_config(data, own=("root", "order_seed"))


class ExtractorEntry(How):
    """A feature extractor: its configuration (hashed) and its weights (hashed by content, not by place)."""

    config: ExtractorConfig
    weights: str | None = Field(None, description="'random', a torchvision weights name, a file or a URL")

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        return _gather_config(data, own=("weights",))


ClusteringConfig = Annotated[KMeansConfig | DbscanConfig, Field(discriminator="method")]


class LabelsEntry(How):
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


class Compute(How):
    """How the work is run. Nothing here changes a byte of the results on one kind of machine."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU where the cluster has one")
    workers: int | None = Field(None, ge=1, description="extraction workers; null for one per core (or per GPU)")
    gpus_per_worker: float = Field(1.0, gt=0, le=1, description="share of a GPU that an extraction worker takes")
    shard_images: int = Field(16, ge=1, description="images per shard; a multiple of labels.extractor.batch_size")
    quarantine_limit: float = Field(0.01, ge=0, le=1, description="share of broken images beyond which a step fails")
    lost_worker_retries: int = Field(20, ge=0, description="times one shard is tried again after its machine was lost")
    error_retries: int = Field(1, ge=0, description="times one shard is tried again after an error in the work itself")
    train_workers: int = Field(1, ge=1, description="workers of one training run; they split its batch")
    train_cores: int | None = Field(None, ge=1, description="cores of one training worker; null for all of a machine")
    cluster_config: str | None = Field(None, description="file of `ray up`: what the cluster can grow to")
    lease_seconds: float = Field(60.0, gt=0, description="silence after which another run's lease is taken over")


class ExperimentEntry(How):
    """One cell of an experiment: everything but the grid."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="names the results file")
    seed: int = Field(0, ge=0, description="seed of sampling and clustering; added to the seeds of training")
    dataset: DatasetEntry
    labels: LabelsEntry = Field(default_factory=LabelsEntry)
    pretrain: PretrainEntry | None = Field(None, description="contrastive pre-training; null for none")
    finetune: FinetuneEntry | None = Field(None, description="fine-tuning and mIoU; null for none")
    compute: Compute = Compute()


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that is given twice: YAML itself lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_document(path: str | Path, overrides: list[str]) -> dict[str, Any]:
    """Read an experiment file and lay the command line's ``key=value`` pairs over it.

    Raises:
        InputError: no such file, not YAML, not a mapping, or an override that is not ``key=value``.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except FileNotFoundError:
        near = [found.name for found in sorted(path.parent.glob("*.y*ml"))] if path.parent.is_dir() else []
        hint = f"; there are {', '.join(near[:12])}" if near else ""
        raise InputError(f"experiment file {path} does not exist{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"experiment file {path} cannot be read: {error}") from None
    try:
        document = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise InputError(f"experiment file {path} is not YAML: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"experiment file {path} must hold a mapping of keys, got {type(document).__name__}")
    document.setdefault("name", path.stem)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise InputError(f"override {override!r} must be key=value, for example labels.images=100")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"override {override!r}: the value is not YAML: {error}") from None
        if key.startswith("grid."):
            document["grid"] = _with_grid_key(document.get("grid") or {}, key.removeprefix("grid."), value)
        else:
            set_key(document, key, value)
    return document


def _with_grid_key(grid: Any, key: str, value: Any) -> Any:
    """The grid with a key set: of a union of grids, in each of them. `expand` refuses what is not a grid."""
    if isinstance(grid, list):
        return [_with_grid_key(product, key, value) for product in grid]
    return {**grid, key: value} if isinstance(grid, dict) else grid


def set_key(document: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a dotted key in place, making the mappings on the way; a null on the way becomes a mapping.

    Raises:
        InputError: the key passes through a value that is not a mapping.
    """
    *path, last = dotted.split(".")
    place = document
    for depth, name in enumerate(path):
        inner = place.get(name)
        if inner is not None and not isinstance(inner, dict):
            raise InputError(f"key {dotted}: {'.'.join(path[: depth + 1])} is {inner!r}, not a mapping")
        place[name] = dict(inner or {})
        place = place[name]
    place[last] = value


def parse_entry(document: dict[str, Any]) -> ExperimentEntry:
    """Validate one cell's document (without its grid).

    Raises:
        InputError: one line per wrong key, each with the key, the value and what is allowed.
    """
    try:
        entry = ExperimentEntry.model_validate(document)
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
    return sorted(found | {"grid"})
