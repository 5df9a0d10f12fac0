"""Errors that are the user's to mend, apart from those that are ours.

The model: an `InputError` carries one sentence that names the key or file, the value found and what is allowed, so
that it can be printed as it is. A `BrokenImage` is one image that cannot be used: it goes to quarantine and the work
goes on.
"""


class InputError(ValueError):
    """The user's input is wrong; the message names what, the value found and what is allowed."""


class BrokenImage(InputError):  # noqa: N818 - the image is broken, which is no error of the program
    """One image that cannot be decoded or is unusable; the message begins with the image's id."""

    def __init__(self, image_id: str, reason: str) -> None:
        super().__init__(f"{image_id}: {reason}")
        self.image_id = image_id
        self.reason = reason

    def __reduce__(self) -> tuple[type["BrokenImage"], tuple[str, str]]:
        return type(self), (self.image_id, self.reason)
