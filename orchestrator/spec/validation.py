"""Validation of what a user wrote, with errors that name keys as they are written."""

import difflib
from collections.abc import Sequence
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from orchestrator.spec.entries import keys_below, known_keys
from workloads.errors import GroupedInputError, InputError

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], data: Any, also_known: Sequence[str] = ()) -> Model:
    """The data as that model; a key that is misspelt may be meant to be one of `also_known`.

    Raises:
        InputError: one for every wrong key, each with the key, the value and what is allowed.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise GroupedInputError(_explained(detail, model, also_known) for detail in details) from None


def _explained(detail: Any, model: type[BaseModel], also_known: Sequence[str]) -> InputError:
    key, here = _key(detail, model)
    context = detail.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, InputError):
        return cause.below(key) if key else cause
    text = str(cause or detail["msg"])
    message, allowed = None, f"{text[0].lower()}{text[1:]}"
    match detail["type"]:
        case "extra_forbidden":
            known = known_keys(model)
            if key in known:
                allowed = f"{detail['loc'][-2]} has no such option"
            else:
                # Below a name that the user gives, as that of a pool, keys are known by what belongs there.
                beside = difflib.get_close_matches(str(detail["loc"][-1]), keys_below(here), n=1, cutoff=0.6)
                own = f"{str(key).rpartition('.')[0]}.{beside[0]}".lstrip(".") if beside else None
                near = own or _nearest(str(key), sorted({*known, *also_known}))
                message = "unknown key {key}" if key else f"unknown key {detail['loc'][-1]!r}"
                allowed = f"did you mean {near}?" if near else ""
        case "missing":
            message, allowed = "{key} is missing", ""
        case "union_tag_invalid":
            key = f"{key}.{context['discriminator']}".replace("'", "")
            message, allowed = f"{context['tag']!r} is not known", f"allowed: {context['expected_tags']}"
        case "model_type" | "model_attributes_type":
            allowed = f"give a mapping of keys: {', '.join(keys_below(here))}"
    return InputError(message, key=key, value=detail["input"], allowed=allowed)


def _key(detail: Any, model: type[BaseModel]) -> tuple[str | None, Any]:
    """The key that an error is about, as it is written, and the type of what belongs there.

    A part of pydantic's location that is no key at its place is what pydantic adds: the name of an inline field, the
    tag of an alternative, a type. Only a key that is not known may be the last.
    """
    kept: list[str] = []
    here: Any = model
    last = len(detail["loc"]) - 1
    for index, part in enumerate(detail["loc"]):
        inner = keys_below(here)
        if part in inner:
            here = inner[part]
        elif get_origin(here) is dict:
            here = get_args(here)[1]
        elif not isinstance(part, int) and not (index == last and detail["type"] == "extra_forbidden"):
            continue
        kept.append(str(part))
    return ".".join(kept) or None, here


def _nearest(key: str, known: list[str]) -> str | None:
    """The known key that is spelt most alike, or ends most alike: a key is often right but in the wrong place."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return near[0]
    ends = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    end = difflib.get_close_matches(key.rsplit(".", 1)[-1], ends, n=1, cutoff=0.6)
    return ends[end[0]] if end else None
