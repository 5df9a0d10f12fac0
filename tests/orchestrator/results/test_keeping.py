"""What stands under an experiment's name when the same, an extended and another experiment is run."""

from pathlib import Path
from typing import Any

import pytest
from support.command_line import run_here

from orchestrator.ledger.layout import figure_path, gallery_path
from orchestrator.planning.plan import make_plan
from orchestrator.results.cells import Results, experiment_names, read_results
from orchestrator.results.keeping import former_results, keep_other, pictures_of
from orchestrator.results.results import collect, record_run, write_results
from orchestrator.storage.store import Storage

Document = dict[str, Any]


@pytest.fixture
def document(tiny: Document) -> Document:
    tiny["dataset"] |= {"num_train": 4, "num_val": 2}
    return tiny


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def run(document: Document, storage: Storage, started: float) -> tuple[Results, str | None]:
    """One run, and under which name it kept what stood there."""
    plan = make_plan(document, storage, write_listings=True)
    cached = set(plan.done)
    run_here(plan, storage)
    cells = collect(plan, cached, {})
    former = former_results(storage, plan.name)
    kept = keep_other(former, plan, cells, storage)
    record = record_run(plan, started, [])
    return write_results(plan, cells, storage, run=record, former=None if kept else former), kept


def test_a_run_that_computes_nothing_leaves_the_record_of_the_one_that_did(
    document: Document, storage: Storage
) -> None:
    first, _ = run(document, storage, 1000.0)
    again, kept = run(document, storage, 2000.0)
    assert kept is None
    assert {cell.status.value for cell in again.cells} == {"cached"}
    assert again.provenance == first.provenance
    grid = {**document["grid"], "labels.outliers": [0.05, 0.2]}
    extended, kept = run({**document, "grid": grid}, storage, 3000.0)
    assert kept is None
    assert extended.cells[0].steps == first.cells[0].steps
    assert extended.provenance.started == "1970-01-01T00:50:00Z"


def test_another_experiment_of_a_name_leaves_the_first_ones_results_and_pictures(
    document: Document, storage: Storage
) -> None:
    first, _ = run(document, storage, 1000.0)
    for part, data in (("", b"sheet"), ("predictions", b"networks")):
        storage.replace(figure_path("tiny", part), data)
    storage.replace(gallery_path("tiny"), b"gallery")
    storage.replace("results/tiny-er.json", first.to_bytes())
    storage.replace(figure_path("tiny-er"), b"of another name")
    other = {**document, "seed": 7}
    second, kept = run(other, storage, 2000.0)
    assert kept is not None and kept.startswith("tiny-")
    assert experiment_names(storage) == sorted([kept, "tiny", "tiny-er"])
    assert read_results(storage, kept) == first
    assert read_results(storage, "tiny") == second
    assert pictures_of(storage, "tiny") == []
    assert [storage.read(path) for path in pictures_of(storage, kept)] == [b"networks", b"sheet"]
    assert storage.read(figure_path("tiny-er")) == b"of another name"
    assert storage.read(gallery_path(kept)) == b"gallery"
    # Each keeps its name however often one takes the other's place.
    _, again = run(document, storage, 3000.0)
    assert again not in (None, kept)
    _, back = run(other, storage, 4000.0)
    assert back == kept


def test_how_an_experiment_is_run_makes_no_other_of_it(document: Document, storage: Storage) -> None:
    run(document, storage, 1000.0)
    _, kept = run(
        {**document, "title": "Tiny", "compute": {**document.get("compute", {}), "error_retries": 1}}, storage, 2000.0
    )
    assert kept is None
    assert experiment_names(storage) == ["tiny"]
