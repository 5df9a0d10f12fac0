"""The picture sheets of an experiment, ready to be embedded.

The model: `lookbeyond run` leaves sheets as ``figures/NAME*.png``; they are embedded as they are. Where there are none,
the label maps are drawn from their shards, which need no data set. The failure this guards against: showing the sheets
of another experiment whose name begins alike.
"""

import base64
import io
import itertools
import re
import sys
from dataclasses import dataclass

import numpy as np
from PIL import Image

from orchestrator.ledger.manifests import Manifest
from orchestrator.ledger.shards import read_maps
from orchestrator.report.comparing import Result
from orchestrator.report.reading import Experiment
from orchestrator.results.keeping import part_of, pictures_of
from orchestrator.spec.naming import described, differing
from orchestrator.storage.store import Storage
from workloads.errors import InputError
from workloads.figures import colourise, distinct_colours, sheet
from workloads.ignored import IGNORE_LABEL

_IMAGES = 3
_COLUMNS = 6
_CELL_WIDTH = 256
_CAPTIONS = {
    "table1": "labels of the feature extractors, as in the paper's Figures 1 and 2",
    "table2": "labels with different numbers of clusters, as in the paper's Figure 3",
}


@dataclass(frozen=True)
class Sheet:
    """A picture as a data URI, with its size in pixels and what it shows."""

    caption: str
    source: str
    width: int
    height: int


def sheets_of(experiment: Experiment, results: list[Result], storage: Storage, *, in_gallery: bool) -> list[Sheet]:
    """The sheets on the storage; where there are none, one drawn from label shards (or none).

    Those of labels and predictions are left out where a gallery has their pictures.
    """
    paths = {part_of(path, experiment.name): path for path in pictures_of(storage, experiment.name)}
    shown = [part for part in sorted(paths, key=_order) if not in_gallery or _order(part)[0]]
    if paths or in_gallery:
        return [_embedded(storage.read(paths[part]), _caption(experiment, part)) for part in shown]
    drawn = _drawn(experiment, results, storage)
    return [] if drawn is None else [drawn]


def _order(kind: str) -> tuple[int, int, str]:
    """Label sheets by their page, then predictions, then the others by name."""
    if not kind or kind.isdigit():
        return (0, int(kind or 1), "")
    return (0, sys.maxsize, kind) if kind == "predictions" else (1, 0, kind)


def _caption(experiment: Experiment, kind: str) -> str:
    if kind == "predictions":
        return "predictions after fine-tuning beside the ground truth"
    if kind.startswith("clusters"):
        setting = kind.removeprefix("clusters").replace("-", " ")
        return f"patches of every label where it is widest, other labels in the dark{':' if setting else ''}{setting}"
    if kind and not kind.isdigit():
        return re.sub(r"[-_]+", " ", kind)
    page = f", page {kind}" if kind else ""
    return _CAPTIONS.get(experiment.layout or "", "images, superpixels, labels and the classes they match") + page


def _embedded(data: bytes, caption: str) -> Sheet:
    with Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
    return Sheet(caption, f"data:image/png;base64,{base64.b64encode(data).decode()}", width, height)


def _drawn(experiment: Experiment, results: list[Result], storage: Storage) -> Sheet | None:
    """The first label maps of the first results, in colours of their own."""
    columns: list[tuple[str, dict[str, np.ndarray], int]] = []
    for result in results:
        _, cell = result.cells[0]
        labels = experiment.manifests.get(cell.steps.get("label_val") or cell.steps.get("label") or "")
        num_clusters = cell.metrics.num_clusters
        if labels is not None and num_clusters is not None and len(columns) < _COLUMNS:
            title = result.row or described(result.values, differing(results)) or "labels"
            columns.append((title, _first_maps(labels, storage), num_clusters))
    names = list(dict.fromkeys(name for _, maps, _ in columns for name in maps))[:_IMAGES]
    if not names:
        return None
    rows = [
        [
            colourise(maps[name], distinct_colours(num_clusters), IGNORE_LABEL) if name in maps else None
            for _, maps, num_clusters in columns
        ]
        for name in names
    ]
    titles = [title for title, _, _ in columns]
    captions = [name.rsplit("/", 1)[-1] for name in names]
    buffer = io.BytesIO()
    Image.fromarray(sheet(rows, titles, captions, cell_width=_CELL_WIDTH)).save(buffer, format="PNG")
    return _embedded(buffer.getvalue(), "labels in colours of their own, drawn from the label shards")


def _first_maps(manifest: Manifest, storage: Storage) -> dict[str, np.ndarray]:
    """A few label maps; none where the shards are gone, which `lookbeyond verify` reports."""
    try:
        every = itertools.chain.from_iterable(read_maps(storage, shard.path) for shard in manifest.shards)
        return dict(itertools.islice(every, _IMAGES))
    except InputError:
        return {}
