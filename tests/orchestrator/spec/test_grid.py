"""The grid: products, unions, equal cells once, and wrong cells refused together."""

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.spec.grid import Cell, expand
from workloads.configs.clustering import KMeansConfig
from workloads.errors import InputError

BASE: dict[str, Any] = {"name": "test", "dataset": {"name": "scenes"}}


def cells(grid: Any, **base: Any) -> list[Cell]:
    return expand(BASE | base | {"grid": grid})


@pytest.mark.parametrize("grid", [None, {}, []])
def test_without_a_grid_there_is_one_cell(grid: Any) -> None:
    (cell,) = cells(grid)
    assert cell.values == {}
    assert cell.entry.name == "test"


def test_lists_are_multiplied_in_the_order_written() -> None:
    made = cells({"labels.clustering.k": [4, 2], "labels.outliers": [0.0, 0.1]})
    assert [tuple(cell.values.values()) for cell in made] == [(4, 0.0), (4, 0.1), (2, 0.0), (2, 0.1)]
    assert [cell.entry.labels.outliers for cell in made] == [0.0, 0.1, 0.0, 0.1]
    assert made[2].entry.labels.clustering == KMeansConfig(k=2)


def test_grids_are_united_and_need_not_share_keys() -> None:
    made = cells([{"labels.source": ["pixel", "superpixel"]}, {"labels.clustering.k": [3], "seed": [0, 1]}])
    assert [cell.values for cell in made] == [
        {"labels.source": "pixel"},
        {"labels.source": "superpixel"},
        {"labels.clustering.k": 3, "seed": 0},
        {"labels.clustering.k": 3, "seed": 1},
    ]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_equal_cells_are_one(counts: list[int], seeds: list[int]) -> None:
    made = cells([{"labels.images": counts, "seed": seeds}, {"seed": seeds[:1], "labels.images": counts[:1]}])
    found = [(cell.entry.labels.images, cell.entry.seed) for cell in made]
    assert len(found) == len(set(found))
    assert set(found) == {(count, seed) for count in counts for seed in seeds}


def test_a_number_written_twice_is_one_cell() -> None:
    assert len(cells({"labels.clustering.k_per_class": [1, 1.0, 1.5]})) == 2


def test_a_cell_leaves_the_base_and_its_neighbours_alone() -> None:
    base: dict[str, Any] = {"labels": {"superpixels": None, "clustering": {"k": 5}}}
    grid = {"labels.superpixels": [None, {"n_segments": 50}], "labels.clustering.max_iterations": [3, 4]}
    made = cells(grid, **base)
    assert base == {"labels": {"superpixels": None, "clustering": {"k": 5}}}
    assert grid["labels.superpixels"] == [None, {"n_segments": 50}]
    assert [cell.entry.labels.superpixels is None for cell in made] == [True, True, False, False]
    assert [cell.entry.labels.clustering for cell in made[:2]] == [
        KMeansConfig(k=5, max_iterations=3),
        KMeansConfig(k=5, max_iterations=4),
    ]


def test_a_nested_key_follows_a_mapping_of_the_grid() -> None:
    made = cells({"labels.superpixels": [{"compactness": 20.0}], "labels.superpixels.n_segments": [50, 60]})
    found = [cell.entry.labels.superpixels for cell in made]
    assert [(one.compactness, one.n_segments) for one in found if one] == [(20.0, 50), (20.0, 60)]


def test_a_whole_section_can_vary() -> None:
    made = cells({"dataset": [{"name": "scenes", "seed": 1}, {"name": "folder", "root": "pictures"}]})
    assert [cell.entry.dataset.config.name for cell in made] == ["scenes", "folder"]


def test_all_wrong_cells_are_reported_together_and_once() -> None:
    with pytest.raises(InputError) as caught:
        cells({"labels.images": [5, 0, -3], "labels.outliers": [0.1, 7]})
    lines = str(caught.value).splitlines()
    assert [line.split(";")[0] for line in lines] == [
        "labels.outliers: 7 is not allowed",
        "labels.images: 0 is not allowed",
        "labels.images: -3 is not allowed",
    ]


def test_an_unknown_key_in_the_grid_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"^unknown key labels\.image; did you mean labels\.images\?$"):
        cells({"labels.image": [1, 2]})


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"seed": 3}, "grid.seed: 3 is not allowed; give a list of at least one value"),
        ({"seed": []}, r"grid.seed: \[\] is not allowed"),
        ("seed", "grid must be a mapping of keys to lists .*'seed'"),
        ([{"seed": [1]}, 3], "grid must be a mapping .* got 3"),
        ({1: [2]}, "grid.1 cannot vary"),
        ({"compute.workers": [1, 2]}, "grid.compute.workers cannot vary between cells; allowed are .*labels"),
        ({"name": ["a", "b"]}, "grid.name cannot vary"),
        ({"grid": [1]}, "grid.grid cannot vary"),
        ({"seed.deep": [1]}, "seed: {'deep': 1} is not allowed"),
        ({"labels.images": [datetime.date(2020, 1, 1)]}, "labels.images: datetime.date.* is not allowed"),
        ({"labels.outliers": [float("nan")]}, "labels.outliers: nan is not allowed"),
    ],
    ids=str,
)
def test_a_wrong_grid_is_one_readable_message(grid: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cells(grid)
