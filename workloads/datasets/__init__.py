"""Data sets: pools of images, ground truth with one convention, and one configuration that says which.

The model: `DatasetConfig` says *what* is read and is hashed; the root folder says *where* and is not part of
it, so that the same data on another machine has the same keys. The failure this guards against: a path
leaking into the identity of a result.
"""

import os
from collections.abc import Callable
from typing import Annotated, Any, get_args

from pydantic import Field

from workloads.bucket_paths import BucketPath, absolute, any_path
from workloads.datasets.ade20k import Ade20k, Ade20kConfig
from workloads.datasets.base import Dataset, ImageEntry, Picture
from workloads.datasets.camvid import Camvid, CamvidConfig
from workloads.datasets.cityscapes import Cityscapes, CityscapesConfig, environment_hint
from workloads.datasets.folder import Folder, FolderConfig
from workloads.datasets.masks import Masks, MasksConfig
from workloads.datasets.nyuv2 import Nyuv2Config, open_nyuv2
from workloads.datasets.order import seeded_order
from workloads.datasets.scenes import Scenes, ScenesConfig
from workloads.datasets.survey import Survey, survey
from workloads.datasets.table import Table, TableConfig
from workloads.errors import InputError
from workloads.ignored import IGNORE_CLASS

AnyDatasetConfig = (
    CamvidConfig
    | CityscapesConfig
    | Nyuv2Config
    | Ade20kConfig
    | FolderConfig
    | MasksConfig
    | TableConfig
    | ScenesConfig
)
DatasetConfig = Annotated[AnyDatasetConfig, Field(discriminator="name")]
"""The type of a configuration's ``dataset`` field: ``name`` chooses, unknown options are errors."""
DATASETS: tuple[str, ...] = tuple(config.model_fields["name"].default for config in get_args(AnyDatasetConfig))
"""The names of all data sets."""

__all__ = [
    "DATASETS",
    "IGNORE_CLASS",
    "AnyDatasetConfig",
    "Dataset",
    "DatasetConfig",
    "ImageEntry",
    "Picture",
    "Survey",
    "absolute_root",
    "dataset_options",
    "open_dataset",
    "seeded_order",
    "survey",
]


def dataset_options(name: Any) -> tuple[str, ...]:
    """The options of a data set beside its name; none for a name that is not known."""
    found = [config for config in get_args(AnyDatasetConfig) if config.model_fields["name"].default == name]
    return tuple(option for config in found for option in config.model_fields if option != "name")


def open_dataset(config: AnyDatasetConfig, root: str | os.PathLike[str] | None) -> Dataset:
    """The data set that ``config`` names, read from the folder ``root``.

    Args:
        config: one member of `DatasetConfig`.
        root: the data set's folder; None for generated scenes.

    Raises:
        InputError: ``root`` is missing, not wanted, or does not hold the data set's layout.
    """
    if isinstance(config, ScenesConfig):
        if root is not None:
            raise InputError(f"{os.fspath(root)!r} given, but scenes are generated; leave it out", key="dataset.root")
        return Scenes(config)
    if root is None and isinstance(config, TableConfig):
        root = "."
    if root is None:
        hint = environment_hint() if isinstance(config, CityscapesConfig) else ""
        raise InputError(
            "is missing",
            key="dataset.root",
            allowed=f"give {_ROOTS.get(config.name, 'the folder of the data set')}{hint}",
        )
    place = any_path(os.fspath(root), "dataset.root")
    if isinstance(place, BucketPath) and not isinstance(config, _IN_BUCKETS):
        raise InputError(
            f"{place} is in a bucket, and {config.name} is read from a folder of this machine",
            key="dataset.root",
            value=str(root),
            allowed="described as masks, folder or table, images and masks are read from buckets",
        )
    return _OPENERS[type(config)](place, config)


def absolute_root(config: AnyDatasetConfig, root: str | None) -> str | None:
    """The data set's root for a process in another folder; a table's is the current folder where none is given."""
    if root is None and isinstance(config, TableConfig):
        root = "."
    return None if root is None else absolute(root, "dataset.root")


_ROOTS = {"folder": "the folder of the images", "masks": "the folder that images and masks lie below"}
_IN_BUCKETS = (FolderConfig, MasksConfig, TableConfig)
_OPENERS: dict[type, Callable[[Any, Any], Dataset]] = {
    CamvidConfig: lambda root, config: Camvid(root),
    CityscapesConfig: lambda root, config: Cityscapes(root),
    Nyuv2Config: lambda root, config: open_nyuv2(root),
    Ade20kConfig: lambda root, config: Ade20k(root),
    FolderConfig: lambda root, config: Folder(root, config.num_classes, config.sixteen_bit),
    MasksConfig: Masks,
    TableConfig: Table,
}
