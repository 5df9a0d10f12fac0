"""Errors that are the user's to mend, apart from those that are ours.

An `InputError` carries what is wrong as fields: the key (of the experiment file, or of a part of it), the value found,
what is allowed, and a sentence; printed it is one line. Who knows more of the place adds it by a method. A
`BrokenImageError` is one image that cannot be used: it goes to quarantine and the work goes on.
"""

import copy
from collections.abc import Iterable
from typing import Any, Self

from workloads.redaction import redacted


class InputError(ValueError):
    """The user's input is wrong. Printed, it shows no credentials of a URL.

    Attributes
    ----------
    message
        What is wrong, in a sentence. The key comes before it, or where it says ``{key}``. Left out, it is that the
        value is not allowed.
    key
        Dotted key of what is wrong; None where the message says all.
    value
        What was found there.
    allowed
        What may stand there, in words, which follow the message.
    source
        What the key was read from, where that is not the experiment file itself.
    """

    def __init__(
        self, message: str | None = None, *, key: str | None = None, value: Any = None, allowed: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = f"{value!r} is not allowed" if message is None else message
        self.key, self.value, self.allowed = key, value, allowed
        self.source: str | None = None

    def __str__(self) -> str:
        text = f"{self.message}; {self.allowed}" if self.allowed else self.message
        if self.key is not None:
            text = text.replace("{key}", self.key) if "{key}" in text else f"{self.key}: {text}"
        return redacted(f"{self.source}: {text}" if self.source else text)

    @property
    def each(self) -> tuple["InputError", ...]:
        """The errors that are reported together: this one, or those of a group."""
        return (self,)

    def below(self, place: str) -> "InputError":
        """The same error with its key below that of a larger part; without a key, about that part itself."""
        return self.at(f"{place}.{self.key}" if self.key else place)

    def at(self, key: str) -> Self:
        """The same error about another key."""
        return self._with(key=key)

    def read_from(self, source: str) -> "InputError":
        """The same error with what its key was read from, unless it says so already."""
        return self if self.source else self._with(source=source)

    def _with(self, **fields: str) -> Self:
        made = copy.copy(self)
        vars(made).update(fields)
        return made


class GroupedInputError(InputError):
    """Several things are wrong; `each` is an error by itself, printed on a line of its own. Equal ones are one."""

    def __init__(self, errors: Iterable[InputError]) -> None:
        self._each = tuple({str(each): each for error in errors for each in error.each}.values())
        super().__init__("\n".join(map(str, self._each)))

    @property
    def each(self) -> tuple[InputError, ...]:
        """The errors, at least one."""
        return self._each

    def below(self, place: str) -> InputError:
        """See `InputError.below`."""
        return GroupedInputError(error.below(place) for error in self._each)

    def read_from(self, source: str) -> InputError:
        """See `InputError.read_from`."""
        return GroupedInputError(error.read_from(source) for error in self._each)

    def __reduce__(self) -> tuple[type["GroupedInputError"], tuple[tuple[InputError, ...]]]:
        return type(self), (self._each,)


class BrokenImageError(InputError):
    """One image that cannot be decoded or is unusable; the message begins with the image's id."""

    def __init__(self, image_id: str, reason: str) -> None:
        super().__init__(f"{image_id}: {reason}")
        self.image_id = image_id
        self.reason = reason

    def __reduce__(self) -> tuple[type["BrokenImageError"], tuple[str, str]]:
        return type(self), (self.image_id, self.reason)
