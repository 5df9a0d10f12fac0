"""Picture sheets of an experiment, as in the paper's Figures 1 to 4: what the labels look like, beside what is true.

A sheet has a few images of the val pool (or of the labelled pool, where nothing is scored); for each of them the image
above its ground truth, superpixel borders above the truth laid over the image, then a column per cell with its labels
above the classes they were matched to, or above the labels laid over the image where there is no truth. Everything is
read through the ledger, so a sheet can be made long after the run.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from orchestrator.ledger.layout import figure_path, figures_mark
from orchestrator.planning.cells import PlannedCell
from orchestrator.planning.plan import Plan
from orchestrator.results.cell_maps import CellMaps, dataset_of, legend_of, truth_of
from orchestrator.spec.naming import describe, repeats
from orchestrator.storage.store import Storage
from workloads.figures import UNMATCHED, colourise, overlay, sheet, with_borders
from workloads.ignored import IGNORE_CLASS

_IMAGES = 3
_CELLS_PER_SHEET = 6
_NETWORKS_PER_SHEET = 8
_CELL_WIDTH = 256


def write_sheets(plan: Plan, storage: Storage) -> list[str]:
    """Write ``figures/NAME.png`` (and NAME-2.png ... for more than six cells); the places of the files."""
    maps = CellMaps(plan, storage)
    cells = [cell for cell in plan.cells if maps.labels(cell) is not None]
    written = []
    for number in range(0, len(cells), _CELLS_PER_SHEET):
        page = number // _CELLS_PER_SHEET + 1
        path = figure_path(plan.name, "" if page == 1 else str(page))
        written.append(save_picture(_sheet(maps, cells[number : number + _CELLS_PER_SHEET]), path, storage))
    return written


def write_predictions(plan: Plan, storage: Storage) -> list[str]:
    """Write ``figures/NAME-predictions.png``: what fine-tuned networks see, as in Figure 4; the place of the file.

    Cells that differ only in seeds show the first of them.
    """
    maps = CellMaps(plan, storage)
    cells = first_of_repeats([cell for cell in plan.cells if maps.network(cell) is not None])[:_NETWORKS_PER_SHEET]
    if not cells:
        return []
    dataset = dataset_of(cells[0])
    pool = cells[0].roles["finetune"].images.pool
    predicted = [maps.predictions(cell) for cell in cells]
    rows: list[list[np.ndarray | None]] = [
        [dataset.read_image(pool, name), truth_of(dataset, pool, name)]
        + [colourise(found[name], dataset.palette, IGNORE_CLASS) if name in found else None for found in predicted]
        for name in predicted[0]
    ]
    titles = ["image", "ground truth"]
    for cell in cells:
        network = maps.network(cell)
        assert network is not None
        titles.append(f"{name_among(cell, cells)}, mIoU {network.results['miou']:.1f}".lstrip(", "))
    captions = [name.rsplit("/", 1)[-1] for name in predicted[0]]
    picture = sheet(rows, titles, captions, legend_of(dataset), cell_width=_CELL_WIDTH)
    return [save_picture(picture, figure_path(plan.name, "predictions"), storage)]


def save_picture(picture: np.ndarray, path: str, storage: Storage) -> str:
    """Write a picture as PNG; its place."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    storage.replace(path, buffer.getvalue())
    storage.write_nondurable(figures_mark(), b"the pictures of runs\n")
    return storage.locate(path)


def first_of_repeats(cells: Sequence[PlannedCell]) -> list[PlannedCell]:
    """Of cells that differ only in seeds the first."""
    planned = {id(cell.cell): cell for cell in cells}
    return [planned[id(group[0])] for group in repeats(cell.cell for cell in cells)]


def name_among(cell: PlannedCell, cells: Sequence[PlannedCell]) -> str:
    """What tells a cell from others; empty for the only one."""
    return describe(cell.cell, [planned.cell for planned in cells]) if len(cells) > 1 else ""


def _sheet(maps: CellMaps, cells: Sequence[PlannedCell]) -> np.ndarray:
    dataset = dataset_of(cells[0])
    pool = cells[0].roles["label_val" if "label_val" in cells[0].roles else "label"].images.pool
    labels = [maps.first(maps.labels(cell), _IMAGES) for cell in cells]
    voting = next((found for cell in cells if (found := maps.superpixels(cell)) is not None), None)
    segments = maps.first(voting, _IMAGES)
    names = list(labels[0])
    rows: list[list[np.ndarray | None]] = []
    for name in names:
        picture = dataset.read_image(pool, name)
        truth = truth_of(dataset, pool, name)
        borders = with_borders(picture, segments[name]) if name in segments else None
        own = [maps.in_own_colours(cell, found.get(name)) for cell, found in zip(cells, labels, strict=True)]
        if dataset.labelled(pool):
            matched = [
                maps.in_class_colours(cell, dataset, found.get(name)) for cell, found in zip(cells, labels, strict=True)
            ]
            second = [truth, None if truth is None else overlay(picture, truth), *matched]
        else:
            second = [None, None, *(None if one is None else overlay(picture, one, 0.5) for one in own)]
        rows += [[picture, borders, *own], second]
    scored = dataset.labelled(pool)
    titles = ["image and ground truth" if scored else "image", "superpixels and truth" if scored else "superpixels"]
    titles += [_title(maps, cell) for cell in cells]
    captions = [line for name in names for line in (name.rsplit("/", 1)[-1], "")]
    legend = legend_of(dataset) if scored else []
    legend += [("matched to no class", UNMATCHED), ("hatched: ignored", (0, 0, 0))] if scored else []
    return sheet(rows, titles, captions, legend, cell_width=_CELL_WIDTH)


def _title(maps: CellMaps, cell: PlannedCell) -> str:
    score = maps.score(cell)
    result = f"PmIoU {score.results['pmiou']:.1f}" if score else ""
    return ", ".join(filter(None, [name_among(cell, maps.plan.cells), result])) or "labels"
