"""Labels of two seeds are compared image by image, and only those of repeats."""

from pathlib import Path
from typing import Any

import pytest
from support.command_line import run_here

from orchestrator.ledger.shards import read_maps
from orchestrator.planning.plan import make_plan
from orchestrator.results.results import collect
from orchestrator.results.stability import with_stability
from orchestrator.storage.store import Storage
from workloads.scoring.unlabelled import adjusted_rand_index


def test_repeats_have_a_stability_and_what_has_none_does_not(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["dataset"] |= {"num_train": 4, "num_val": 2}
    tiny["grid"] = [{"seed": [0, 1], "labels.outliers": [0.0]}, {"labels.outliers": [0.1]}]
    storage = Storage(str(tmp_path))
    plan = make_plan(tiny, storage, write_listings=True)
    run_here(plan, storage)
    cells = with_stability(plan, collect(plan, set(), {}), storage)
    maps = []
    for cell in cells[:2]:
        records = plan.done[cell.steps["label_val"]].shards
        maps.append(dict(pair for record in records for pair in read_maps(storage, record.path)))
    expected = adjusted_rand_index((maps[0][name], maps[1][name]) for name in maps[0])
    assert expected is not None and 0 < expected < 1
    assert [cell.metrics.stability for cell in cells] == [pytest.approx(expected), pytest.approx(expected), None]
    assert all(-1 <= cell.metrics.silhouette <= 1 for cell in cells)
