"""Laying one piece of configuration over another.

The model: a layer is a mapping, laid over what is below it mapping by mapping; a dotted key is a road through
mappings. Layers leave what they are laid over alone. The failure this guards against: a base that is changed by the
first of the cells that share it.
"""

from collections.abc import Mapping
from typing import Any

from workloads.errors import InputError


def laid_over(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """`layer` over `base`: mappings are joined, everything else is replaced."""
    result = dict(base)
    for name, value in layer.items():
        inner = result.get(name)
        result[name] = laid_over(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


def nested(layer: Mapping[str, Any]) -> dict[str, Any]:
    """The layer with its dotted keys written as mappings, later ones over earlier ones."""
    result: dict[str, Any] = {}
    for key, value in layer.items():
        inner: dict[str, Any] = {}
        set_key(inner, key, value)
        result = laid_over(result, inner)
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
