"""What is being done, how far it is and how long it will take.

The model: one bar for the whole run with a time to its end, and one per kind of step, where someone is looking at a
terminal; a line per finished kind where the output is a log; nothing at all on standard output, which belongs to
results. The time to the end is what the plan reckons for what is left, at the speed that was seen so far: the more was
done, the less the plan's own idea of this machine counts.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from workloads.formats import duration

# Below this many columns there are short bars, and no units.
_NARROW = 90
# What was seen counts as much as what was reckoned after this share of the whole.
_TRUSTED_SHARE = 0.05


class _Note(ProgressColumn):
    """What else is to be said of a line; it may change while nothing moves."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """The note, or what it is now."""
        note = task.fields["note"]
        return Text(note() if callable(note) else note, no_wrap=True, overflow="ellipsis")


def _columns(width: int) -> list[ProgressColumn]:
    """The parts of a line: what, how far as a bar and in figures, and a note that takes what is left."""
    narrow = width < _NARROW
    return [
        TextColumn("{task.description}", table_column=Column(width=15, no_wrap=True)),
        BarColumn(bar_width=8 if narrow else 24),
        TextColumn("{task.fields[count]}", justify="right", table_column=Column(width=9 if narrow else 16)),
        _Note(table_column=Column(no_wrap=True)),
    ]


def plain_console(stream: TextIO | None = None) -> Console:
    """A console that shows text as it is: brackets in a name are no markup, and colons no pictures."""
    return Console(file=stream, highlight=False, markup=False, emoji=False)


@dataclass(frozen=True)
class Ahead:
    """What a run has before it under one title: so many units (images, or trainings), of which some are done."""

    title: str
    units: float
    done: float = 0.0
    trains: bool = False


@dataclass
class _Bar:
    """How far one title is; `before` is what was done when the run began."""

    task: TaskID
    units: float
    done: float = 0.0
    trains: bool = False
    before: float = 0.0
    # Of trainings that are on their way, by name: the share of each that is done.
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> float:
        """Units that are done, parts of trainings included."""
        return min(self.done + sum(self.shares.values()), self.units)

    @property
    def share(self) -> float:
        """Of what this run had before it."""
        left = self.units - self.before
        return (self.reached - self.before) / left if left > 0 else 1.0


class Progress:
    """Progress of a run, written to standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or plain_console(sys.stderr)
        self._narrow = self.console.width < _NARROW
        self._bars = Bars(*_columns(self.console.width), console=self.console, disable=not self.console.is_terminal)
        self._known: dict[str, _Bar] = {}
        self._told: set[str] = set()
        self._noted: set[str] = set()
        self._whole: TaskID | None = None
        self._waiting: TaskID | None = None
        self._seconds: dict[str, float] = {}
        self._is_guess = False
        self._width = 1.0
        self._steps_left: Counter[str] = Counter()
        self._begun = time.monotonic()
        self._moving: float | None = None

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waited()
        self._show_whole()
        self._bars.stop()

    @property
    def is_shown(self) -> bool:
        """Whether somebody is looking at bars."""
        return self.console.is_terminal

    def ahead(self, titles: Iterable[Ahead]) -> None:
        """All that the run has before it; what `expect` says of these titles adds nothing."""
        for one in titles:
            self._told.add(one.title)
            self._known[one.title] = _Bar(self._add(one.title, one.units), one.units, one.done, one.trains, one.done)
            self._show(one.title)
        if len(self._known) > 1:
            self._whole = self._add("all", 1.0)
            self._bars.update(self._whole, note=self._times)

    def reckoned(self, seconds: Mapping[str, float], width: float, *, is_guess: bool = False) -> None:
        """Core-seconds that the plan reckons for each title, and how many cores work on them.

        What `is_guess` is said to be one until enough was seen.
        """
        self._is_guess = is_guess
        self._width = max(width, 1.0)
        self._seconds = dict(seconds)
        self._show_whole()

    def wait(self, what: str, more: str) -> None:
        """What is waited for until something moves: two or three words, and more about it."""
        if not self.is_shown:
            self.say(f"{what}: {more}")
            return
        self._waited()
        self._waiting = self._bars.add_task(what, total=None, count="", note=more)

    def expect(self, title: str, images: int) -> None:
        """This many images are ahead for one more step of a title."""
        self._steps_left[title] += 1
        if title in self._told:
            return
        if title not in self._known:
            self._known[title] = _Bar(self._add(title, images), 0.0)
        self._known[title].units += images
        self._show(title)

    def advance(self, title: str, images: int) -> None:
        """This many images are done; of a title of trainings, one of them."""
        bar = self._known.get(title)
        if bar is None:
            return
        self._moved()
        # A step may be declared finished before its last piece is told.
        bar.done = min(bar.done + (1 if bar.trains else images), bar.units)
        if bar.shares:
            # The training that ends is the farthest.
            del bar.shares[max(bar.shares, key=lambda name: bar.shares[name])]
        self._show(title)
        if not bar.trains and (speed := self._bars.tasks[self._bars.task_ids.index(bar.task)].speed):
            self._bars.update(bar.task, note=f"{speed:.1f}/s")

    def finished(self, title: str) -> None:
        """A step is done; where no bars are shown, the last one of its title is worth a line."""
        self._steps_left[title] -= 1
        if self._steps_left[title]:
            return
        if not self.is_shown:
            self.say(f"{title}: done, {duration(time.monotonic() - self._begun)} after the start")
        elif (bar := self._known.get(title)) is not None:
            bar.done, bar.shares = bar.units, {}
            self._show(title)

    def follow(self, title: str, share: float, loss: float, miou: float | None, training: str = "") -> None:
        """A training has done this share of its steps, with this loss and (if known yet) this mIoU, in percent.

        `training` tells it from others of its title that run beside it.
        """
        bar = self._known.get(title)
        if bar is None:
            return
        self._moved()
        bar.shares[training] = min(share, 1.0)
        loss_and_miou = f"loss {loss:.3f}" + (f", mIoU {miou:.1f}" if miou is not None else "")
        self._bars.update(bar.task, note=f"{share:.0%}, {loss_and_miou}")
        self._show(title)

    def note(self, text: str) -> None:
        """A line that stays; what was said is not said again."""
        if text in self._noted:
            return
        self._noted.add(text)
        self.console.print(text, style="yellow", markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A plain line that stays."""
        self.console.print(text, markup=False, soft_wrap=True)

    def _add(self, title: str, total: float) -> TaskID:
        # What is waited for, and the whole, stay below.
        return self._bars.add_task(title, total=total or None, count="", note="")

    def _show(self, title: str) -> None:
        bar = self._known[title]
        unit = "" if self._narrow else " trained" if bar.trains else " images"
        self._bars.update(
            bar.task, total=bar.units, completed=bar.reached, count=f"{bar.done:.0f}/{bar.units:.0f}{unit}"
        )
        self._show_whole()

    def _show_whole(self) -> None:
        if self._whole is not None:
            share = self._share()
            self._bars.update(self._whole, completed=share, count=f"{share:.0%}")

    def _share(self) -> float:
        """Of all work, by the seconds that are reckoned for each title; until they are, all titles count alike."""
        weights = self._seconds if sum(self._seconds.values()) > 0 else dict.fromkeys(self._known, 1.0)
        whole = sum(weights.get(title, 0.0) for title in self._known)
        done = sum(weights.get(title, 0.0) * bar.share for title, bar in self._known.items())
        return done / whole if whole else 1.0

    def _times(self) -> str:
        """How long it has taken, and how long it will."""
        so_far = duration(time.monotonic() - self._begun)
        left = self.seconds_left()
        if left is None:
            return f"{so_far} so far"
        is_guess = self._is_guess and self._share() < _TRUSTED_SHARE
        if self._narrow:
            return f"{so_far}; ~{duration(left)}{'?' if is_guess else ''} to go"
        return f"{so_far} so far, {'by a guess' if is_guess else 'about'} {duration(left)} to go"

    def seconds_left(self) -> float | None:
        """On the clock, to the end: what is reckoned for the rest, at the speed that was reckoned and the speed that
        was seen, of which the latter counts the more the longer it was seen; None until anything was reckoned.
        """
        whole = sum(self._seconds.get(title, 0.0) for title in self._known)
        if not whole:
            return None
        done = self._share() * whole
        seen = time.monotonic() - self._moving if self._moving is not None else 0.0
        # Core-seconds a second.
        trusted = _TRUSTED_SHARE * whole / self._width
        speed = (self._width * trusted + done) / (trusted + seen)
        return (whole - done) / speed

    def _moved(self) -> None:
        if self._moving is None:
            self._moving = time.monotonic()
        self._waited()

    def _waited(self) -> None:
        if self._waiting is not None:
            self._bars.remove_task(self._waiting)
            self._waiting = None
