"""What a pool holds, before anything is computed from it: counts, sizes, kinds, broken files, label values.

The model: read each image and its ground truth once, count, and collect every error instead of stopping at
the first. The failure this guards against: a run of hours that ends with classes that never occur, 255 scored
as a class or one truncated file.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from workloads.datasets.base import Dataset, Json
from workloads.datasets.decode import IMAGE_SUFFIXES, looks_like_mask
from workloads.datasets.order import seeded_order
from workloads.errors import BrokenImageError, InputError
from workloads.ignored import IGNORE_CLASS


@dataclass
class Survey:
    """What was found in one pool.

    Attributes:
        pool: name of the pool.
        available: images in the pool.
        examined: images that were read.
        sizes: (height, width) -> number of images.
        conversions: what was converted on decoding, e.g. "greyscale", "alpha", "16-bit" -> number of images.
        broken: (image id, reason) of every image that cannot be used.
        labelled: whether the pool has ground truth.
        class_pixels: class name -> pixels; empty when there is no ground truth.
        ignored_pixels: pixels of ground truth that take no part in scores.
        label_errors: (image id, message) of every ground truth that cannot be used.
        label_doubts: what makes ground truth look wrong -> number of images.
        counted_from_one: images whose ground truth looks as if its values were one too high.
        like_masks: images without ground truth that look as if they were somebody's masks.
        same_stem: pairs of images without ground truth whose names differ in their suffix alone.
    """

    pool: str
    available: int
    labelled: bool
    examined: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    conversions: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[str, str]] = field(default_factory=list)
    class_pixels: dict[str, int] = field(default_factory=dict)
    ignored_pixels: int = 0
    label_errors: list[tuple[str, str]] = field(default_factory=list)
    label_doubts: Counter[str] = field(default_factory=Counter)
    counted_from_one: int = 0
    like_masks: list[str] = field(default_factory=list)
    same_stem: list[tuple[str, str]] = field(default_factory=list)

    @property
    def ignored_share(self) -> float:
        """Share of ground-truth pixels that are ignored, 0..1; 0 when there is none."""
        total = sum(self.class_pixels.values()) + self.ignored_pixels
        return self.ignored_pixels / total if total else 0.0

    @property
    def absent_classes(self) -> tuple[str, ...]:
        """Classes without a single pixel in what was examined."""
        return tuple(name for name, pixels in self.class_pixels.items() if pixels == 0)

    def to_json(self) -> dict[str, Json]:
        """The survey as plain JSON values."""
        return {
            "pool": self.pool,
            "available": self.available,
            "examined": self.examined,
            "sizes": {f"{height}x{width}": count for (height, width), count in self.sizes.most_common()},
            "conversions": dict(self.conversions.most_common()),
            "broken": [{"image": image_id, "reason": reason} for image_id, reason in self.broken],
            "labelled": self.labelled,
            "class_pixels": dict(self.class_pixels),
            "ignored_share": self.ignored_share,
            "absent_classes": list(self.absent_classes),
            "label_errors": [{"image": image_id, "message": message} for image_id, message in self.label_errors],
            "label_doubts": dict(self.label_doubts.most_common()),
            "counted_from_one": self.counted_from_one,
            "like_masks": list(self.like_masks),
            "same_stem": [list(pair) for pair in self.same_stem],
        }


def survey(dataset: Dataset, pool: str, limit: int | None = None) -> Survey:
    """Read a pool's images and ground truth and count what is there.

    Args:
        dataset: the data set.
        pool: one of its pools.
        limit: examine only this many images, the first of the pool's seeded order; None examines all.

    Raises:
        InputError: missing root, unknown pool or empty pool. Errors of single images are collected, not
            raised.
    """
    entries = dataset.entries(pool)
    found = Survey(pool=pool, available=len(entries), labelled=dataset.labelled(pool))
    counts = np.zeros(256, dtype=np.int64)
    for entry in seeded_order(entries, seed=0)[:limit] if limit is not None else entries:
        found.examined += 1
        try:
            picture = dataset.read_picture(pool, entry.id)
            found.sizes[picture.pixels.shape[0], picture.pixels.shape[1]] += 1
            found.conversions.update(picture.notes)
            if not found.labelled and looks_like_mask(picture.pixels):
                found.like_masks.append(entry.id)
        except BrokenImageError as error:
            found.broken.append((entry.id, error.reason))
        except OSError as error:
            found.broken.append((entry.id, f"the file cannot be read: {error.strerror}"))
        if found.labelled:
            try:
                own = np.bincount(dataset.read_ground_truth(pool, entry.id).ravel(), minlength=256)
                counts += own
                found.counted_from_one += _counted_from_one(own, len(dataset.classes))
                found.label_doubts.update(dataset.ground_truth_doubts(pool, entry.id))
            except (InputError, OSError) as error:
                found.label_errors.append((entry.id, str(error)))
    if not found.labelled:
        found.same_stem = _same_stem([entry.id for entry in entries])
    if found.labelled:
        found.class_pixels = {name: int(counts[label]) for label, name in enumerate(dataset.classes)}
        found.ignored_pixels = int(counts[IGNORE_CLASS])
    return found


def _same_stem(image_ids: list[str]) -> list[tuple[str, str]]:
    """Ids that differ in the suffix of a picture alone, as ``a.jpg`` and ``a.png``."""
    first: dict[str, str] = {}
    pairs = []
    for image_id in image_ids:
        path = PurePosixPath(image_id)
        stem = str(path.with_suffix("")) if path.suffix.lower() in IMAGE_SUFFIXES else image_id
        if first.setdefault(stem, image_id) != image_id:
            pairs.append((first[stem], image_id))
    return pairs


def _counted_from_one(pixels: np.ndarray, num_classes: int) -> bool:
    """Whether values look one too high: none of the first class, but some of the last and of ignored pixels, for which
    one value above the last class stands in many data sets.
    """
    return num_classes > 1 and not pixels[0] and bool(pixels[num_classes - 1]) and bool(pixels[IGNORE_CLASS])
