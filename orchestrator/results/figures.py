"""Picture sheets of an experiment, as in the paper's Figures 1 to 3: what the labels look like, beside what is true.

The model: a few images of the validation pool (or of the labelled pool, where nothing is judged); for each of them the
image above its ground truth, superpixel borders above the truth laid over the image, then a column per cell with its
labels above the classes they were matched to. Everything is read through the ledger, so a sheet can be made long after
the run.
"""

import io
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from orchestrator.ledger.layout import figure_path, figures_mark
from orchestrator.ledger.manifests import Manifest
from orchestrator.ledger.shards import read_maps
from orchestrator.planning.cells import PlannedCell
from orchestrator.planning.plan import Plan
from orchestrator.spec.naming import describe, repeats
from orchestrator.storage.store import Storage
from workloads.datasets import Dataset, open_dataset
from workloads.errors import InputError
from workloads.figures import UNMATCHED, colourise, distinct_colours, matched_palette, overlay, sheet, with_borders
from workloads.ignored import IGNORE_CLASS, IGNORE_LABEL

_IMAGES = 3
_CELLS_PER_SHEET = 6
_NETWORKS_PER_SHEET = 8
_CELL_WIDTH = 256


def write_sheets(plan: Plan, storage: Storage) -> list[str]:
    """Write ``figures/NAME.png`` (and NAME-2.png ... for more than six cells); the places of the files."""
    cells = [cell for cell in plan.cells if _label_manifest(cell, plan) is not None]
    written = []
    for number in range(0, len(cells), _CELLS_PER_SHEET):
        page = number // _CELLS_PER_SHEET + 1
        path = figure_path(plan.name, "" if page == 1 else str(page))
        written.append(_save(_sheet(plan, cells[number : number + _CELLS_PER_SHEET], storage), path, storage))
    return written


def write_predictions(plan: Plan, storage: Storage) -> list[str]:
    """Write ``figures/NAME-predictions.png``: what fine-tuned networks see, as in Figure 4; the place of the file.

    Cells that differ only in seeds show the first of them.
    """
    trained = {id(planned.cell): planned for planned in plan.cells if _network_manifest(planned, plan) is not None}
    groups = repeats(planned.cell for planned in trained.values())
    cells = [trained[id(group[0])] for group in groups[:_NETWORKS_PER_SHEET]]
    if not cells:
        return []
    entry = cells[0].cell.entry.dataset
    dataset = open_dataset(entry.config, entry.root)
    pool = cells[0].roles["finetune"].images.pool
    manifests = [manifest for cell in cells if (manifest := _network_manifest(cell, plan)) is not None]
    maps = [dict(read_maps(storage, manifest.file("predictions").path)) for manifest in manifests]
    rows: list[list[np.ndarray | None]] = [
        [dataset.read_image(pool, name), _truth(dataset, pool, name)]
        + [colourise(found[name], dataset.palette, IGNORE_CLASS) if name in found else None for found in maps]
        for name in maps[0]
    ]
    figures = [f"mIoU {manifest.results['miou']:.1f}" for manifest in manifests]
    titles = ["image", "ground truth"]
    titles += [f"{_name(cell, cells)}, {figure}".lstrip(", ") for cell, figure in zip(cells, figures, strict=True)]
    captions = [name.rsplit("/", 1)[-1] for name in maps[0]]
    picture = sheet(rows, titles, captions, _legend(dataset), cell_width=_CELL_WIDTH)
    return [_save(picture, figure_path(plan.name, "predictions"), storage)]


def _save(picture: np.ndarray, path: str, storage: Storage) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    storage.replace(path, buffer.getvalue())
    storage.write_nondurable(figures_mark(), b"the pictures of runs\n")
    return storage.locate(path)


def _network_manifest(cell: PlannedCell, plan: Plan) -> Manifest | None:
    step = cell.roles.get("finetune")
    manifest = plan.done.get(step.key) if step else None
    # Networks of an earlier version left no predictions.
    return manifest if manifest and "predictions" in manifest.files else None


def _sheet(plan: Plan, cells: list[PlannedCell], storage: Storage) -> np.ndarray:
    first = cells[0]
    entry = first.cell.entry.dataset
    dataset = open_dataset(entry.config, entry.root)
    role = _label_role(first)
    pool = first.roles[role].images.pool
    maps = [_first_maps(_label_manifest(cell, plan), storage) for cell in cells]
    segments = _first_maps(_segment_manifest(cells, role, plan), storage)
    names = list(maps[0])[:_IMAGES]
    rows: list[list[np.ndarray | None]] = []
    for name in names:
        picture = dataset.read_image(pool, name)
        borders = with_borders(picture, segments[name]) if name in segments else None
        truth = laid_over = None
        if dataset.labelled(pool):
            truth = _truth(dataset, pool, name)
            laid_over = None if truth is None else overlay(picture, truth)
        labels = [_labels(cell, plan, found.get(name)) for cell, found in zip(cells, maps, strict=True)]
        matched = [_matched(cell, plan, dataset, found.get(name)) for cell, found in zip(cells, maps, strict=True)]
        rows.append([picture, borders, *labels])
        if dataset.labelled(pool):
            rows.append([truth, laid_over, *matched])
    titles = ["image and ground truth", "superpixels and truth", *(_title(cell, plan) for cell in cells)]
    captions = [line for name in names for line in _captions(name, len(rows) // len(names))]
    legend = _legend(dataset)
    if dataset.labelled(pool):
        legend += [("matched to no class", UNMATCHED), ("hatched: ignored", (0, 0, 0))]
    return sheet(rows, titles, captions, legend, cell_width=_CELL_WIDTH)


def _legend(dataset: Dataset) -> list[tuple[str, tuple[int, int, int]]]:
    # A folder of one's own pictures has a palette for the supposed number of classes, and no names.
    palette = dataset.palette[: len(dataset.classes)].tolist()
    return [(text, (red, green, blue)) for text, (red, green, blue) in zip(dataset.classes, palette, strict=True)]


def _truth(dataset: Dataset, pool: str, name: str) -> np.ndarray | None:
    """The ground truth in colours; None where it cannot be used, which the score step has reported."""
    try:
        return colourise(dataset.read_ground_truth(pool, name), dataset.palette, IGNORE_CLASS)
    except InputError:
        return None


def _captions(name: str, lines: int) -> list[str]:
    return [name.rsplit("/", 1)[-1], *([""] * (lines - 1))]


def _title(cell: PlannedCell, plan: Plan) -> str:
    score = plan.done.get(cell.roles["score"].key) if "score" in cell.roles else None
    result = f"PmIoU {score.results['pmiou']:.1f}" if score else ""
    return ", ".join(filter(None, [_name(cell, plan.cells), result])) or "labels"


def _name(cell: PlannedCell, cells: Sequence[PlannedCell]) -> str:
    return describe(cell.cell, [planned.cell for planned in cells]) if len(cells) > 1 else ""


def _labels(cell: PlannedCell, plan: Plan, labels: np.ndarray | None) -> np.ndarray | None:
    if labels is None:
        return None
    return colourise(labels, distinct_colours(_clusters(cell, plan)), IGNORE_LABEL)


def _matched(cell: PlannedCell, plan: Plan, dataset: Dataset, labels: np.ndarray | None) -> np.ndarray | None:
    score = plan.done.get(cell.roles["score"].key) if "score" in cell.roles else None
    if labels is None or score is None:
        return None
    matching = {int(label): index for label, index in score.results["matching"].items()}
    return colourise(labels, matched_palette(matching, dataset.palette, _clusters(cell, plan)), IGNORE_LABEL)


def _clusters(cell: PlannedCell, plan: Plan) -> int:
    return int(plan.done[cell.roles["cluster"].key].results["clusters"])


def _label_role(cell: PlannedCell) -> str:
    return "label_val" if "label_val" in cell.roles else "label"


def _label_manifest(cell: PlannedCell, plan: Plan) -> Manifest | None:
    step = cell.roles.get(_label_role(cell))
    return plan.done.get(step.key) if step else None


def _segment_manifest(cells: list[PlannedCell], role: str, plan: Plan) -> Manifest | None:
    name = "superpixels_val" if role == "label_val" else "superpixels"
    steps = [cell.roles[name] for cell in cells if name in cell.roles]
    return plan.done.get(steps[0].key) if steps else None


def _first_maps(manifest: Manifest | None, storage: Storage) -> dict[str, np.ndarray]:
    if manifest is None:
        return {}
    every: Iterator[tuple[str, np.ndarray]] = itertools.chain.from_iterable(
        read_maps(storage, record.path) for record in manifest.shards
    )
    return dict(itertools.islice(every, _IMAGES))
