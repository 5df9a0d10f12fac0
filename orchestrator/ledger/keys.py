"""Keys: what makes two pieces of work the same.

The model: a key is the SHA-256 of canonical JSON of what is computed, the keys of what it is computed from, and a
code version bumped by hand when the meaning of a step changes. The failures this guards against: a path, host or
worker count in a key (the same work done twice), and a value without a stable form in a key (different work taken for
the same).
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from workloads.configs.base import HashedConfig


def canonical(value: Any) -> Any:
    """The value as plain JSON types, with one form for every meaning.

    Accepts `HashedConfig`, mappings with string keys, lists, tuples, strings, booleans, integers, finite floats, None.
    A float that is a whole number and the integer are one value: YAML's ``1.0`` and ``1`` mean the same.

    Raises:
        TypeError: the value has no stable form (a set, a path, an arbitrary object, a NaN).
    """
    match value:
        case HashedConfig():
            return {"type": value.tag} | canonical(value.hashed())
        case None | bool() | str() | int():
            return value
        case float():
            if not math.isfinite(value):
                raise TypeError(f"{value!r} cannot be part of a key: not a finite number")
            return int(value) if value.is_integer() else value
        case Mapping():
            if not all(isinstance(name, str) for name in value):
                raise TypeError(f"a mapping in a key needs string keys, got {list(value)!r}")
            return {name: canonical(value[name]) for name in sorted(value)}
        case list() | tuple():
            return [canonical(item) for item in value]
        case _:
            raise TypeError(f"{type(value).__name__} cannot be part of a key: it has no stable form ({value!r})")


def canonical_json(value: Any) -> str:
    """The one JSON text of the value: sorted keys, no spaces, ASCII."""
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
