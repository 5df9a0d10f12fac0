"""The type of everything that decides a result.

A `HashedConfig` is hashed into the key of the step that uses it, so equal ones give equal bytes. How a step is run
(workers, devices, hosts, paths) is never part of one. The failure this guards against: a path, a region or a worker
count leaking into the identity of a result, so that the same work is done twice, or different work is taken for equal.
"""

from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

from workloads.errors import InputError

LATER = "a field that came after keys were given"
"""Marks a field whose default does what was done before there was the field: keys stay, and work is found again."""

_OWNERS: dict[str, str] = {}
"""The class of each tag."""


class Config(BaseModel):
    """What all configuration has in common: it is frozen, and a key or value that is not known is an error.

    A number may stand where a text is meant (the name of a folder), but true and false are no numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)

    @model_validator(mode="before")
    @classmethod
    def _no_boolean_as_number(cls, data: Any) -> Any:
        for name, field in cls.model_fields.items() if isinstance(data, dict) else ():
            kinds = alternatives_of(field.annotation)
            if isinstance(data.get(name), bool) and bool not in kinds and {int, float} & set(kinds):
                raise InputError(key=name, value=data[name], allowed="give a number")
        return data


class HashedConfig(Config):
    """A frozen, strict piece of configuration that takes part in keys; unknown fields are errors.

    In keys it goes by its `tag`, which every class of this kind is given when it is defined
    (``class MyConfig(HashedConfig, tag="mine")``), belongs to that class alone and never changes: the class may be
    renamed and moved, and what was done is found again.
    """

    tag: ClassVar[str]

    def hashed(self) -> dict[str, Any]:
        """What takes part in keys, as plain values: all but the fields that came `LATER` and are at their default."""
        values = self.model_dump(mode="python")
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if LATER in field.metadata and value == field.get_default():
                del values[name]
            elif isinstance(value, HashedConfig):
                values[name] = value.hashed()
        return values

    def __init_subclass__(cls, *, tag: str, **options: Any) -> None:
        super().__init_subclass__(**options)
        name = f"{cls.__module__}.{cls.__qualname__}"
        if _OWNERS.setdefault(tag, name) != name:
            raise TypeError(f"tag {tag!r} of {name} is that of {_OWNERS[tag]}, too")
        cls.tag = tag

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        for name, field in cls.model_fields.items():
            if not all(issubclass(model, HashedConfig) for model in models_of(field.annotation)):
                raise TypeError(f"{cls.__name__}.{name}: only what is hashed, too, may be part of what is hashed")


def models_of(kind: Any) -> list[type[BaseModel]]:
    """The models among the alternatives of a type."""
    return [each for each in alternatives_of(kind) if isinstance(each, type) and issubclass(each, BaseModel)]


def alternatives_of(kind: Any) -> list[Any]:
    """The types that a value of this type may have, without marks."""
    match get_origin(kind):
        case origin if origin is Annotated:
            return alternatives_of(get_args(kind)[0])
        case origin if origin in (Union, UnionType):
            return [each for alternative in get_args(kind) for each in alternatives_of(alternative)]
        case _:
            return [kind]
