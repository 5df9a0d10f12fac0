"""What cells are called among others, and which of them are repeats."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.spec.naming import describe, differing, repeats, short_keys, shown


@dataclass(frozen=True)
class Cell:
    values: Mapping[str, Any] = field(default_factory=dict)
    row: str | None = None
    column: str | None = None


def test_rows_and_columns_stand_for_what_they_set() -> None:
    cells = [
        Cell({"labels.outliers": 0.0, "finetune.fraction": 0.1}, "none", "10%"),
        Cell({"labels.outliers": 0.0, "finetune.fraction": 0.2}, "none", "20%"),
        Cell({"labels.outliers": 0.1, "finetune.fraction": 0.1}, "some", "10%"),
    ]
    assert describe(cells[2], cells) == "some, 10%"


def test_what_varies_within_a_row_is_said_beside_it() -> None:
    cells = [Cell({"labels.images": 5, "labels.outliers": share}, "few") for share in (0.0, 0.1)]
    assert describe(cells[1], cells) == "few, outliers 0.1"


def test_without_rows_what_varies_names_a_cell_and_everything_the_only_one() -> None:
    cells = [Cell({"labels.images": 5, "labels.outliers": share}) for share in (0.0, 0.1)]
    assert describe(cells[0], cells) == "outliers 0.0"
    assert describe(cells[0], cells[:1]) == "images 5, outliers 0.0"
    assert describe(Cell(), [Cell()]) == "the only cell"


def test_a_key_that_only_some_cells_set_differs_whatever_it_is_set_to() -> None:
    assert differing([Cell({"pretrain": None, "seed": 0}), Cell({"seed": 0})]) == ["pretrain"]


def test_repeats_differ_in_seeds_alone() -> None:
    cells = [
        Cell({"seed": seed, "pretrain.seed": 7 * seed, "labels.images": images}, row)
        for row in ("a", "b")
        for images in (5, 6)
        for seed in (0, 1, 2)
    ]
    assert [[cells.index(cell) for cell in group] for group in repeats(cells)] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8],
        [9, 10, 11],
    ]
    assert [len(group) for group in repeats([Cell({"labels.seeds": 1}), Cell({"labels.seeds": 2})])] == [1, 1]


def test_keys_are_as_short_as_they_can_be_told_apart() -> None:
    keys = ["labels.extractor.weights", "pretrain.weights", "seed", "pretrain.seed", "labels.outliers"]
    assert short_keys(keys) == {
        "labels.extractor.weights": "extractor.weights",
        "pretrain.weights": "pretrain.weights",
        "seed": "seed",
        "pretrain.seed": "pretrain.seed",
        "labels.outliers": "outliers",
    }


def test_values_are_shown_without_their_folders_and_keys() -> None:
    value = {"weights": "nets/moco.pth", "scales": [0.5, 1], "superpixels": None}
    assert shown(value) == "moco.pth 0.5, 1 none"
