"""Rows and columns: which cells they make, what is said about them, and that none of it decides a result."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.planning.plan import make_plan
from orchestrator.spec.grid import Cell, expand
from orchestrator.spec.loading import load_experiment
from orchestrator.storage.store import Storage
from workloads.errors import InputError

TABLE = """
title: "Table 0"
layout: table0
dataset: {name: scenes, image_size: [64, 96], num_train: 20, num_val: 4}
labels: {images: 8, superpixels: {n_segments: 50}}
size: large
sizes: {large: {}, small: {labels.images: 4}}
rows:
  - row: few
    set: {labels.clustering.k: 3}
    small: {labels.clustering.k: 2, notes: ["two, not three"]}
    paper: {scenes: {narrow: {pmiou: 1.5}, wide: {pmiou: <1}}, camvid: {wide: {miou: 20}}}
  - row: many
    set: {labels.clustering.k: 9}
    grid: {labels.outliers: [0.0, 0.1]}
    notes: ["many clusters"]
columns:
  - {column: narrow, set: {labels.sampling.pixels_per_image: 20}}
  - {column: wide, set: {labels.sampling.pixels_per_image: 40}, small: {labels.sampling.pixels_per_image: 30}}
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "table.yaml").write_text(TABLE)
    return tmp_path / "table.yaml"


def cells(table: Path, *overrides: str) -> list[Cell]:
    return expand(load_experiment(table, overrides))


def settings(cell: Cell) -> tuple[Any, ...]:
    labels = cell.entry.labels
    return (
        cell.row,
        cell.column,
        labels.clustering.num_clusters(10),
        labels.sampling.pixels_per_image,
        labels.outliers,
    )


def test_cells_are_rows_by_columns_by_grid(table: Path) -> None:
    assert [settings(cell) for cell in cells(table)] == [
        ("few", "narrow", 3, 20, 0.05),
        ("few", "wide", 3, 40, 0.05),
        ("many", "narrow", 9, 20, 0.0),
        ("many", "narrow", 9, 20, 0.1),
        ("many", "wide", 9, 40, 0.0),
        ("many", "wide", 9, 40, 0.1),
    ]
    assert cells(table)[3].values == {
        "labels.clustering.k": 9,
        "labels.sampling.pixels_per_image": 20,
        "labels.outliers": 0.1,
    }


def test_a_grid_is_a_product_over_every_row_and_column(table: Path) -> None:
    made = cells(table, "grid.seed=[0, 1, 2]")
    assert len(made) == 3 * 6
    assert [cell.entry.seed for cell in made[:4]] == [0, 1, 2, 0]


def test_a_size_is_merged_into_rows_and_columns(table: Path) -> None:
    made = cells(table, "size=small")
    assert {cell.entry.labels.images for cell in made} == {4}
    assert [settings(cell)[2:4] for cell in made[:2]] == [(2, 20), (2, 30)]
    assert [cell.notes for cell in made[::2]] == [("two, not three",), ("many clusters",), ("many clusters",)]
    assert cells(table)[0].notes == ()


def test_rows_win_over_overrides(table: Path) -> None:
    made = cells(table, "labels.clustering.k=5", "labels.outliers=0.2", "labels.images=6")
    assert [settings(cell)[2] for cell in made] == [3, 3, 9, 9, 9, 9]
    assert [settings(cell)[4] for cell in made] == [0.2, 0.2, 0.0, 0.1, 0.0, 0.1]
    assert {cell.entry.labels.images for cell in made} == {6}


def test_the_papers_figure_is_looked_up_by_data_set_row_and_column(table: Path) -> None:
    assert [cell.paper for cell in cells(table)[:3]] == [{"pmiou": 1.5}, {"pmiou": "<1"}, None]
    assert [cell.paper for cell in cells(table, "dataset.name=camvid")[:2]] == [None, {"miou": 20}]
    assert [cell.paper for cell in cells(table, "dataset.name=ade20k")[:2]] == [None, None]


def test_without_columns_figures_are_the_data_sets(table: Path) -> None:
    document = load_experiment(table, []) | {
        "columns": [],
        "rows": [{"row": 5, "paper": {"scenes": {"pmiou": 3, "miou": 4.5}}}],
    }
    (cell,) = expand(document)
    assert (cell.row, cell.column, cell.paper) == ("5", None, {"pmiou": 3, "miou": 4.5})


def test_cells_of_one_configuration_are_one(table: Path) -> None:
    base = {"name": "x", "dataset": {"name": "scenes"}, "labels": {"images": 5}}
    # The base has five images and seed 0 already; and a number of clusters has two spellings of one mapping.
    grid = [{"labels.images": [5, 6]}, {"seed": [0]}, {"labels": [{"images": 6}]}]
    made = expand(base | {"grid": grid})
    assert [cell.values for cell in made] == [{"labels.images": 5}, {"labels.images": 6}]
    # A named row never gives way to another: a table keeps all its rows.
    rows = [{"row": "a", "set": {"labels.images": 5}}, {"row": "b"}]
    assert [cell.row for cell in expand(base | {"rows": rows, "grid": {"seed": [0, 0]}})] == ["a", "b"]


def test_nothing_that_is_shown_enters_a_key(table: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "storage"))

    def keys(document: dict[str, Any]) -> list[dict[str, str]]:
        planned = make_plan(document, storage, write_listings=False).cells
        assert not any(cell.error for cell in planned)
        return [{role: step.key for role, step in cell.roles.items()} for cell in planned]

    document = load_experiment(table, [])
    bare = [
        {
            "name": "bare",
            "dataset": document["dataset"],
            "labels": document["labels"],
            "grid": {key: [value] for key, value in cell.values.items()},
        }
        for cell in expand(document)
    ]
    shown = document | {"title": "another", "layout": None, "size": None, "notes": ["a note"], "weights": {"a": "b"}}
    shown["rows"] = [row | {"row": f"{row['row']}!", "paper": {}, "notes": ["other"]} for row in document["rows"]]
    shown["columns"] = [column | {"column": f"{column['column']}!"} for column in document["columns"]]
    expected = [keys(one)[0] for one in bare]
    assert len({one["label"] for one in expected}) == len(expected)
    assert keys(document) == expected
    assert keys(shown) == expected


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"rows": "few"}, "rows: 'few' is not allowed; give a list of mappings with the keys row and set"),
        ({"rows": ["few"]}, r"rows: \['few'\] is not allowed"),
        ({"rows": [{"set": {}}]}, "rows.0.row: None is not allowed; give the name of the row"),
        ({"rows": [{"row": "a"}, {"row": "a"}]}, "rows.1.row: 'a' is the name of another row, too"),
        ({"rows": [{"row": "a", "sett": {}}]}, r"unknown key rows.0.sett; did you mean set\?"),
        ({"rows": [{"row": "a", "smal": {}}]}, r"unknown key rows.0.smal; did you mean small\?"),
        ({"rows": [{"row": "a", "zzzz": {}}]}, "unknown key rows.0.zzzz; allowed: row, set, grid, paper, notes, large"),
        ({"rows": [{"row": "a", "set": [1]}]}, r"rows.0.set: \[1\] is not allowed; give a mapping of keys"),
        ({"rows": [{"row": "a", "small": 3}]}, "rows.0.small: 3 is not allowed; give a mapping of keys"),
        ({"rows": [{"row": "a", "notes": "x"}]}, "rows.0.notes: 'x' is not allowed; give a list of sentences"),
        ({"rows": [{"row": "a", "set": {"compute.workers": 2}}]}, "row 'a'.compute.workers cannot vary between cells"),
        (
            {"rows": [{"row": "a", "set": {"labels.image": 2}}]},
            r"unknown key labels.image; did you mean labels.images\?",
        ),
        ({"rows": [{"row": "a", "grid": {"seed": 1}}]}, "grid.seed: 1 is not allowed; give a list"),
        (
            {"columns": [{"column": "a", "paper": {}}]},
            r"unknown key columns.0.paper; allowed: column, set, notes, large",
        ),
        (
            {"columns": [{"column": "wide", "set": {"labels.clustering.k": 2}}, {"column": "narrow"}]},
            "labels.clustering.k is set by row 'few' and by column 'wide'; a key varies in one place",
        ),
        ({"grid": {"labels.clustering.k": [2]}}, "labels.clustering.k is set by row 'few' and by the grid"),
        (
            {"rows": [{"row": "a", "paper": {"cityscape": {}}}]},
            "row 'a': paper: data set 'cityscape' is not known; allowed: camvid",
        ),
        (
            {"rows": [{"row": "a", "paper": {"camvid": {"broad": {"miou": 1}}}}]},
            "row 'a': paper.camvid: 'broad' is no column; allowed: narrow, wide",
        ),
        (
            {"rows": [{"row": "a", "paper": {"camvid": {"wide": {"mIoU": 1}}}}]},
            "row 'a': paper.camvid: 'mIoU' is not known; allowed: pmiou, miou",
        ),
        (
            {"rows": [{"row": "a", "paper": {"camvid": {"wide": {"miou": "high"}}}}]},
            "row 'a': paper.camvid.miou: 'high' is not allowed; give a number",
        ),
        ({"notes": "x"}, "notes: 'x' is not allowed; give a list of sentences"),
        ({"title": 5}, "title: 5 is not allowed; give a text"),
        ({"layout": ["table2"]}, r"layout: \['table2'\] is not allowed; give a text"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:60],
)
def test_a_wrong_table_is_one_readable_message(table: Path, part: dict[str, Any], message: str) -> None:
    table.write_text(yaml.safe_dump(yaml.safe_load(TABLE) | {"size": "small"} | part))
    with pytest.raises(InputError, match=f"^{message}"):
        cells(table)
