"""What is being done, how far it is and how long it will take.

The model: one bar per kind of step, counted in images, where someone is looking at a terminal; a line per finished step
where the output is a log; nothing at all on standard output, which belongs to results.
"""

import sys
import time
from collections import Counter
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from workloads.formats import duration

# Below this many columns a whole bar has no room.
_NARROW = 76


def _columns(width: int) -> list[ProgressColumn]:
    """The parts of a bar: all of them, or what a narrow terminal has room for."""
    if width < _NARROW:
        return [TextColumn("{task.description:.11}"), MofNCompleteColumn()]
    return [
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=min(32, width - 68)),
        MofNCompleteColumn(),
        TextColumn("images"),
        TextColumn("{task.fields[rate]:>9}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
    ]


def plain_console(stream: TextIO | None = None) -> Console:
    """A console that shows text as it is: brackets in a name are no markup, and colons no pictures."""
    return Console(file=stream, highlight=False, markup=False, emoji=False)


class Progress:
    """Progress of a run, written to standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or plain_console(sys.stderr)
        self._bars = Bars(
            *_columns(self.console.width),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._steps_left: Counter[str] = Counter()
        self._begun = time.monotonic()

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def expect(self, title: str, images: int) -> None:
        """This many images are ahead for one more step of a title."""
        self._steps_left[title] += 1
        if title in self._tasks:
            task = self._bars.tasks[self._bars.task_ids.index(self._tasks[title])]
            self._bars.update(task.id, total=(task.total or 0) + images)
        else:
            self._tasks[title] = self._bars.add_task(title, total=images, rate="")

    def advance(self, title: str, images: int) -> None:
        """This many images are done."""
        identifier = self._tasks.get(title)
        if identifier is None:
            return
        self._bars.update(identifier, advance=images)
        task = self._bars.tasks[self._bars.task_ids.index(identifier)]
        if task.speed:
            self._bars.update(identifier, rate=f"{task.speed:.1f}/s")

    def finished(self, title: str) -> None:
        """A step is done; where no bars are shown, the last one of its title is worth a line."""
        self._steps_left[title] -= 1
        if not self._steps_left[title] and not self.console.is_terminal:
            self.say(f"{title}: done, {duration(time.monotonic() - self._begun)} after the start")

    def follow(self, title: str, share: float, loss: float, miou: float | None) -> None:
        """A training run has done this share of its steps, with this loss and (if known yet) this mIoU, in percent."""
        identifier = self._tasks.get(title)
        if identifier is not None:
            text = f"{share:.0%}, loss {loss:.3f}" + (f", mIoU {miou:.1f}" if miou is not None else "")
            self._bars.update(identifier, rate=text)

    def note(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, style="yellow", markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A plain line that stays."""
        self.console.print(text, markup=False, soft_wrap=True)
