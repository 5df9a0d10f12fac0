"""Predictions on new images as files: indexed PNGs, the image with its classes laid over, and a legend."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.execution.progress import Progress
from orchestrator.ledger.image_sets import read_listing
from orchestrator.ledger.manifests import Manifest
from orchestrator.ledger.shards import read_maps
from orchestrator.results.file_names import file_names
from orchestrator.steps.predict import unpacked
from orchestrator.steps.step import ShardedStep
from orchestrator.storage.store import Storage
from workloads.errors import InputError
from workloads.figures import colourise, overlay
from workloads.ignored import IGNORE_CLASS
from workloads.own_output import is_unused, mark, read_mark


@dataclass(frozen=True)
class Wanted:
    """What is written: the names of the M classes and their colours uint8 (M, 3), how the predictions were made, and
    beside the classes overlays, and probabilities as greyscale PNGs.
    """

    classes: tuple[str, ...]
    palette: np.ndarray
    about: dict[str, Any]
    overlays: bool = True
    confidence: bool = False


def export_predictions(
    step: ShardedStep, manifest: Manifest, storage: Storage, output: Path, wanted: Wanted, progress: Progress
) -> int:
    """Write ``masks/ID.png`` for every image, ``legend.json``, and what else is wanted; returns how many images.

    Parameters
    ----------
    step, manifest
        The finished predictions.
    storage
        Where they lie.
    output
        Folder to write to.
    wanted
        What is written.
    progress
        Told of every shard.

    Raises
    ------
    InputError
        The folder holds other files.
    """
    held = f"predictions of step {step.key}"
    if output.exists() and (not output.is_dir() or (not is_unused(output) and read_mark(output) != held)):
        raise InputError(f"{output} holds other files; give an empty or a new folder")
    # Marked before anything else: an export that was killed is repeated by the same command.
    mark(output, held)
    folder = Storage(str(output))
    dataset = step.source.open()
    progress.expect("write files", step.images.count)
    names = file_names(read_listing(storage, step.images.listing, 0, step.images.count))
    count = 0
    for record in manifest.shards:
        for image_id, values in read_maps(storage, record.path):
            found, shares = unpacked(values)
            name = f"{names[image_id]}.png"
            folder.write_nondurable(f"masks/{name}", _png(_indexed(found, wanted.palette)))
            if wanted.overlays:
                picture = dataset.read_image(step.source.pool, image_id)
                colours = colourise(found, wanted.palette, IGNORE_CLASS)
                folder.write_nondurable(f"overlays/{name}", _png(Image.fromarray(overlay(picture, colours, 0.5))))
            if wanted.confidence:
                folder.write_nondurable(f"confidence/{name}", _png(Image.fromarray(shares)))
            count += 1
        progress.advance("write files", record.images)
    named = [
        {"value": value, "class": name, "colour": [int(part) for part in wanted.palette[value]]}
        for value, name in enumerate(wanted.classes)
    ]
    quarantined = {item.image: item.reason for item in manifest.quarantined}
    legend = wanted.about | {"step": step.key, "classes": named, "quarantined": quarantined}
    folder.write_nondurable("legend.json", json.dumps(legend, indent=1).encode())
    return count


def _indexed(classes: np.ndarray, palette: np.ndarray) -> Image.Image:
    picture = Image.fromarray(classes, mode="P")
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    picture.putpalette(colours.reshape(-1).tolist())
    return picture


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
