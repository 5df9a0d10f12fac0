"""JSON files that say by themselves whether they are whole, and that are read into types.

A document ends in the SHA-256 of all that stands before it. Whatever a file holds, reading gives the type that was
written, or a `ValueError` of one line. The failures this guards against: a result with a changed digit, and a traceback
from a file that somebody else wrote.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from orchestrator.storage.store import Storage
from workloads.errors import InputError

FORMAT = 2

Read = TypeVar("Read")


def write_document(content: Mapping[str, Any]) -> bytes:
    """The content as JSON text with its seal."""
    text = json.dumps({"format": FORMAT, **content}, indent=1).encode()
    body = text.removesuffix(b"\n}")
    return body + _seal(body)


def read_document(data: bytes, adapter: TypeAdapter[Read]) -> Read:
    """What `write_document` wrote, as the type of the adapter.

    Raises:
        ValueError: the bytes are not a document, it was changed since, or does not hold such a type.
    """
    body = data[: -len(_seal(b""))]
    if data[len(body) :] != _seal(body):
        raise ValueError("its end is not its own SHA-256: it was changed, cut short or written by another version")
    return read_json(body + b"}", adapter)


def read_json(data: bytes, adapter: TypeAdapter[Read]) -> Read:
    """JSON text as the type of the adapter.

    Raises:
        ValueError: the bytes are not JSON, or do not hold such a type.
    """
    try:
        return adapter.validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None


def damaged(storage: Storage, path: str, error: Exception) -> InputError:
    """What is said of a file of the storage that cannot be used."""
    what = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
    return InputError(
        f"{storage.locate(path)} {what}; `lookbeyond verify {storage.uri} --repair` forgets it, so that `run` makes it "
        "again"
    )


def _seal(body: bytes) -> bytes:
    return f',\n "sha256": "{hashlib.sha256(body).hexdigest()}"\n}}'.encode()
