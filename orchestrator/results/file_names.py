"""Names of the files that are written for images."""

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from workloads.datasets.decode import IMAGE_SUFFIXES


def file_names(image_ids: Iterable[str]) -> dict[str, str]:
    """A name without suffix for every image: that of its file where no other image would get it, else its id."""
    short = {image_id: _without_suffix(image_id) for image_id in image_ids}
    taken = Counter(short.values())
    # An id that is itself another's short name keeps it.
    return {
        image_id: name if taken[name] == 1 and (name == image_id or name not in short) else image_id
        for image_id, name in short.items()
    }


def _without_suffix(image_id: str) -> str:
    path = PurePosixPath(image_id)
    return str(path.with_suffix("")) if path.suffix.lower() in IMAGE_SUFFIXES else image_id
