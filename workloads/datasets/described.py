"""What data sets share whose masks their user describes: classes by values or colours, and what is ignored."""

from pathlib import PurePosixPath

import numpy as np
from pydantic import Field

from workloads.bucket_paths import AnyPath
from workloads.configs.base import HashedConfig
from workloads.datasets.base import Json, UInt8Array
from workloads.datasets.classes import Classes, ClassTable, Ignored, read_classes
from workloads.datasets.decode import decode_image, decode_labels, image_mode, label_doubts
from workloads.datasets.depth import SixteenBit
from workloads.datasets.files import FileDataset, present
from workloads.errors import BrokenImageError, InputError

_COLOURED = ("RGB", "RGBA")
TRIED = 20
"""Files that are looked for before a description is taken for wrong."""


class DescribedConfig(HashedConfig, tag="DescribedConfig"):
    """What is described of classes, pools and depths, wherever the images are named."""

    classes: Classes | None = Field(
        None,
        description="names in the order of their values, {value: name}, {name, values, colour}, or a file of them; a "
        "name of null is ignored",
    )
    ignore: Ignored = Field((), description="values, or colours, of pixels that count for nothing")
    pool: str = Field("train", description="pool whose images are labelled")
    val: str = Field("val", description="pool with masks on which scores are measured")
    sixteen_bit: SixteenBit = None

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


class Described(FileDataset):
    """Images and masks of classes that are described.

    Raises
    ------
    InputError
        ``root`` is missing, or the description of the classes is wrong.
    """

    def __init__(self, root: AnyPath, classes: Classes | None, ignore: Ignored, sixteen_bit: SixteenBit) -> None:
        super().__init__(root)
        self.sixteen_bit = sixteen_bit
        self._table = ClassTable.of(read_classes(classes, root) if classes is not None else [], ignore)
        self.classes = self._table.names
        self.palette = self._table.palette

    def decode_ground_truth(self, data: bytes, path: AnyPath) -> UInt8Array:
        """Classes of an indexed or an RGB mask."""
        mode = image_mode(data)
        if mode in _COLOURED or (mode == "P" and self._table.by_colour_alone):
            try:
                return self._table.of_colours(decode_image(data, str(path)), str(path))
            except BrokenImageError as error:
                raise InputError(f"{path}: {error.reason}") from None
        return self._table.of_values(decode_labels(data, str(path)), str(path))

    def ground_truth_doubts(self, pool: str, image_id: str) -> tuple[str, ...]:
        """As of all files of values; colours have no values to look odd."""
        data = self._read_labels(self.label_path(pool, image_id), image_id)
        if image_mode(data) in _COLOURED:
            return label_doubts(data, np.zeros((1, 1), np.uint16))
        return super().ground_truth_doubts(pool, image_id)

    def identity(self) -> dict[str, Json]:
        """What the images are, and which value or colour is which class; places and names of classes do not count."""
        table = self._table
        values: list[Json] = [[int(value), int(table.values[value])] for value in np.flatnonzero(table.values >= 0)]
        colours: list[Json] = [[colour, index] for colour, index in sorted(table.colours.items())]
        return self.image_identity() | {"values": values, "colours": colours}

    def image_identity(self) -> dict[str, Json]:
        """The name, and how 16 bits become 8: classes may be decided when labels have been seen."""
        return {"name": self.name} | depth_identity(self.sixteen_bit)

    def _require_classes(self, labelled: list[str]) -> None:
        if labelled and not self.classes:
            raise InputError(
                "is missing", key="dataset.classes", allowed=f"pool {labelled[0]} has masks: give names or a file"
            )


def depth_identity(sixteen_bit: SixteenBit) -> dict[str, Json]:
    """What the way of scaling adds to a data set's identity; nothing where none is named."""
    if sixteen_bit is None:
        return {}
    return {"sixteen_bit": sixteen_bit if isinstance(sixteen_bit, str) else list(sixteen_bit)}


def missing(what: str, image: PurePosixPath | str, looked_for: AnyPath, key: str, value: str | None) -> InputError:
    """What to say of a description that finds nothing: an example, what was looked for, and what is there."""
    return InputError(
        f"{what} gives {looked_for} for {image}, which is not there",
        key=key,
        value=value,
        allowed=present(looked_for.parent),
    )
