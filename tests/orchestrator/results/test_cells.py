"""Results as types: what is written is what is read, and a file that holds none is named with the key."""

import json
from typing import Any

import pytest
from scipy.stats import rankdata

from orchestrator.results.cells import CellResult, Metrics, Protocol, Results, Run, Status
from orchestrator.results.results import agreement
from orchestrator.results.statistics import RankCorrelation
from workloads.errors import InputError


def trained(pmiou: float | None, miou: float | None) -> CellResult:
    return CellResult(values={}, status=Status.DONE, metrics=Metrics(pmiou=pmiou, miou=miou))


def test_what_is_written_is_read_back_and_what_was_not_measured_is_not_written() -> None:
    metrics = Metrics(
        pmiou=20.0,
        per_class_iou=[1.0, None],
        matching={0: 3},
        protocol=Protocol(dataset="camvid", classes=11, split="val", scored_images=101),
        inertia=float("inf"),
        iterations=12,
    )
    cell = CellResult(values={"seed": 0}, row="#4", status=Status.DONE, error=None, metrics=metrics)
    results = Results(experiment={"name": "k"}, cells=[cell], provenance=Run(seed=0), agreement=RankCorrelation(0.5, 4))
    read = Results.from_bytes(results.to_bytes(), "here")
    assert read.cells[0].metrics.model_copy(update={"inertia": metrics.number("inertia")}) == metrics.model_copy(
        update={"inertia": None}
    )
    assert (read.agreement, read.provenance, read.experiment) == (results.agreement, results.provenance, {"name": "k"})
    document = json.loads(results.to_bytes(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert document["cells"][0].keys() == {"cell", "row", "status", "error", "metrics"}
    assert "miou" not in document["cells"][0]["metrics"]
    assert read.cells[0].metrics.numbers == {"pmiou": 20.0, "iterations": 12.0}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "cannot be read"),
        ([], "does not hold results"),
        ({"experiment": {}, "provenance": {}, "cells": [{"cell": {}, "status": "fine"}]}, "cells.0.status"),
        ({"experiment": {}, "provenance": {}, "cells": [{"status": "done"}]}, "cells.0.cell"),
    ],
)
def test_a_file_that_holds_no_results_is_named_with_the_key(document: Any, message: str) -> None:
    data = document if isinstance(document, str) else json.dumps(document)
    with pytest.raises(InputError, match=r"results/k\.json .*`lookbeyond run` writes it again") as refused:
        Results.from_bytes(data.encode(), "results/k.json")
    assert message in str(refused.value)


def test_the_rank_correlation_is_the_correlation_of_ranks() -> None:
    pmious, mious = [10.0, 20.0, 30.0, 40.0, 40.0], [1.0, 3.0, 2.0, 5.0, 4.0]
    cells = [trained(a, b) for a, b in zip(pmious, mious, strict=True)]
    found = agreement([*cells, trained(50.0, None), CellResult(values={}, status=Status.FAILED)])
    first, second = rankdata(pmious) - 3, rankdata(mious) - 3
    assert found is not None
    assert found.cells == 5
    assert found.spearman == pytest.approx((first @ second) / ((first @ first) * (second @ second)) ** 0.5)
    assert agreement(cells[:2]) is None
    assert agreement([trained(1.0, 2.0)] * 4) is None, "without differences there is no order"
