"""The report as one HTML file that loads nothing from elsewhere.

The model: Jinja templates with escaping always on, as names and errors come from users' files; the style sheet and the
few lines of script are part of the page, and its content security policy admits these two by their SHA-256 and pictures
as data, nothing else. Equal input gives the same bytes. The failure this guards against: a report that is only readable
where it was made, or that runs what somebody wrote into a file name.
"""

import base64
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.report.assembling import Report
from orchestrator.report.drawing import legend_mark
from orchestrator.report.tables import Entry, Heading


@dataclass(frozen=True)
class PlacedHeading:
    """A heading with the leaf column it begins at, the levels it takes, and whether it heads a single column."""

    heading: Heading
    column: int
    depth: int
    leaf: bool


@dataclass(frozen=True)
class IndexLine:
    """A report in the index."""

    name: str
    title: str
    started: str
    cells: int
    failed: int
    scores: list[Entry]


def render_report(report: Report) -> bytes:
    """The page of one experiment, UTF-8."""
    return _environment().get_template("report.html").render(report=report).encode()


def render_index(storage: str, lines: list[IndexLine]) -> bytes:
    """The page that lists the reports of a storage, UTF-8."""
    return _environment().get_template("index.html").render(storage=storage, lines=lines).encode()


def placed(levels: list[list[Heading]]) -> list[list[PlacedHeading]]:
    """The headings with their columns: those of upper levels that reach down push the lower ones to the right."""
    taken: list[set[int]] = [set() for _ in levels]
    found: list[list[PlacedHeading]] = []
    for number, level in enumerate(levels):
        line = []
        column = 0
        for heading in level:
            while column in taken[number]:
                column += 1
            depth = min(heading.depth, len(levels) - number)
            for below in taken[number : number + depth]:
                below.update(range(column, column + heading.span))
            leaf = heading.span == 1 and number + depth == len(levels)
            line.append(PlacedHeading(heading, column, depth, leaf))
        found.append(line)
    return found


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("orchestrator.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    # Charts are made by ElementTree, which has escaped what they hold.
    environment.filters |= {"placed": placed, "drawn": Markup, "mark": lambda style: Markup(legend_mark(style))}
    folder = resources.files("orchestrator.report") / "templates"
    for name, file in (("style", "style.css"), ("script", "page.js")):
        text = (folder / file).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        environment.globals |= {name: Markup(text), f"{name}_hash": f"sha256-{digest}"}
    return environment
