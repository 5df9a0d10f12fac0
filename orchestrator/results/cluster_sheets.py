"""A sheet of patches of every cluster, for whoever has no ground truth and wants to know what the clusters are."""

import itertools
import re

import numpy as np

from orchestrator.ledger.layout import figure_path
from orchestrator.planning.cells import PlannedCell
from orchestrator.planning.plan import Plan
from orchestrator.results.cell_maps import CellMaps, dataset_of
from orchestrator.results.figures import first_of_repeats, name_among, save_picture
from orchestrator.storage.store import Storage
from workloads.figures import sheet
from workloads.labels.patches import typical_patches

_IMAGES = 64
_PATCHES = 10
_CLUSTERS = 100
_SHEETS = 3
_PATCH_WIDTH = 96


def write_cluster_sheets(plan: Plan, storage: Storage) -> list[str]:
    """Write ``figures/NAME-clusters-SETTING.png`` of the first settings that nothing scores; their places."""
    maps = CellMaps(plan, storage)
    cells = [cell for cell in plan.cells if maps.labels(cell) is not None and "score" not in cell.roles]
    settings = first_of_repeats(cells)
    return [
        save_picture(_sheet(maps, cell), figure_path(plan.name, _part(name_among(cell, settings))), storage)
        for cell in settings[:_SHEETS]
    ]


def _part(setting: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"clusters {setting}").strip("-")


def _sheet(maps: CellMaps, cell: PlannedCell) -> np.ndarray:
    dataset, pool = dataset_of(cell), cell.roles["label"].images.pool
    first = dict(itertools.islice(maps.maps(maps.labels(cell)), _IMAGES))
    found = dict(itertools.islice(typical_patches(first.items(), _PATCHES).items(), _CLUSTERS))
    pictures: dict[str, np.ndarray] = {}
    for name in {patch.image for patches in found.values() for patch in patches}:
        pictures[name] = dataset.read_image(pool, name)
    rows: list[list[np.ndarray | None]] = []
    for label, patches in found.items():
        cut = [patch.cut(pictures[patch.image], first[patch.image], label) for patch in patches]
        rows.append([*cut, *[None] * (_PATCHES - len(cut))])
    return sheet(rows, [""] * _PATCHES, [f"label {label}" for label in found], cell_width=_PATCH_WIDTH)
