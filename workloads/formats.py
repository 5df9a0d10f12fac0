"""How numbers and places are written for people, wherever they are printed."""

from collections.abc import Iterable
from pathlib import Path

MINUS = "\N{MINUS SIGN}"


def figure(value: float, digits: int = 2) -> str:
    """A number with so many decimals, and with two significant digits where that would leave nothing of it."""
    if value and abs(value) < 10.0**-digits:
        return f"{value:.2g}"
    return f"{value:.{digits}f}"


def signed(value: float, digits: int = 1) -> str:
    """A difference: with its sign, zero without."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return f"{'+' if value > 0 else MINUS}{text}"


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days: ``1.2 s``, ``45 s``, ``3.4 min``, ``42 min``, ``7.5 h``, ``2.5 days``."""
    for length, unit, most in ((1, "s", 89.5), (60, "min", 89.5), (3600, "h", 47.5)):
        if seconds < most * length:
            return _two_digits(seconds / length, unit)
    return _two_digits(seconds / 86_400, "days")


def size(count: float) -> str:
    """Bytes in units of a thousand: ``512 B``, ``9.9 kB``, ``64 GB``."""
    if count < 999.5:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5:
            return _two_digits(count, unit)
    return f"{count / 1000:.1f} TB"


def counted(number: float, noun: str, plural: str = "") -> str:
    """A count and its noun: ``1 cell``, ``12 cells``, ``19 classes``."""
    return f"{number:g} {noun if number == 1 else plural or f'{noun}s'}"


def said_once(said: Iterable[tuple[str, str]], most: int = 3) -> list[str]:
    """Lines ``A; B; C and 33 more: what is wrong`` of pairs of who and what: one for each thing that is wrong."""
    who: dict[str, list[str]] = {}
    for name, what in said:
        who.setdefault(what, []).append(name)
    return [
        f"{'; '.join(names[:most])}{f' and {len(names) - most} more' if len(names) > most else ''}: {what}"
        for what, names in who.items()
    ]


def _two_digits(number: float, unit: str) -> str:
    return f"{number:.1f} {unit}" if number < 9.95 else f"{number:.0f} {unit}"


def from_here(place: str) -> str:
    """A path as it is called in the current folder, where it lies below it."""
    return place.removeprefix(f"{Path.cwd()}/")
