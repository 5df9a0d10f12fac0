"""Data sets: pools of images, ground truth with one convention, and one configuration that says which.

The model: `DatasetConfig` says *what* is read and is hashed; the root folder says *where* and is not part of
it, so that the same data on another machine has the same keys. The failure this guards against: a path
leaking into the identity of a result.
"""

import logging
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args

from pydantic import Field

from workloads import plugins
from workloads.bucket_paths import BucketPath, absolute, any_path
from workloads.configs.base import HashedConfig
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
from workloads.plugins import loaded

_LOG = logging.getLogger("lookbeyond.plugins")


def _usable(found: dict[str, type[Dataset]]) -> Iterator[type[Dataset]]:
    """The plug-ins that say what they are; others are named and left out."""
    taken = {config.model_fields["name"].default for config in get_args(AnyDatasetConfig)}
    for name, one in found.items():
        config = getattr(one, "config_type", None)
        if not (isinstance(config, type) and issubclass(config, HashedConfig)):
            _LOG.warning("data set %r has no config_type that is a HashedConfig; it is left out", name)
        elif "name" not in config.model_fields or config.model_fields["name"].default != name or name in taken:
            _LOG.warning("data set %r is called otherwise in its configuration, or is built in; it is left out", name)
        else:
            yield one


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
"""The configurations of the data sets that are built in."""
_PLUGINS: dict[type, type[Dataset]] = {one.config_type: one for one in _usable(loaded(plugins.DATASETS_GROUP))}
_CONFIGS = (*get_args(AnyDatasetConfig), *_PLUGINS)
if TYPE_CHECKING:
    DatasetConfig = AnyDatasetConfig
else:
    DatasetConfig = Annotated[Union[_CONFIGS], Field(discriminator="name")]  # noqa: UP007 - of types found here
"""The type of a configuration's ``dataset`` field: ``name`` chooses, unknown options are errors."""
DATASETS: tuple[str, ...] = tuple(config.model_fields["name"].default for config in _CONFIGS)
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
    found = [config for config in _CONFIGS if config.model_fields["name"].default == name]
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
    opener: Callable[[Any, Any], Dataset] = _PLUGINS.get(type(config)) or _OPENERS[type(config)]
    return opener(place, config)


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
