"""Label maps as other tools read them: indexed PNGs with a palette, and a legend.

The model: up to 255 clusters fit an 8-bit indexed PNG with index 255 for ignored pixels; more are written as 16-bit
greyscale with 65535. The legend says which label is which class, as far as a score step has matched them.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.execution.progress import Progress
from orchestrator.ledger.image_sets import read_listing
from orchestrator.ledger.manifests import Manifest
from orchestrator.ledger.shards import read_maps
from orchestrator.planning.cells import PlannedCell
from orchestrator.planning.plan import Plan
from orchestrator.results.file_names import file_names
from orchestrator.storage.store import Storage
from workloads.datasets import open_dataset
from workloads.errors import InputError
from workloads.figures import distinct_colours, sheet
from workloads.ignored import IGNORE_LABEL
from workloads.own_output import mark, read_mark

_EIGHT_BIT_IGNORE = 255


def export_label_maps(
    plan: Plan, planned: PlannedCell, pool: str, storage: Storage, output: Path, progress: Progress
) -> int:
    """Write the label maps of one cell to a folder and return how many there are.

    Raises:
        InputError: the cell's labels are not done, or the folder holds other files.
    """
    role = "label" if pool == "train" else "label_val"
    step = planned.roles.get(role)
    if step is None:
        raise InputError(f"--pool {pool}: this cell has no label maps there ({planned.error or 'no such step'})")
    manifest = plan.done.get(step.key)
    if manifest is None:
        raise InputError(f"the labels of this cell are not done on {storage.uri}; `lookbeyond run` makes them")
    num_clusters = int(plan.done[planned.roles["cluster"].key].results["num_clusters"])
    held = f"label maps of step {step.key}"
    _require_own_folder(output, held, step.key)
    # Marked before anything else: an export that was killed is repeated by the same command.
    mark(output, held)
    folder = Storage(str(output))
    palette = distinct_colours(num_clusters)
    progress.expect(step.title, step.images.count)
    names = file_names(read_listing(storage, step.images.listing, 0, step.images.count))
    images: set[str] = set()
    for record in manifest.shards:
        for image_id, labels in read_maps(storage, record.path):
            folder.write_nondurable(f"{names[image_id]}.png", _encoded(_picture(labels, palette, num_clusters)))
            images.add(names[image_id])
        progress.advance(step.title, record.images)
    legend = _legend(plan, planned, step.key, palette, num_clusters)
    folder.write_nondurable("legend.json", json.dumps(legend, indent=1).encode())
    if "legend" not in images:
        folder.write_nondurable("legend.png", _encoded(_legend_picture(legend)))
    return len(images)


def _encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _require_own_folder(output: Path, held: str, key: str) -> None:
    """Refuse a folder that holds anything but an earlier export of the same step: images of pools share names."""
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"{output} is a file; give a folder")
    if not any(output.iterdir()) or read_mark(output) == held:
        return
    try:
        exported = json.loads((output / "legend.json").read_text(encoding="utf-8"))["step"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise InputError(f"folder {output} holds other files; give an empty or a new one") from None
    if exported != key:
        raise InputError(f"folder {output} holds the labels of another cell or pool; give an empty or a new one")


def _picture(labels: np.ndarray, palette: np.ndarray, num_clusters: int) -> Image.Image:
    if num_clusters > _EIGHT_BIT_IGNORE:
        return Image.fromarray(labels)
    indices = np.where(labels == IGNORE_LABEL, _EIGHT_BIT_IGNORE, labels).astype(np.uint8)
    picture = Image.fromarray(indices, mode="P")
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[:num_clusters] = palette[:num_clusters]
    picture.putpalette(colours.reshape(-1).tolist())
    return picture


def _legend_picture(legend: dict[str, Any]) -> Image.Image:
    swatches = [[np.full((24, 96, 3), entry["colour"], dtype=np.uint8)] for entry in legend["labels"]]
    names = [f"{entry['label']} {entry['class'] or ''}" for entry in legend["labels"]]
    return Image.fromarray(sheet(swatches, ["label"], names, cell_width=192))


def _legend(plan: Plan, planned: PlannedCell, key: str, palette: np.ndarray, num_clusters: int) -> dict[str, Any]:
    entry = planned.cell.entry.dataset
    score: Manifest | None = plan.done.get(planned.roles["score"].key) if "score" in planned.roles else None
    matched: dict[int, str] = {}
    if score is not None:
        classes = open_dataset(entry.config, entry.root).classes
        matched = {int(label): classes[index] for label, index in score.results["matching"].items()}
    ignore = _EIGHT_BIT_IGNORE if num_clusters <= _EIGHT_BIT_IGNORE else IGNORE_LABEL
    return {
        "cell": planned.cell.values,
        "step": key,
        "ignore": ignore,
        "labels": [
            {"label": label, "colour": [int(value) for value in palette[label]], "class": matched.get(label)}
            for label in range(num_clusters)
        ],
    }
