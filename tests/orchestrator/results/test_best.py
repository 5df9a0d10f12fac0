"""The best setting, and whether it stands out over what other seeds alone would change."""

import numpy as np
import pytest

from orchestrator.results.best import best_lines, best_of
from orchestrator.results.cells import CellResult, Metrics, Protocol, Status
from orchestrator.results.statistics import Spread


def cells(figures: dict[str, list[float]], column: str | None = None, dataset: str = "camvid") -> list[CellResult]:
    return [
        CellResult(
            values={"seed": seed},
            row=row,
            column=column,
            status=Status.DONE,
            metrics=Metrics(pmiou=50.0, miou=miou, protocol=Protocol(dataset=dataset)),
        )
        for row, values in figures.items()
        for seed, miou in enumerate(values)
    ]


def test_the_best_is_measured_against_the_pooled_spread_of_all_repeats() -> None:
    figures = {"a": [40.0, 42.0], "b": [50.0, 52.0, 54.0], "c": [45.0]}
    best = best_of((name, Spread.of(values)) for name, values in figures.items())
    assert best is not None
    assert (best.setting, best.next, best.margin) == ("b", "c", 7.0)
    centred = [value - np.mean(figures[name]) for name in ("a", "b") for value in figures[name]]
    pooled = np.sum(np.square(centred)) / (len(centred) - 2)
    assert best.noise == pytest.approx(np.sqrt(pooled * (1 / 3 + 1 / 1)))
    assert best.stands_out == (best.margin > 2 * best.noise)


def test_the_sentence_says_whether_a_difference_is_more_than_seeds() -> None:
    (line,) = best_lines(cells({"a": [40.0, 40.2], "b": [45.0, 45.2]}))
    assert line == (
        "b: mIoU 45.10 ± 0.14, 5.00 above the next: stands out (standard error of a difference between seeds 0.14)"
    )
    (line,) = best_lines(cells({"a": [40.0, 44.0], "b": [41.0, 45.0]}))
    assert "b: mIoU 43.00 ± 2.83, 1.00 above the next: does not stand out" in line
    (line,) = best_lines(cells({"a": [40.0], "b": [45.0]}))
    assert line.endswith("one seed each: whether that is more than chance is not known")


def test_only_settings_of_one_column_and_data_set_are_compared() -> None:
    figures = {"a": [40.0], "b": [45.0]}
    ten, all_of_them = cells(figures, "10%"), cells(figures, "100%")
    assert [line.split(":")[0] for line in best_lines([*ten, *all_of_them])] == ["b, 10%", "b, 100%"]
    assert best_lines([*cells({"a": [40.0]}), *cells({"a": [45.0]}, dataset="nyuv2")]) == []
    assert best_lines(cells({"a": [40.0]})) == []
