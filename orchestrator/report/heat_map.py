"""A figure of merit over two keys of the grid, as a field of colours with the values written into it."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.report.drawing import CHARACTER, WIDTH, add, new_svg, written
from workloads.formats import figure

_LEVELS = 8
_FIELD_HEIGHT, _TOP, _BELOW = 36, 28, 50


@dataclass(frozen=True)
class Field:
    """A measured place: its names down and across, mean and deviation, and what shows on hover."""

    down: str
    across: str
    value: float
    deviation: float | None
    hint: str


def heat_map(title: str, down: str, across: str, fields: Sequence[Field]) -> str:
    """The fields where they belong; a deeper colour is a higher value, and the highest is outlined."""
    rows = list(dict.fromkeys(field.down for field in fields))
    columns = list(dict.fromkeys(field.across for field in fields))
    base = _TOP + _FIELD_HEIGHT * len(rows)
    svg = new_svg(title, base + _BELOW)
    left = 14 + CHARACTER * max(map(len, rows))
    width = (WIDTH - left - 8) / len(columns)
    low, high = min(field.value for field in fields), max(field.value for field in fields)
    group = add(svg, "g", "")
    best = None
    for field in fields:
        x, y = left + width * columns.index(field.across), _TOP + _FIELD_HEIGHT * rows.index(field.down)
        level = round((_LEVELS - 1) * (field.value - low) / (high - low)) if high > low else 0
        shape = add(group, "rect", f"field heat-{level}", x=x, y=y, width=width, height=_FIELD_HEIGHT)
        add(shape, "title", "").text = field.hint
        place = y + (15 if field.deviation is not None else 22)
        text = add(group, "text", "middle", x=x + width / 2, y=place)
        text.text = figure(field.value, 1)
        if field.deviation is not None:
            add(group, "text", "tick middle", x=x + width / 2, y=place + 14).text = f"± {field.deviation:.1f}"
        if field.value == high and best is None:
            best = (x, y)
    if best is not None:
        add(group, "rect", "field-best", x=best[0], y=best[1], width=width, height=_FIELD_HEIGHT)
    for number, name in enumerate(rows):
        add(svg, "text", "tick end", x=left - 6, y=_TOP + _FIELD_HEIGHT * (number + 0.5) + 4).text = name
    for number, name in enumerate(columns):
        add(svg, "text", "tick middle", x=left + width * (number + 0.5), y=base + 17).text = name
    under = add(svg, "text", "label middle", x=left + (WIDTH - left - 8) / 2, y=base + 38)
    under.text = f"{across} \N{RIGHTWARDS ARROW}"
    add(svg, "text", "label", x=4, y=16).text = f"{down} \N{DOWNWARDS ARROW}"
    return written(svg)
