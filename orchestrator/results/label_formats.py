"""Label maps in the formats of other tools: indexed PNGs, COCO, CVAT's segmentation mask 1.1, mmsegmentation's layout.

Names of files keep the stem of their image in all of them. Ignored pixels are never a label by mistake: they have no
annotation in COCO, a label of their own, ``ignored``, in CVAT (which refuses a colour that is not declared), and 255 in
what mmsegmentation reads.
"""

import io
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.storage.store import Storage
from workloads.errors import InputError
from workloads.ignored import IGNORE_LABEL

EIGHT_BIT_IGNORE = 255
_BACKGROUND = (0, 0, 0)
_MMSEG = """\
# Label maps of lookbeyond for mmsegmentation: put this into a config, and set data_root to this folder.
dataset_type = "BaseSegDataset"
data_root = "."
metainfo = dict(
    classes={classes},
    palette={palette},
)
train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        ann_file="splits/{pool}.txt",
        data_prefix=dict(img_path="{images}", seg_map_path="annotations/{pool}"),
        img_suffix="{suffix}",
        seg_map_suffix=".png",
        reduce_zero_label=False,
        ignore_index={ignore},
    ),
)
"""


@dataclass(frozen=True)
class Exported:
    """What is exported: the pool and the folder of its images, and of the K labels their names and colours (K, 3)."""

    pool: str
    images: str
    names: tuple[str, ...]
    palette: np.ndarray

    @property
    def eight_bits(self) -> bool:
        """Whether the labels and an ignored value fit 8 bits."""
        return len(self.names) <= EIGHT_BIT_IGNORE

    @property
    def ignore(self) -> int:
        """The value of ignored pixels in indexed files."""
        return EIGHT_BIT_IGNORE if self.eight_bits else IGNORE_LABEL


@dataclass
class LabelFormat(ABC):
    """Writes label maps to a folder, one after the other."""

    folder: Storage
    what: Exported

    @property
    def ignored_colour(self) -> tuple[int, int, int]:
        """The colour of ignored pixels in what is written."""
        return (0, 0, 0)

    @abstractmethod
    def add(self, name: str, suffix: str, labels: np.ndarray) -> None:
        """Write the labels uint16 (H, W) of an image, whose file is called `name` and `suffix`."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is said of all of them."""

    def _indexed(self, labels: np.ndarray) -> Image.Image:
        if not self.what.eight_bits:
            return Image.fromarray(labels)
        indices = np.where(labels == IGNORE_LABEL, EIGHT_BIT_IGNORE, labels).astype(np.uint8)
        picture = Image.fromarray(indices, mode="P")
        colours = np.zeros((256, 3), dtype=np.uint8)
        colours[: len(self.what.palette)] = self.what.palette
        picture.putpalette(colours.reshape(-1).tolist())
        return picture


class Pngs(LabelFormat):
    """One indexed PNG an image."""

    def add(self, name: str, suffix: str, labels: np.ndarray) -> None:
        """See `LabelFormat.add`."""
        self.folder.write_nondurable(f"{name}.png", encoded(self._indexed(labels)))

    def finish(self) -> None:
        """Nothing but the legend is said of them."""


@dataclass
class Coco(LabelFormat):
    """COCO's instances with compressed RLE, one annotation a label and image; category k + 1 is label k."""

    _images: list[dict[str, Any]] = field(default_factory=list)
    _annotations: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            import pycocotools.mask
        except ImportError:
            raise InputError(
                "--format coco needs pycocotools, which is not installed", allowed="install lookbeyond[coco]"
            ) from None
        self._rle = pycocotools.mask

    def add(self, name: str, suffix: str, labels: np.ndarray) -> None:
        """See `LabelFormat.add`."""
        number = len(self._images) + 1
        height, width = labels.shape
        self._images.append({"id": number, "file_name": f"{name}{suffix}", "height": height, "width": width})
        for label in np.unique(labels):
            if label == IGNORE_LABEL:
                continue
            found = self._rle.encode(np.asfortranarray(labels == label, dtype=np.uint8))
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "segmentation": {"size": [height, width], "counts": found["counts"].decode("ascii")},
                    "area": int(self._rle.area(found)),
                    "bbox": [float(part) for part in self._rle.toBbox(found)],
                    "iscrowd": 0,
                }
            )

    def finish(self) -> None:
        """See `LabelFormat.finish`."""
        categories = [
            {"id": label + 1, "name": name, "supercategory": ""} for label, name in enumerate(self.what.names)
        ]
        document = {"images": self._images, "annotations": self._annotations, "categories": categories}
        text = json.dumps({"info": {"description": "label maps of lookbeyond"}, "licenses": [], **document})
        self.folder.write_nondurable(f"annotations/instances_{self.what.pool}.json", text.encode())


@dataclass
class Cvat(LabelFormat):
    """CVAT's segmentation mask 1.1, which is Pascal VOC's layout: masks in colours that labelmap.txt declares."""

    _written: list[str] = field(default_factory=list)

    @property
    def ignored_colour(self) -> tuple[int, int, int]:
        """One that no label has, and not that of the background."""
        taken = {tuple(colour) for colour in self.what.palette.tolist()}
        return next((shade, shade, shade) for shade in range(255, 0, -1) if (shade, shade, shade) not in taken)

    def add(self, name: str, suffix: str, labels: np.ndarray) -> None:
        """See `LabelFormat.add`."""
        colours = np.concatenate([self.what.palette, [self.ignored_colour]]).astype(np.uint8)
        places = np.where(labels == IGNORE_LABEL, len(self.what.palette), labels)
        self.folder.write_nondurable(f"SegmentationClass/{name}.png", encoded(Image.fromarray(colours[places])))
        self._written.append(name)

    def finish(self) -> None:
        """See `LabelFormat.finish`."""
        declared = [("background", _BACKGROUND), *zip(self.what.names, self.what.palette.tolist(), strict=True)]
        lines = [
            "# label:color_rgb:parts:actions",
            *(
                f"{name}:{','.join(map(str, colour))}::"
                for name, colour in (*declared, ("ignored", self.ignored_colour))
            ),
        ]
        self.folder.write_nondurable("labelmap.txt", ("\n".join(lines) + "\n").encode())
        listed = "".join(f"{name}\n" for name in self._written)
        self.folder.write_nondurable(f"ImageSets/Segmentation/{self.what.pool}.txt", listed.encode())


@dataclass
class Mmseg(LabelFormat):
    """mmsegmentation's layout: indexed PNGs, a list of the images, and a piece of configuration."""

    _written: list[str] = field(default_factory=list)
    _suffixes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not self.what.eight_bits:
            raise InputError(
                f"{len(self.what.names)} labels do not fit the 8 bits that mmsegmentation reads",
                key="--format",
                value="mmseg",
                allowed=f"allowed: at most {EIGHT_BIT_IGNORE}; --format png and coco take more",
            )

    def add(self, name: str, suffix: str, labels: np.ndarray) -> None:
        """See `LabelFormat.add`."""
        picture = encoded(self._indexed(labels))
        self.folder.write_nondurable(f"annotations/{self.what.pool}/{name}.png", picture)
        self._written.append(name)
        self._suffixes.add(suffix)

    def finish(self) -> None:
        """See `LabelFormat.finish`."""
        listed = "".join(f"{name}\n" for name in self._written)
        self.folder.write_nondurable(f"splits/{self.what.pool}.txt", listed.encode())
        suffixes = sorted(self._suffixes)
        config = _MMSEG.format(
            classes=self.what.names,
            palette=self.what.palette.tolist(),
            pool=self.what.pool,
            images=self.what.images,
            suffix=suffixes[0] if suffixes else ".png",
            ignore=EIGHT_BIT_IGNORE,
        )
        if len(suffixes) > 1:
            config += f"# Images end in {', '.join(suffixes)}; mmsegmentation takes one suffix a data set.\n"
        self.folder.write_nondurable("mmseg_config.py", config.encode())


FORMATS: dict[str, type[LabelFormat]] = {"png": Pngs, "coco": Coco, "cvat": Cvat, "mmseg": Mmseg}


def encoded(picture: Image.Image) -> bytes:
    """The picture as the bytes of a PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
