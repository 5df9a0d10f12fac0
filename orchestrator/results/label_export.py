"""Label maps as other tools read them, and a legend.

The model: up to 255 clusters fit an 8-bit indexed PNG with index 255 for ignored pixels; more are written as 16-bit
greyscale with 65535. The legend says which label is which class, as far as a score step has matched them. What each
format is made of is in `label_formats`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.execution.progress import Progress
from orchestrator.ledger.image_sets import read_listing
from orchestrator.ledger.shards import read_maps
from orchestrator.planning.cells import PlannedCell, StepNotDoneError
from orchestrator.planning.plan import Plan
from orchestrator.results.file_names import file_names
from orchestrator.results.label_formats import FORMATS, Exported, LabelFormat, encoded
from orchestrator.steps.step import ShardedStep
from orchestrator.storage.store import Storage
from workloads.datasets import open_dataset
from workloads.errors import InputError
from workloads.figures import distinct_colours, sheet
from workloads.own_output import is_unused, mark, read_mark


@dataclass(frozen=True)
class LabelMaps:
    """The label maps of a cell, of the images that are trained on (``train``) or evaluated (``val``)."""

    plan: Plan
    cell: PlannedCell
    pool: str
    storage: Storage

    @property
    def step(self) -> ShardedStep:
        """The step that made them.

        Raises:
            InputError: the cell has none, or it is not done.
        """
        step = self.cell.roles.get("label" if self.pool == "train" else "label_val")
        if step is None:
            reason = self.cell.error or "no such step"
            raise InputError(f"--pool {self.pool}: this cell has no label maps there ({reason})")
        if step.key not in self.plan.done:
            raise StepNotDoneError.of("the label step", self.storage.uri)
        assert isinstance(step, ShardedStep)
        return step

    @property
    def num_clusters(self) -> int:
        """K, the number of labels."""
        return int(self.plan.done[self.cell.roles["cluster"].key].results["num_clusters"])

    @property
    def matched(self) -> dict[int, str]:
        """The class of each label that a score step has matched to one."""
        score = self.plan.done.get(self.cell.roles["score"].key) if "score" in self.cell.roles else None
        if score is None:
            return {}
        entry = self.cell.cell.entry.dataset
        classes = open_dataset(entry.config, entry.root).classes
        return {int(label): classes[index] for label, index in score.results["matching"].items()}


def export_label_maps(maps: LabelMaps, output: Path, progress: Progress, kind: str = "png") -> int:
    """Write the label maps of one cell to a folder and return how many there are; `kind` is one of `FORMATS`.

    Raises:
        InputError: the cell's labels are not done, or the folder holds other files.
    """
    step, num_clusters = maps.step, maps.num_clusters
    palette, matched = distinct_colours(num_clusters), maps.matched
    dataset = step.source.open()
    named = tuple(
        f"{label} {matched[label]}" if label in matched else f"label {label}" for label in range(num_clusters)
    )
    what = Exported(step.source.pool, dataset.place(step.source.pool), named, palette)
    # What cannot be written, for want of a package or of room for labels, is refused before the folder is touched.
    writer = FORMATS[kind](Storage(str(output)), what)
    held = f"label maps of step {step.key}" + ("" if kind == "png" else f" as {kind}")
    _require_own_folder(output, held, step.key)
    # Marked before anything else: an export that was killed is repeated by the same command.
    mark(output, held)
    progress.expect(step.title, step.images.count)
    names = file_names(read_listing(maps.storage, step.images.listing, 0, step.images.count))
    images: set[str] = set()
    for record in maps.plan.done[step.key].shards:
        for image_id, labels in read_maps(maps.storage, record.path):
            writer.add(names[image_id], dataset.suffix(step.source.pool, image_id), labels)
            images.add(names[image_id])
        progress.advance(step.title, record.images)
    writer.finish()
    legend = _legend(maps, step.key, writer)
    writer.folder.write_nondurable("legend.json", json.dumps(legend, indent=1).encode())
    if kind != "png" or "legend" not in images:
        writer.folder.write_nondurable("legend.png", encoded(_legend_picture(legend)))
    return len(images)


def _require_own_folder(output: Path, held: str, key: str) -> None:
    """Refuse a folder that holds anything but an earlier export of the same step: images of pools share names."""
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"{output} is a file; give a folder")
    if is_unused(output) or read_mark(output) == held:
        return
    try:
        exported = json.loads((output / "legend.json").read_text(encoding="utf-8"))["step"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise InputError(f"folder {output} holds other files; give an empty or a new one") from None
    if exported != key:
        raise InputError(f"folder {output} holds the labels of another cell or pool; give an empty or a new one")
    if read_mark(output) is not None:
        raise InputError(f"folder {output} holds {read_mark(output)}; give an empty or a new one")


def _legend_picture(legend: dict[str, Any]) -> Image.Image:
    shown = [*legend["labels"], {"label": "ignored", "class": None, "colour": legend["ignored_colour"]}]
    swatches = [[np.full((24, 96, 3), entry["colour"], dtype=np.uint8)] for entry in shown]
    names = [f"{entry['label']} {entry['class'] or ''}" for entry in shown]
    return Image.fromarray(sheet(swatches, ["label"], names, cell_width=192))


def _legend(maps: LabelMaps, key: str, writer: LabelFormat) -> dict[str, Any]:
    matched = maps.matched
    return {
        "cell": maps.cell.cell.values,
        "step": key,
        "ignore": writer.what.ignore,
        "ignored_colour": list(writer.ignored_colour),
        "labels": [
            {"label": label, "colour": [int(value) for value in colour], "class": matched.get(label)}
            for label, colour in enumerate(writer.what.palette)
        ],
    }
