"""Every field of the experiment file, given another value: a key changes where it decides a result, none where not.

The fields come from the schema, so a new one is tried with the others; one that no experiment here uses fails.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from orchestrator.planning.plan import make_plan
from orchestrator.spec.entries import Role, RuntimeConfig
from orchestrator.spec.experiment import ExperimentEntry, parse_entry
from orchestrator.spec.merging import nested, set_key
from orchestrator.spec.training import FinetuneEntry
from orchestrator.storage.store import Storage
from workloads.configs.base import models_of
from workloads.datasets.folder import FolderConfig
from workloads.errors import InputError

SCENES = {"name": "scenes", "num_train": 12, "num_val": 5}
CAMVID = {"name": "camvid", "root": "camvid"}
TRAINED_FEATURES = {"weights": "finetuned", "finetune": {"init": "file", "weights": "first.pth"}}
NETWORK = {"arch": "segmentor", "weights": "first.pth", "network": {"backbone": "resnet18"}}
PRETRAIN = {"recipe": "small", "init": "file", "weights": "first.pth"}
FINETUNE = {"recipe": "small", "fraction": 0.5}
POOLS = {pool: {"images": pool, "masks": f"{pool}annot"} for pool in ("train", "val")}
MASKS = {"name": "masks", "root": "camvid", "pools": POOLS, "classes": ["road", "sky"], "ignore": [11]}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "kmeans": {"dataset": SCENES},
    "kmeans of a number": {"dataset": SCENES, "labels.clustering": {"k": 7}, "labels.images": 8},
    "dbscan": {"dataset": SCENES, "labels.clustering": {"method": "dbscan"}, "labels.superpixels": None},
    "superpixel": {"dataset": SCENES, "labels.source": "superpixel", "pretrain": PRETRAIN},
    "pixel": {"dataset": SCENES, "labels.source": "pixel"},
    "network": {"dataset": SCENES, "labels.extractor": NETWORK, "compute.early_stopping": {}},
    "named weights": {
        "dataset": SCENES,
        "weights": {"backbone": "first.pth"},
        "labels.extractor": {"arch": "resnet18", "weights": "$backbone"},
    },
    "trained features": {
        "dataset": SCENES,
        "labels.extractor": TRAINED_FEATURES,
        "pretrain": PRETRAIN,
        "finetune": FINETUNE,
    },
    "contrast": {"dataset": SCENES, "pretrain": PRETRAIN | {"contrast": {"memory_per_label": 40}}},
    "moco": {"dataset": SCENES, "pretrain": PRETRAIN | {"objective": "moco"}},
    "pixpro": {"dataset": SCENES, "pretrain": PRETRAIN | {"objective": "pixpro"}, "finetune": FINETUNE},
    "finetune": {
        "dataset": SCENES,
        "finetune": {"recipe": "small", "init": "file", "weights": "first.pth", "number": 4},
    },
    "joint": {
        "dataset": SCENES,
        "finetune": FINETUNE,
        "joint": {"views": {}, "contrast": {"memory_per_label": 40}},
    },
    "camvid": {"dataset": CAMVID, "finetune": FINETUNE},
    "cityscapes": {"dataset": {"name": "cityscapes", "root": "cityscapes"}},
    "nyuv2": {"dataset": {"name": "nyuv2", "root": "nyuv2"}},
    "ade20k": {"dataset": {"name": "ade20k", "root": "ade20k"}},
    "masks": {"dataset": MASKS},
    "table": {"dataset": {"name": "table", "file": "data.csv", "classes": ["road", "sky"], "ignore": [11]}},
    "folder": {"dataset": {"name": "folder", "root": "folder", "num_classes": 3}},
}

# What no rule finds: other values of a field, each with what must change with it.
OTHERS: dict[str, list[dict[str, Any]]] = {
    "name": [{"name": "another"}],
    "dataset.name": [{"dataset": SCENES}, {"dataset": CAMVID}],
    "dataset.pool": [{"dataset.pool": "val"}, {"dataset.pool": "train"}],
    "dataset.val": [{"dataset.val": "train"}],
    "dataset.pools": [{"dataset.pools": {"train": POOLS["val"], "val": POOLS["val"]}}],
    "dataset.file": [{"dataset.file": "other.csv"}],
    "dataset.classes": [{"dataset.classes": {0: "sky", 1: "road"}}, {"dataset.classes": ["road", "sky", "car"]}],
    "dataset.ignore": [{"dataset.ignore": [12]}],
    "labels.extractor.layer": [{"labels.extractor.layer": "layer3"}],
    "labels.extractor.arch": [{"labels.extractor": {"arch": "resnet50", "weights": "first.pth"}}],
    "labels.extractor.network": [{"labels.extractor": {"arch": "resnet50", "weights": "first.pth", "network": None}}],
    "labels.extractor.finetune": [{"labels.extractor": {"arch": "filters"}}],
    "labels.clustering": [{"labels.clustering": {"k": 9}}],
    "labels.clustering.method": [{"labels.clustering": {"method": method}} for method in ("kmeans", "dbscan")],
    "finetune.pool": [{"finetune.pool": "val"}],
    "compute.max_cost": [{"compute.max_cost": 7.5}],
    "compute.cluster_config": [{"compute.cluster_config": "cluster.yaml"}],
    # The positives are those of the labels' source, and an extractor may see the labels of its own cell only.
    **{
        f"{part}.contrast.positives": [{"labels.source": "pixel", f"{part}.contrast": {"positives": "pixel"}}]
        for part in ("pretrain", "joint")
    },
    **{f"{part}.scores_at": [{f"{part}.scores_at": [0.5]}] for part in ("finetune", "labels.extractor.finetune")},
    **{
        f"labels.extractor.finetune.{name}": [{f"finetune.{name}": value, f"labels.extractor.finetune.{name}": value}]
        for name, value in (("pool", "val"), ("fraction", 0.25), ("among", 4))
    },
    # Epochs count where steps are not given.
    **{
        f"{part}.epochs_of": [{f"{part}.epochs_of": "pool", f"{part}.steps": None, f"{part}.epochs": 2}]
        for part in ("finetune", "labels.extractor.finetune")
    },
    **{
        f"{part}.base_size": [{f"{part}.base_size": 500, f"{part}.image_size": None}]
        for whole in ("finetune", "labels.extractor.finetune")
        for part in (f"{whole}.evaluation", f"{whole}.evaluation_multi_scale")
    },
    "labels.extractor.finetune.number": [{"finetune": FINETUNE | {"fraction": None, "number": 3}}],
}
# Places as they are in an experiment here: the same content elsewhere, and other content.
PLACES: dict[str, tuple[Any, Any, Any]] = {
    "dataset.root": ("camvid", "moved/camvid", "other/camvid"),
    "weights": tuple({"backbone": f"{name}.pth"} for name in ("first", "moved", "second")),
    **{
        f"{part}.weights": ("first.pth", "moved.pth", "second.pth")
        for part in ("labels.extractor", "labels.extractor.finetune", "pretrain", "finetune")
    },
}
# Fields of hashed types that decide nothing, and why.
WITHOUT_EFFECT = {("dataset.val", FolderConfig): "a plain folder has no ground truth to score against"}


class SchemaField(NamedTuple):
    """A field that may be written: its key, the model that has it, its type, and what it is to the keys of steps."""

    key: str
    owner: type[BaseModel]
    kind: Any
    role: Role


def schema(model: type[BaseModel], prefix: str = "") -> Iterator[SchemaField]:
    """Every field below a model; a section that may be null is a field itself, too."""
    for name, field in model.model_fields.items():
        inner = models_of(field.annotation)
        inline = Role.INLINE in field.metadata
        for section in inner:
            yield from schema(section, prefix if inline else f"{prefix}{name}.")
        if not inner or NoneType in get_args(field.annotation):
            said = next((mark for mark in field.metadata if isinstance(mark, Role)), None)
            runtime = issubclass(inner[0] if inner else model, RuntimeConfig)
            role = said or (Role.RUNTIME if runtime else Role.HASHED)
            yield SchemaField(prefix + name, model, field.annotation, role)


FIELDS = list(schema(ExperimentEntry))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of all data sets, and of weights: a plan looks at names, sizes and the bytes of weights alone."""
    folder = tmp_path_factory.mktemp("inputs")
    files = []
    for number in range(6):
        for pool, long in (("train", "training"), ("val", "validation")):
            files += [f"camvid/{pool}/{number}.png", f"camvid/{pool}annot/{number}.png", f"folder/{pool}/{number}.png"]
            frame = f"{pool}/bonn/bonn_000000_{number:06}"
            files += [
                f"cityscapes/leftImg8bit/{frame}_leftImg8bit.png",
                f"cityscapes/gtFine/{frame}_gtFine_labelIds.png",
            ]
            files += [f"ade20k/images/{long}/{number}.jpg", f"ade20k/annotations/{long}/{number}.png"]
            files += [f"nyuv2/images/{pool}{number}.jpg", f"nyuv2/segmentation/{pool}{number}.png"]
    for size, name in enumerate([*files, *(f"other/{name}" for name in files)]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(size))
    for name, first in (("data", 0), ("other", 1)):
        pools = [(pool, number) for pool in ("train", "val") for number in range(first, 6)]
        rows = (f"camvid/{pool}/{number}.png,camvid/{pool}annot/{number}.png,{pool}" for pool, number in pools)
        (folder / f"{name}.csv").write_text("\n".join(["image,mask,pool", *rows]))
    (folder / "nyuv2/gt_sets").mkdir()
    for pool in ("train", "val"):
        (folder / f"nyuv2/gt_sets/{pool}.txt").write_text("".join(f"{pool}{number}\n" for number in range(6)))
    shutil.copytree(folder / "camvid", folder / "moved/camvid")
    for name, content in (("first", b"first"), ("moved", b"first"), ("second", b"second")):
        (folder / f"{name}.pth").write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def _beside_the_inputs(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inputs)


def written(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The document of an experiment with other values; what is null or left out becomes a section on the way."""
    document = nested({"name": "test", **EXPERIMENTS[name]})
    for key, value in changes.items():
        set_key(document, key, value)
    return document


def keys(document: dict[str, Any]) -> dict[str, str]:
    """The keys of an experiment of one cell, by role. Raises InputError where it cannot be run."""
    (cell,) = make_plan(document, Storage("storage"), write_listings=False).cells
    return {role: step.key for role, step in cell.roles.items()}


@cache
def unchanged(name: str) -> tuple[ExperimentEntry, dict[str, str]]:
    """An experiment as it is, and its keys."""
    return parse_entry(written(name, {})), keys(written(name, {}))


def value_of(field: SchemaField, entry: ExperimentEntry) -> Any:
    """The value of a field in a cell. Raises LookupError where the cell has no such field."""
    found: Any = entry
    for name in field.key.split("."):
        owner = next((one for one in (found, getattr(found, "config", None)) if hasattr(one, name)), None)
        if owner is None:
            raise LookupError(field.key)
        found = getattr(owner, name)
    if not isinstance(owner, field.owner):
        raise LookupError(field.key)
    return found


def others(kind: Any, value: Any) -> list[Any]:
    """Values of a type beside the one that is there; not all of them need be allowed."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return [other for part in parts for other in others(part, value)]
    if origin is Literal:
        return [option for option in parts if option != value]
    if origin is tuple:
        before = list(value or [64] * len(parts))
        return [[32 + each for each in before], [each / 2 for each in before], [*before[:-1], before[-1] + 0.25]]
    number = value if isinstance(value, int | float) else 0
    found = {
        NoneType: [None] * (value is not None),
        bool: [not value],
        int: [number + 1, 2 * number, 8, 4],
        float: [number / 2, 2 * number, 0.25, 1.0],
    }
    return found.get(kind, [{}] * (value is None))


def same_keys(field: SchemaField, changes: Iterable[Mapping[str, Any]]) -> Iterator[bool]:
    """Whether keys stay what they are, for every experiment that has the field and each change that it allows."""
    for name in EXPERIMENTS:
        entry, before = unchanged(name)
        try:
            value = value_of(field, entry)
        except LookupError:
            continue
        if field.role is Role.PLACE and value != PLACES[field.key][0]:
            continue
        for change in changes or [{field.key: other} for other in others(field.kind, value)]:
            document = written(name, change)
            try:
                if field.key not in change or value_of(field, parse_entry(document)) != value:
                    after = keys(document)
                    # What an extractor's training sees changes the cell's own fine-tuning with it.
                    role = "extractor_finetune" if field.owner is FinetuneEntry and "extractor" in field.key else None
                    yield after == before if role is None else after.get(role) == before.get(role)
            except (InputError, LookupError):
                continue


def has_one_value(field: SchemaField) -> bool:
    """Whether there is nothing else to write."""
    return get_origin(field.kind) is Literal and len(get_args(field.kind)) == 1 and field.key not in OTHERS


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.key}-{field.owner.__name__}")
def test_another_value_changes_a_key_where_it_decides_a_result_and_none_where_not(field: SchemaField) -> None:
    if field.role is Role.PLACE:
        _, moved, other = PLACES[field.key]
        assert set(same_keys(field, [{field.key: moved}])) == {True}
        assert False in same_keys(field, [{field.key: other}])
    elif field.role is Role.HASHED and (field.key, field.owner) not in WITHOUT_EFFECT:
        assert False in same_keys(field, OTHERS.get(field.key, ())) or has_one_value(field)
    else:
        assert set(same_keys(field, OTHERS.get(field.key, ()))) == {True}


def test_classes_of_ones_own_masks_may_be_named_and_sorted_out_when_labels_have_been_seen() -> None:
    """Their names decide no key, and which values they stand for only those of what reads ground truth."""
    changes = {"finetune": FINETUNE, "pretrain": PRETRAIN, "labels.clustering": {"k": 5}}
    before = keys(written("masks", changes))
    assert before.keys() >= {"sample", "superpixels", "label", "score", "pretrain", "finetune"}
    assert keys(written("masks", changes | {"dataset.classes": ["Strasse", "Himmel"]})) == before
    after = keys(written("masks", changes | {"dataset.classes": {1: "sky"}, "dataset.ignore": [0, 11]}))
    assert {role for role, key in before.items() if after[role] != key} == {"score", "finetune"}
