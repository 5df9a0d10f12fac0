"""What stands under an experiment's name when it is run again.

A run that computes nothing leaves the record of the run that did. Another experiment of the same name does not take
the place of the first: its results and pictures are kept under a name of their own.
"""

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from orchestrator.ledger.keys import digest
from orchestrator.ledger.layout import FIGURES, figure_path, gallery_path, results_path, stem
from orchestrator.planning.cells import StepNotDoneError
from orchestrator.planning.plan import Plan
from orchestrator.results.cells import CellResult, Results, experiment_names, read_results
from orchestrator.storage.store import Storage
from workloads.errors import InputError
from workloads.redaction import redacted

# What an experiment may be called and how it is run makes no other experiment of it.
_NO_CONTENT = ("compute", "title", "notes")


def former_results(storage: Storage, name: str) -> Results | None:
    """What stands under a name; None where nothing does, or nothing that can be read."""
    try:
        return read_results(storage, name)
    except InputError:
        return None


@contextmanager
def what_is_there_named(name: str, storage: Storage, words: Iterable[str]) -> Iterator[None]:
    """Where a step is not done, say with which other `key=value` words than these the results that are there were made.

    The words decide what a step is, so a command that leaves them out looks for another one.
    """
    try:
        yield
    except StepNotDoneError as error:
        former = former_results(storage, name)
        command = former.provenance.command if former is not None else []
        made = _deciding(command)
        if not command or set(made) == set(_deciding(words)):
            raise
        given = f"with {shlex.join(made)}: give the same here" if made else "without key=value words"
        raise InputError(f"{error}. The results of {name} that are there were made {given}") from None


def _deciding(words: Iterable[str]) -> list[str]:
    """The `key=value` words that decide what an experiment is."""
    keys = [(word, word.split("=")[0]) for word in words if "=" in word and not word.startswith("-")]
    return [word for word, key in keys if key.split(".")[0] not in _NO_CONTENT]


def keep_other(former: Results | None, plan: Plan, cells: Sequence[CellResult], storage: Storage) -> str | None:
    """Move results and pictures of another experiment of this name to a name of their own, and return that.

    An experiment that is extended, or run to another stage, is no other: all its cells are in the new one, or it is
    the same but for how it is run.
    """
    if former is None or _content(former.experiment) == _content(plan.document):
        return None
    steps = {frozenset(cell.steps.items()) for cell in cells}
    if all(frozenset(cell.steps.items()) in steps for cell in former.cells if cell.steps):
        return None
    kept = f"{plan.name}-{digest(_content(former.experiment))[:8]}"
    storage.replace(results_path(kept), former.to_bytes())
    moved = {path: figure_path(kept, part_of(path, plan.name)) for path in pictures_of(storage, plan.name)}
    moved |= {gallery_path(plan.name): gallery_path(kept)} if storage.exists(gallery_path(plan.name)) else {}
    for path, target in moved.items():
        storage.replace(target, storage.read(path))
        storage.delete(path)
    return kept


def part_of(path: str, name: str) -> str:
    """What a picture of an experiment shows: the rest of its name."""
    return stem(path).removeprefix(name).removeprefix("-")


def pictures_of(storage: Storage, name: str) -> list[str]:
    """The pictures of an experiment: those whose names begin with its name, and with no longer one of another."""
    names = {*experiment_names(storage), name}
    paths = [file.path for file in storage.files(FIGURES) if file.path.endswith(".png")]
    return [path for path in paths if _owner(stem(path), names) == name]


def _owner(picture: str, names: set[str]) -> str | None:
    owners = [name for name in names if picture == name or picture.startswith(f"{name}-")]
    return max(owners, key=len, default=None)


def _content(document: dict[str, Any]) -> dict[str, Any]:
    content = {key: value for key, value in document.items() if key not in _NO_CONTENT}
    # As results hold it.
    return dict(json.loads(redacted(json.dumps(content))))
