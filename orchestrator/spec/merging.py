"""Merging one piece of configuration into another, mapping by mapping; a dotted key is a road through mappings.

Merging leaves both pieces alone. The failure this guards against: a base that is changed by the first of the cells that
share it.
"""

from collections.abc import Mapping
from typing import Any

from workloads.errors import InputError


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the changes: mappings are joined, everything else is replaced."""
    result = dict(base)
    for name, value in changes.items():
        inner = result.get(name)
        result[name] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


def nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes with their dotted keys written as mappings, later ones over earlier ones."""
    result: dict[str, Any] = {}
    for key, value in changes.items():
        inner: dict[str, Any] = {}
        set_key(inner, key, value)
        result = merged(result, inner)
    return result


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
            passed = ".".join(path[: depth + 1])
            raise InputError(f"key {{key}}: {passed} is {inner!r}, not a mapping", key=dotted, value=inner)
        place[name] = dict(inner or {})
        place = place[name]
    place[last] = value
