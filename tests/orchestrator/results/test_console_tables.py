"""The printed table: rows and columns by name, what tells cells apart, and the spread over seeds."""

import io
import statistics
from typing import Any

from rich.console import Console

from orchestrator.results.cells import CellResult, Metrics, Status
from orchestrator.results.console_tables import print_cells


def cell(values: dict[str, Any], pmiou: float | None, row: str | None = None, column: str | None = None) -> CellResult:
    metrics = Metrics() if pmiou is None else Metrics(pmiou=pmiou, num_clusters=15)
    status = Status.FAILED if pmiou is None else Status.DONE
    return CellResult(values=values, row=row, column=column, metrics=metrics, status=status)


def printed(cells: list[CellResult]) -> list[list[str]]:
    """The printed lines, cut into their fields."""
    file = io.StringIO()
    print_cells("a table", cells, Console(file=file))
    lines = file.getvalue().replace("┃", "│").splitlines()
    return [[field.strip() for field in line.strip("│ ").split("│")] for line in lines]


def test_rows_and_columns_stand_for_what_they_set() -> None:
    cells = [
        cell({"labels.outliers": 0.0, "finetune.fraction": 0.1}, 20.0, "none", "10%"),
        cell({"labels.outliers": 0.0, "finetune.fraction": 0.2}, 21.0, "none", "20%"),
        cell({"labels.outliers": 0.1, "finetune.fraction": 0.1}, None, "some", "10%"),
    ]
    lines = printed(cells)
    assert ["#", "row", "column", "clusters", "PmIoU", "status"] in lines
    assert ["1", "none", "20%", "15", "21.00", "done"] in lines
    assert ["2", "some", "10%", "", "", "failed"] in lines


def test_what_varies_within_a_row_is_shown() -> None:
    cells = [cell({"labels.images": 5, "labels.outliers": share}, 1.0, "few") for share in (0.0, 0.1)]
    lines = printed(cells)
    assert ["#", "row", "outliers", "clusters", "PmIoU", "status"] in lines


def test_without_rows_the_keys_that_vary_are_shown_and_all_of_a_single_cell() -> None:
    cells = [cell({"labels.images": 5, "labels.outliers": share}, 1.0) for share in (0.1, 0.2)]
    assert ["#", "outliers", "clusters", "PmIoU", "status"] in printed(cells)
    assert ["#", "images", "outliers", "clusters", "PmIoU", "status"] in printed(cells[:1])


def test_mean_and_deviation_stand_below_the_cells() -> None:
    figures = {"a": [20.0, 22.0, 27.0], "b": [10.0, 11.0, None]}
    cells = [
        cell({"labels.images": 5, "seed": seed}, pmiou, row)
        for row, values in figures.items()
        for seed, pmiou in enumerate(values)
    ]
    lines = printed(cells)
    assert ["5", "b", "2", "", "", "failed"] in lines
    assert ["row", "seeds", "clusters", "PmIoU"] in lines
    assert ["a", "3", "15", f"23.00 ± {statistics.stdev([20.0, 22.0, 27.0]):.2f}"] in lines
    # A repeat that failed has no figure; the spread says of how many it is.
    assert ["b", "2 of 3", "15", f"10.50 ± {statistics.stdev([10.0, 11.0]):.2f}"] in lines


def test_cells_without_repeats_have_no_second_table() -> None:
    assert not any("standard deviation" in field for line in printed([cell({"seed": 1}, 1.0)]) for field in line)


def test_a_narrow_terminal_is_spared_what_is_the_same_in_all_rows() -> None:
    file = io.StringIO()
    cells = [cell({"labels.outliers": share}, pmiou, "one of the rows") for share, pmiou in ((0.1, 1.0), (0.2, 2.0))]
    print_cells("a table", cells, Console(file=file, width=34, force_terminal=True, color_system=None))
    table, said = file.getvalue().rstrip().rsplit("\n", 1)
    assert said == "in all rows: row one of the rows, clusters 15, status done"
    headings = [field.strip() for field in table.splitlines()[2].strip("┃").split("┃")]
    assert headings == ["#", "outliers", "PmIoU"]
    assert all(len(line) <= 34 for line in table.splitlines())
    cells[0] = cell({"labels.outliers": 0.1}, None, "one of the rows")
    file = io.StringIO()
    print_cells("a table", cells, Console(file=file, width=34, force_terminal=True, color_system=None))
    assert "\nin all rows: row one of the rows\nin the rows that have it: clusters 15, PmIoU 2.00\n" in file.getvalue()


def test_what_was_scored_on_the_way_stands_before_the_end_and_the_filled_anchors_beside_it() -> None:
    figures = {"miou": 50.0, "miou_at_0.5": 44.0, "miou_at_0.2": 35.0, "anchors_filled": 0.9876}
    one = CellResult(values={"seed": 0}, metrics=Metrics(**figures), status=Status.DONE)
    lines = printed([one])
    early = ["mIoU, after 20 % of the steps", "mIoU, after 50 % of the steps"]
    assert ["#", "seed", "anchors filled", *early, "mIoU", "status"] in lines
    assert ["0", "0", "0.988", "35.00", "44.00", "50.00", "done"] in lines
