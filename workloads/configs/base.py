"""The type of everything that decides a result.

A `HashedConfig` is hashed into the key of the step that uses it, so equal ones give equal bytes. How a step is run
(workers, devices, hosts, paths) is never part of one. The failure this guards against: a path, a region or a worker
count leaking into the identity of a result, so that the same work is done twice, or different work is taken for equal.
"""

from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict

_OWNERS: dict[str, str] = {}
"""The class of each tag."""


class HashedConfig(BaseModel):
    """A frozen, strict piece of configuration that takes part in keys; unknown fields are errors.

    In keys it goes by its `tag`, which every class of this kind is given when it is defined
    (``class MyConfig(HashedConfig, tag="mine")``), belongs to that class alone and never changes: the class may be
    renamed and moved, and what was done is found again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)
    tag: ClassVar[str]

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
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    alternatives = get_args(kind) if get_origin(kind) in (Annotated, Union, UnionType) else ()
    return [model for alternative in alternatives for model in models_of(alternative)]
