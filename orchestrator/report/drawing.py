"""Charts as inline SVG: lines over categories, lines over steps, and scatters.

The model: a chart is an SVG element whose colours are classes of the page's style sheet, so that it follows light and
dark and prints. Series differ in colour, dash and marker, so that colour alone says nothing; values stand beside their
points; every point names itself on hover. Sizes are in units of a 360 wide view box, which fills a phone's width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from xml.etree import ElementTree

Value = TypeVar("Value")

WIDTH, _HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 16, 58
CHARACTER = 6.6


@dataclass(frozen=True)
class Series:
    """A named line over categories; `style` picks colour, dash and marker. None where it has no value."""

    name: str
    style: str
    values: Sequence[float | None]
    deviations: Sequence[float | None] = ()
    hints: Sequence[str] = ()
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class Point:
    """A point of a scatter or of a line over steps; `text` stands beside it, `hint` shows on hover."""

    x: float
    y: float
    text: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Line:
    """A named line over steps; `style` picks colour, dash and marker."""

    name: str
    style: str
    points: Sequence[Point]


@dataclass
class _Frame:
    """The plotting area with its scales; draws axes and grid."""

    svg: ElementTree.Element
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float = _LEFT
    bottom: float = _BOTTOM
    y_ticks: list[float] = field(default_factory=list)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return round(self.left + (value - low) / (high - low) * (WIDTH - self.left - _RIGHT), 2)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return round(_HEIGHT - self.bottom - (value - low) / (high - low) * (_HEIGHT - _TOP - self.bottom), 2)

    def axes(self, x_label: str, y_label: str, x_ticks: Sequence[tuple[float, str]]) -> None:
        base = _HEIGHT - self.bottom
        for tick in self.y_ticks:
            add(self.svg, "line", "grid", x1=self.left, x2=WIDTH - _RIGHT, y1=self.y(tick), y2=self.y(tick))
            text = add(self.svg, "text", "tick end", x=self.left - 7, y=self.y(tick) + 4)
            text.text = _tick_text(tick, self.y_ticks)
        add(self.svg, "line", "axis", x1=self.left, x2=WIDTH - _RIGHT, y1=base, y2=base)
        for place, name in x_ticks:
            add(self.svg, "line", "axis", x1=self.x(place), x2=self.x(place), y1=base, y2=base + 4)
            for number, line in enumerate(name.split("\n")):
                add(self.svg, "text", "tick middle", x=self.x(place), y=base + 17 + 14 * number).text = line
        middle = (self.left + WIDTH - _RIGHT) / 2
        add(self.svg, "text", "label middle", x=middle, y=_HEIGHT - 8).text = x_label
        across = (_TOP + base) / 2
        turned = add(self.svg, "text", "label middle", x=13, y=across, transform=f"rotate(-90 13 {across})")
        turned.text = y_label


def category_chart(title: str, x_label: str, y_label: str, categories: Sequence[str], series: Sequence[Series]) -> str:
    """Lines over named places, equally far apart, with error bars and the values written beside the points."""
    svg = new_svg(title)
    reach = [
        value + sign * (_at(one.deviations, index) or 0.0)
        for one in series
        for index, value in enumerate(one.values)
        if value is not None
        for sign in (-1, 1)
    ]
    y_range, y_ticks = _scale(min(reach), max(reach), room=0.18)
    crowded = len(categories) > 1 and max(map(len, categories)) * CHARACTER > (WIDTH - _LEFT) / len(categories)
    names = [_folded(name) for name in categories] if crowded else list(categories)
    frame = _Frame(svg, (-0.5, len(categories) - 0.5), y_range, y_ticks=y_ticks)
    frame.bottom += 14 * max(name.count("\n") for name in names)
    frame.axes(x_label, y_label, list(enumerate(names)))
    for number, one in enumerate(series):
        group = add(svg, "g", f"series {one.style}")
        known = [(index, value) for index, value in enumerate(one.values) if value is not None]
        if len(known) > 1:
            points = " ".join(f"{frame.x(index)},{frame.y(value)}" for index, value in known)
            add(group, "polyline", "", points=points)
        for index, value in known:
            _error_bar(group, frame, index, value, _at(one.deviations, index))
            _marker(group, one.style, frame.x(index), frame.y(value), _at(one.hints, index) or one.name)
            above = _stands_above(series, number, index, value)
            gap = -9 if above else 18
            edge = (_at(one.deviations, index) or 0.0) * (1 if above else -1)
            text = add(group, "text", "value middle", x=frame.x(index), y=frame.y(value + edge) + gap)
            text.text = _at(one.texts, index) or f"{value:.1f}"
    return written(svg)


def step_chart(title: str, y_label: str, lines: Sequence[Line], y_range: tuple[float, float]) -> str:
    """Lines over training steps on one scale, each with its last value beside its end."""
    svg = new_svg(title)
    scale, ticks = _scale(*y_range, room=0.15)
    steps = [point.x for line in lines for point in line.points]
    first, last = min(steps), max(steps)
    span = (first, last) if last > first else (first - 1, last + 1)
    frame = _Frame(svg, span, scale, bottom=44, y_ticks=ticks)
    places = sorted({round(first + (last - first) * share) for share in (0, 0.25, 0.5, 0.75, 1)})
    frame.axes("training step", y_label, [(float(place), str(place)) for place in places])
    taken: list[float] = []
    for line in lines:
        group = add(svg, "g", f"series {line.style}")
        if len(line.points) > 1:
            add(group, "polyline", "", points=" ".join(f"{frame.x(p.x)},{frame.y(p.y)}" for p in line.points))
        # Markers on a long curve would hide it; its ends are enough.
        for point in line.points if len(line.points) <= 12 else [line.points[0], line.points[-1]]:
            _marker(group, line.style, frame.x(point.x), frame.y(point.y), f"{line.name}: {point.hint}")
        end = line.points[-1]
        place = frame.y(end.y) - 9
        # Lines that end beside each other would write over one another; their points name themselves on hover.
        if all(abs(place - other) > 13 for other in taken):
            taken.append(place)
            add(group, "text", "value end", x=frame.x(end.x), y=place).text = end.text
    return written(svg)


def scatter_chart(title: str, x_label: str, y_label: str, points: Sequence[Point]) -> str:
    """Points with their names beside them."""
    svg = new_svg(title)
    x_range, x_ticks = _scale(min(p.x for p in points), max(p.x for p in points), room=0.1)
    y_range, y_ticks = _scale(min(p.y for p in points), max(p.y for p in points), room=0.12)
    frame = _Frame(svg, x_range, y_range, bottom=44, y_ticks=y_ticks)
    frame.axes(x_label, y_label, [(tick, _tick_text(tick, x_ticks)) for tick in x_ticks])
    group = add(svg, "g", "series line-0")
    taken: list[tuple[float, float]] = []
    for point in points:
        x, y = frame.x(point.x), frame.y(point.y)
        _marker(group, "line-0", x, y, point.hint)
        side = _free_side(x, y, taken)
        taken.append((x, y))
        add(group, "text", f"value {side[0]}", x=x + side[1], y=y + side[2]).text = point.text
    return written(svg)


def _free_side(x: float, y: float, taken: list[tuple[float, float]]) -> tuple[str, float, float]:
    """Where a name stands beside a point: where no earlier point is near."""
    near = [(a - x, b - y) for a, b in taken if abs(a - x) < 22 and abs(b - y) < 16]
    sides = [("start", 8.0, 4.0), ("end", -8.0, 4.0), ("middle", 0.0, -9.0), ("middle", 0.0, 18.0)]
    return sides[len(near) % len(sides)]


def _stands_above(series: Sequence[Series], number: int, index: int, value: float) -> bool:
    """Whether a value is written above its point: away from the nearest other line, else away from its own."""
    others = [other for line in series if line is not series[number] if (other := line.values[index]) is not None]
    if others:
        nearest = min(others, key=lambda other: abs(other - value))
        return number == 0 if nearest == value else value > nearest
    neighbours = [_at(series[number].values, place) for place in (index - 1, index + 1) if place >= 0]
    known = [other for other in neighbours if other is not None]
    return not known or value >= sum(known) / len(known)


def _marker(group: ElementTree.Element, style: str, x: float, y: float, hint: str) -> None:
    shapes: dict[str, Callable[[], ElementTree.Element]] = {
        "circle": lambda: add(group, "circle", "marker", cx=x, cy=y, r=4),
        "square": lambda: add(group, "rect", "marker", x=x - 4, y=y - 4, width=8, height=8),
        "triangle": lambda: add(group, "path", "marker", d=f"M{x} {y - 5}L{x + 5} {y + 4}L{x - 5} {y + 4}Z"),
        "diamond": lambda: add(group, "path", "marker", d=f"M{x} {y - 5}L{x + 5} {y}L{x} {y + 5}L{x - 5} {y}Z"),
    }
    names = {"paper": "square", "line-1": "triangle", "line-2": "diamond", "line-3": "square", "line-5": "triangle"}
    add(shapes[names.get(style, "circle")](), "title", "").text = hint


def _error_bar(group: ElementTree.Element, frame: _Frame, place: float, value: float, deviation: float | None) -> None:
    if not deviation:
        return
    x, low, high = frame.x(place), frame.y(value - deviation), frame.y(value + deviation)
    path = f"M{x} {low}V{high}M{x - 4} {low}H{x + 4}M{x - 4} {high}H{x + 4}"
    add(group, "path", "bar", d=path)


def legend_mark(style: str) -> str:
    """The sample of a series for a legend: its line and its marker."""
    svg = ElementTree.Element(
        "svg", {"viewBox": "0 0 34 14", "class": "mark", "aria-hidden": "true", "width": "34", "height": "14"}
    )
    group = add(svg, "g", f"series {style}")
    add(group, "polyline", "", points="1,7 33,7")
    _marker(group, style, 17, 7, "")
    return written(svg)


def new_svg(title: str, height: float = _HEIGHT) -> ElementTree.Element:
    """An empty chart."""
    svg = ElementTree.Element("svg", {"viewBox": f"0 0 {WIDTH} {height:g}", "role": "img", "class": "chart"})
    add(svg, "title", "").text = title
    return svg


def add(parent: ElementTree.Element, tag: str, kind: str, **attributes: float | str) -> ElementTree.Element:
    """A new element in another one, of a class of the style sheet."""
    given = {name: value if isinstance(value, str) else f"{value:g}" for name, value in attributes.items()}
    return ElementTree.SubElement(parent, tag, ({"class": kind} if kind else {}) | given)


def written(svg: ElementTree.Element) -> str:
    """The chart as text."""
    return ElementTree.tostring(svg, encoding="unicode", short_empty_elements=False)


def _scale(low: float, high: float, *, room: float) -> tuple[tuple[float, float], list[float]]:
    """A range with some room at both ends, and round ticks inside it."""
    spread = high - low or abs(high) * 0.1 or 1.0
    low, high = low - room * spread, high + room * spread
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    ticks = [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]
    return (low, high), ticks


def _tick_text(tick: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else abs(tick) or 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    # A step of 2.5 or 0.25 needs one more.
    digits += 0 if abs(round(step, digits) - step) < 1e-9 * step else 1
    return f"{tick:.{digits}f}"


def _folded(name: str) -> str:
    """A long name in two lines."""
    middle = len(name) / 2
    spaces = [place for place, character in enumerate(name) if character == " "]
    if not spaces:
        return name
    cut = min(spaces, key=lambda place: abs(place - middle))
    return f"{name[:cut]}\n{name[cut + 1 :]}"


def _at(values: Sequence[Value], index: int) -> Value | None:
    return values[index] if index < len(values) else None
