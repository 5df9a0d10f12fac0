"""Reading an experiment back from a storage: its results file, the manifests behind it and the training histories.

The model: the results file says which cells there are and which steps they rest on; the manifests say what those steps
computed, where and at what cost. A manifest that is gone or damaged takes its provenance with it, not the report, and
the report says so. The failure this guards against: a report that can only be made while the cluster still stands.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from orchestrator.ledger.layout import STEPS, stem
from orchestrator.ledger.manifests import Manifest, read_manifest
from orchestrator.ledger.training_states import read_history
from orchestrator.results.cells import CellResult, Run, Status, read_results
from orchestrator.storage.store import Storage
from workloads.formats import counted


@dataclass(frozen=True)
class Experiment:
    """All that a storage knows of one experiment.

    `manifests` and `histories` are by step key; `problems` are sentences about what could not be read, `doubts` about
    what makes figures doubtful.
    """

    name: str
    storage: str
    document: dict[str, Any]
    cells: list[CellResult]
    run: Run
    manifests: dict[str, Manifest]
    histories: dict[str, list[dict[str, float]]]
    problems: list[str]
    doubts: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What the experiment file calls it, or its name."""
        return str(self.document.get("title") or self.name)

    @property
    def layout(self) -> str | None:
        """Which table of the paper the cells are laid out as."""
        layout = self.document.get("layout")
        return None if layout is None else str(layout)

    @property
    def size(self) -> str | None:
        """At which of its sizes the experiment was run; None where it has none."""
        size = self.document.get("size")
        return None if size is None else str(size)

    @property
    def counts(self) -> dict[str, int]:
        """How many cells ended how; done, cached and failed are always named."""
        always = (Status.DONE, Status.CACHED, Status.FAILED)
        found = Counter(cell.status for cell in self.cells)
        return {status.value: found[status] for status in Status if status in always or found[status]}


def read_experiment(storage: Storage, name: str) -> Experiment:
    """Read the results of an experiment and everything they rest on.

    Raises:
        InputError: there are no such results, or the file does not hold results.
    """
    results = read_results(storage, name)
    keys = list(dict.fromkeys(key for cell in results.cells for key in cell.steps.values()))
    finished = {key for cell in results.cells if cell.status.whole for key in cell.steps.values()}
    manifests, problems = _read_manifests(storage, keys, finished)
    trained = [key for key, manifest in manifests.items() if manifest.kind in ("pretrain", "finetune")]
    histories = {key: history for key in trained if (history := _history(storage, key))}
    return Experiment(
        name=name,
        storage=storage.uri,
        document=results.experiment,
        cells=results.cells,
        run=results.provenance,
        manifests=manifests,
        histories=histories,
        problems=problems,
        doubts=results.doubts,
    )


def _read_manifests(storage: Storage, keys: list[str], finished: set[str]) -> tuple[dict[str, Manifest], list[str]]:
    """The manifests of the keys that have one; sentences about those that should be there and are not."""
    # One listing, whatever the roles are called: a manifest is found by its key alone.
    places = {stem(file.path): file.path for file in storage.files(STEPS, deep=True)}
    manifests: dict[str, Manifest] = {}
    problems = []
    gone = [key for key in keys if key in finished and key not in places]
    if gone:
        named = ", ".join(key[:12] for key in gone[:5]) + (" …" if len(gone) > 5 else "")
        problems.append(f"{len(gone)} of {len(finished)} manifests are no longer on the storage: {named}")
    damaged: dict[str, list[str]] = {}
    there = [key for key in keys if key in places]
    for key, data in zip(there, storage.each(lambda key: storage.find(places[key]), there), strict=True):
        try:
            manifests[key] = read_manifest(places[key], data or b"")
        except ValueError as error:
            damaged.setdefault(str(error), []).append(places[key])
    for why, paths in damaged.items():
        others = f" and {counted(len(paths) - 1, 'other manifest')}" if len(paths) > 1 else ""
        are = "are" if others else "is"
        problems.append(f"{paths[0]}{others} {are} damaged ({why}); `lookbeyond verify --repair` forgets them")
    return manifests, problems


def _history(storage: Storage, key: str) -> list[dict[str, float]]:
    rows = read_history(storage, key)
    return [row for row in rows if {"step", "loss"} <= row.keys()]
