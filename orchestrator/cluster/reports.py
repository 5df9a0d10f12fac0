"""What a training reports on its way, from Train's controller to the process that drives it.

The model: both run on one machine, and between them is a named pipe with one line of JSON for each report. The failures
this guards against: a training that waits for a driver that has gone; a last report that is lost because the training
ended right after it.

Tune's own way is an actor with a queue, which the driver asks five times a second. Where all cores train, that is felt:
a process that wakes up stops a thread that all the others then wait for.
"""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray.train import UserCallback

_END = "\n"


@contextmanager
def listening(folder: Path, tell: Callable[[dict[str, Any]], None]) -> Iterator[Path]:
    """A pipe in the folder; `tell` is called in a thread with each report that comes through it.

    At the end all that was sent has been told. What `tell` raises is raised there.
    """
    pipe = folder / "reports"
    os.mkfifo(pipe)
    # For writing as well: a pipe that nobody writes to would be at its end.
    number = os.open(pipe, os.O_RDWR)

    def listen() -> None:
        with os.fdopen(number, closefd=False) as lines:
            for line in lines:
                if line == _END:
                    return
                tell(json.loads(line))

    try:
        with ThreadPoolExecutor(1, "reports") as thread:
            heard = thread.submit(listen)
            try:
                yield pipe
            finally:
                # A pipe that is read no more may be full.
                if not heard.done():
                    os.write(number, _END.encode())
            heard.result()
    finally:
        os.close(number)


class PipeCallback(UserCallback):
    """Sends what the workers of a training report into the pipe; called by Train's controller."""

    def __init__(self, pipe: Path) -> None:
        self._pipe = pipe

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Send the report of rank 0."""
        self.send(metrics[0])

    def send(self, report: dict[str, Any]) -> None:
        """Send what is to be told."""
        # Where nobody listens any more the training is being ended, and must not wait for a listener.
        with suppress(OSError), os.fdopen(os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK), "w") as lines:
            lines.write(json.dumps(report) + "\n")
