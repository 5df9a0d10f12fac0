"""Standard output and error that never change what a command does, nor its exit code.

A reader that goes away (`| head`), a full disk behind a redirection, a terminal that is closed, a letter that the
terminal cannot show: the work goes on, and the exit code is that of the work.
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from workloads.redaction import redacted

# Gone with its reader, which needs no word about it.
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)


@contextlib.contextmanager
def lenient_streams() -> Iterator[None]:
    """Standard output and error for as long as a command runs."""
    _keep_descriptors_taken()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_lenient(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _keep_descriptors_taken() -> None:
    """A closed standard stream would be given to the next file that is opened, and printed into."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _lenient(stream: TextIO | None) -> Any:
    """The stream that forgives; one to nowhere where it was closed before the command started."""
    if stream is None:
        return io.StringIO()
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return _Lenient(stream)


class _Lenient:
    """Writes to a stream until that fails, and then to nowhere; never credentials of a URL."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = False

    def write(self, text: str) -> int:
        """Write it, if it can be."""
        if not self._lost:
            with self._forgiving():
                self._stream.write(redacted(text))
        return len(text)

    def flush(self) -> None:
        """Flush it, if it can be."""
        if not self._lost:
            with self._forgiving():
                self._stream.flush()

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            self._lost = True
            # What is still in its buffer must not fail again when Python ends.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if isinstance(error, OSError) and error.errno not in _GONE and self is not sys.stderr:
                print(f"lookbeyond: what is printed is lost: {error.strerror}", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
