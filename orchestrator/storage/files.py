"""What every kind of storage can do, as a folder and a bucket do it each in their own way."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import pyarrow as pa

Content: TypeAlias = bytes | pa.Buffer
# What is to stand in a file in place of what stands there; None to leave it alone.
Change: TypeAlias = Callable[[bytes], bytes | None]
# Makes a request for as long as it takes; see `retrying`.
Fetching: TypeAlias = Callable[[Callable[[], bytes]], bytes]


@dataclass(frozen=True)
class FileFacts:
    """A file of the storage: its path relative to the root, its size in bytes and when it was written (Unix time)."""

    path: str
    size: int
    modified: float


class Files(Protocol):
    """A tree of files. Absent files raise `FileNotFoundError`, all other trouble another `OSError`."""

    def is_there(self) -> bool:
        """Whether the tree has been written to."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is a file at the path."""
        ...

    def read(self, path: str) -> bytes:
        """The whole file."""
        ...

    def open(self, path: str, fetching: Fetching) -> pa.NativeFile:
        """A random-access file for reading; what is read later than now is read through `fetching`."""
        ...

    def replace(self, path: str, data: Content) -> None:
        """Write the file whole, in place of what may be there; durable."""
        ...

    def write_nondurable(self, path: str, data: Content) -> None:
        """Write the file whole, in place of what may be there; it may not survive a power cut."""
        ...

    def create(self, path: str, data: Content) -> bool:
        """Write the file whole if there is none; durable. False when there is one, perhaps by an earlier try."""
        ...

    def update(self, path: str, change: Change) -> bool:
        """Write what `change` makes of the file, unless somebody else removes or rewrites it in between; not durable.

        False when there is no file, or `change` leaves it alone.
        """
        ...

    def delete(self, path: str) -> None:
        """Remove the file if it is there."""
        ...

    def files(self, directory: str, *, deep: bool) -> Iterator[FileFacts]:
        """The files of a directory (none when it does not exist), or of the whole tree below it."""
        ...
