"""The pictures of an experiment one by one, for the report: a few images, and what every setting makes of them.

Unlike a sheet, which is one picture, a gallery can be laid out for any width: image and truth stand beside what the
setting that a reader chooses makes of them. It is one JSON file that holds its pictures, scaled down.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.ledger.layout import gallery_path
from orchestrator.planning.cells import PlannedCell
from orchestrator.planning.plan import Plan
from orchestrator.results.cell_maps import CellMaps, Maps, dataset_of, legend_of, truth_of
from orchestrator.results.figures import first_of_repeats, name_among
from orchestrator.storage.store import Storage
from workloads.datasets import Dataset
from workloads.figures import colourise, overlay
from workloads.ignored import IGNORE_CLASS

_IMAGES = 3
_SETTINGS = 24
_WIDTH = 480


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Tile(_Record):
    """One picture: what it shows, its PNG or JPEG in base64, and its size in pixels."""

    title: str
    kind: str
    data: str
    width: int
    height: int

    @staticmethod
    def of(title: str, picture: np.ndarray, *, photograph: bool) -> "Tile":
        """A picture scaled down to what a page shows; labels keep their colours."""
        image = Image.fromarray(np.ascontiguousarray(picture))
        width = min(_WIDTH, image.width)
        scaled = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.BOX)
        buffer = io.BytesIO()
        if photograph:
            scaled.save(buffer, format="JPEG", quality=85)
        else:
            scaled.quantize(256).save(buffer, format="PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        return Tile(
            title=title, kind="jpeg" if photograph else "png", data=data, width=scaled.width, height=scaled.height
        )


class Setting(_Record):
    """What one setting makes of the images: their tiles, in the order of the gallery's images."""

    name: str
    tiles: list[list[Tile]]


class Gallery(_Record):
    """Images with the tiles that all settings share, the settings, and the colours of classes as RGB."""

    images: list[str]
    shared: list[list[Tile]]
    settings: list[Setting]
    legend: list[tuple[str, tuple[int, int, int]]]


def write_gallery(plan: Plan, storage: Storage) -> None:
    """Write ``figures/NAME.json``, where a cell has labels or predictions."""
    maps = CellMaps(plan, storage)
    drawn = [cell for cell in plan.cells if maps.labels(cell) is not None or maps.network(cell) is not None]
    cells = [cell for cell in first_of_repeats(drawn) if _entry(cell) == _entry(drawn[0])][:_SETTINGS]
    if not cells:
        return
    dataset = dataset_of(cells[0])
    labels = [maps.first(maps.labels(cell), _IMAGES) for cell in cells]
    predictions = [maps.predictions(cell) for cell in cells]
    names = list(next(found for found in (*labels, *predictions) if found))[:_IMAGES]
    pool = _pool(cells)
    pictures = {name: dataset.read_image(pool, name) for name in names}
    shared = []
    for name in names:
        truth = truth_of(dataset, pool, name)
        tiles = [Tile.of("image", pictures[name], photograph=True)]
        shared.append(tiles + ([] if truth is None else [Tile.of("ground truth", truth, photograph=False)]))
    settings = [
        Setting(
            name=name_among(cell, cells) or "labels",
            tiles=[_tiles(maps, cell, dataset, name, picture=pictures[name], labels=own, seen=seen) for name in names],
        )
        for cell, own, seen in zip(cells, labels, predictions, strict=True)
    ]
    legend = legend_of(dataset) if dataset.labelled(pool) else []
    gallery = Gallery(images=names, shared=shared, settings=settings, legend=legend)
    storage.replace(gallery_path(plan.name), gallery.model_dump_json().encode())


def read_gallery(storage: Storage, name: str) -> Gallery | None:
    """The gallery of an experiment; None where there is none that can be read."""
    try:
        return Gallery.model_validate_json(storage.read(gallery_path(name)))
    except (FileNotFoundError, ValidationError):
        return None


def _tiles(
    maps: CellMaps, cell: PlannedCell, dataset: Dataset, name: str, *, picture: np.ndarray, labels: Maps, seen: Maps
) -> list[Tile]:
    own = maps.in_own_colours(cell, labels.get(name))
    matched = maps.in_class_colours(cell, dataset, labels.get(name))
    tiles = []
    if own is not None:
        tiles.append(Tile.of("labels", own, photograph=False))
    if own is not None and matched is None:
        tiles.append(Tile.of("labels over the image", overlay(picture, own, 0.5), photograph=True))
    if matched is not None:
        tiles.append(Tile.of("labels as classes", matched, photograph=False))
    if name in seen:
        classes = colourise(seen[name], dataset.palette, IGNORE_CLASS)
        tiles.append(Tile.of("prediction", classes, photograph=False))
    return tiles


def _entry(cell: PlannedCell) -> tuple[object, ...]:
    """What must be equal for cells to show the same images."""
    entry = cell.cell.entry.dataset
    return entry.config, entry.root, _pool([cell])


def _pool(cells: Sequence[PlannedCell]) -> str:
    roles = cells[0].roles
    step = next(roles[role] for role in ("label_val", "label", "finetune") if role in roles)
    return step.images.pool
