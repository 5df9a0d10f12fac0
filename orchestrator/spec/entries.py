"""The types of the sections of an experiment file: hashed or not is a matter of type.

What decides a result is in a `HashedConfig` (`workloads.configs.base`), what does not is in a `RuntimeConfig`. An
`Entry` holds both, as they are written together, and every field of its own says by its type which it is. The failure
this guards against: an option that decides a result and that no key knows of.
"""

from enum import Enum
from types import NoneType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import model_validator

from workloads.configs.base import Config, HashedConfig, alternatives_of, models_of

Option = TypeVar("Option")


class Role(Enum):
    """What a field is to the keys of steps."""

    HASHED = "it decides a result: its value, or what it selects, is part of keys"
    PLACE = "it says where something lies: the content is part of keys, the place is not"
    RUNTIME = "it decides no result and is part of no key"
    INLINE = "its keys are written beside those of the section that holds it"


Hashed = Annotated[Option, Role.HASHED]
Place = Annotated[Option, Role.PLACE]
Runtime = Annotated[Option, Role.RUNTIME]
Inline = Annotated[Option, Role.INLINE]


class RuntimeConfig(Config):
    """A piece of configuration that does not decide a result and is never part of a key."""


class Entry(Config):
    """A section of the experiment file. A field is a section, a `HashedConfig` or a `RuntimeConfig` (or null), or is
    marked `Hashed`, `Place` or `Runtime`; any other is refused when the class is defined.
    """

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        for name, field in cls.model_fields.items():
            models = models_of(field.annotation)
            typed = models and all(issubclass(model, HashedConfig | RuntimeConfig | Entry) for model in models)
            if not typed and not {Role.HASHED, Role.PLACE, Role.RUNTIME} & set(_marks(field.metadata)):
                raise TypeError(f"{cls.__name__}.{name} does not say by its type whether it decides a result")

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        """What is written beside the section's own keys belongs to its inline field."""
        inline = next((name for name, field in cls.model_fields.items() if Role.INLINE in _marks(field.metadata)), None)
        if inline is None or not isinstance(data, dict):
            return data
        own = cls.model_fields.keys() - {inline}
        inner = {name: value for name, value in data.items() if name not in own}
        return {name: value for name, value in data.items() if name in own} | {inline: inner}


def keys_below(kind: Any) -> dict[str, Any]:
    """The keys that may be written below a place of this type, with the types of their values.

    Of alternatives these are the keys of them all; those of an inline field stand in its place.
    """
    found: dict[str, Any] = {}
    for model in models_of(kind):
        for name, field in model.model_fields.items():
            inline = Role.INLINE in _marks(field.metadata)
            for key, inner in (keys_below(field.annotation) if inline else {name: field.annotation}).items():
                found[key] = Union[found[key], inner] if key in found else inner  # noqa: UP007 - of types made here
    return found


def known_keys(kind: Any) -> list[str]:
    """Every dotted key that may be written below a place of this type, a section before what is in it."""
    return [
        key
        for name, inner in keys_below(kind).items()
        for key in (name, *(f"{name}.{below}" for below in known_keys(inner)))
    ]


def is_text(kind: Any, key: str) -> bool:
    """Whether what is written at a dotted key below a place of this type is a text, or null."""
    for name in key.split("."):
        inner = keys_below(kind)
        if name not in inner and get_origin(kind) is not dict:
            return False
        kind = inner[name] if name in inner else get_args(kind)[1]
    return {str} <= set(alternatives_of(kind)) <= {str, NoneType}


def _marks(metadata: list[Any]) -> list[Role]:
    return [mark for mark in metadata if isinstance(mark, Role)]
