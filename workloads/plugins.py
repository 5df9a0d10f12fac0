"""What other packages add, found by Python's entry points: data sets, extractors, and backbones of networks.

A package names what it adds in its own pyproject.toml, and it is there as soon as the package is installed, on every
machine that computes. docs/extending.md shows one. A plug-in that cannot be imported is left out with a warning, and
the reason is said again where its name is used.
"""

import logging
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from workloads.errors import InputError

DATASETS_GROUP = "lookbeyond.datasets"
"""Subclasses of `workloads.datasets.base.Dataset` with a `config_type`, called with the root and the configuration."""
EXTRACTORS_GROUP = "lookbeyond.extractors"
"""Functions that give a network without weights and the name of its default layer."""
SEGMENTORS_GROUP = "lookbeyond.segmentors"
"""Backbones: modules that give `Stages`, with the `channels` of both stages."""

_LOG = logging.getLogger("lookbeyond.plugins")


@cache
def _found(group: str) -> dict[str, EntryPoint]:
    return {one.name: one for one in sorted(entry_points(group=group), key=lambda one: (one.name, one.value))}


def plugin_names(group: str) -> tuple[str, ...]:
    """The names that packages add to a group; nothing is imported."""
    return tuple(_found(group))


@cache
def plugin(group: str, name: str) -> Any:
    """What a package adds under a name.

    Raises
    ------
    InputError
        It cannot be imported.
    """
    entry = _found(group)[name]
    try:
        return entry.load()
    except Exception as error:  # whatever a foreign module raises
        package = entry.dist.name if entry.dist else entry.module
        raise InputError(
            f"plug-in {name!r} of package {package} ({entry.value}) cannot be loaded: {type(error).__name__}: {error}"
        ) from None


def loaded(group: str) -> dict[str, Any]:
    """All of a group that can be imported, by name."""
    found = {}
    for name in plugin_names(group):
        try:
            found[name] = plugin(group, name)
        except InputError as error:
            _LOG.warning("%s; it is left out", error)
    return found
