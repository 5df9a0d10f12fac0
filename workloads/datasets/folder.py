"""Any folder of images without labels: the user's own pictures.

The model: every image below the root, in folders of any depth, is in one pool ``train``; where the root has a
folder ``train``, the pools are the folders with a pool's name instead (train, train_extra, val, test, raw,
sequence), and nothing outside them is read. An id is the path below the pool's folder, suffix included,
because a.jpg and a.png are two images. There is no ground truth; how many classes M to suppose is the user's
to say (``num_classes``). The failure this guards against: needing labels to make labels.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from workloads.bucket_paths import AnyPath
from workloads.configs.base import HashedConfig
from workloads.datasets.base import ImageEntry, Json, distinct_palette
from workloads.datasets.decode import IMAGE_SUFFIXES
from workloads.datasets.depth import SixteenBit
from workloads.datasets.described import depth_identity
from workloads.datasets.files import FileDataset, scan_tree

POOL_FOLDERS = ("train", "train_extra", "val", "test", "raw", "sequence")


class FolderConfig(HashedConfig, tag="FolderConfig"):
    """A folder of images without ground truth."""

    name: Literal["folder"] = Field("folder", description="any folder of images, no ground truth")
    pool: str = Field(
        "train",
        description="pool whose images are labelled: train is the whole tree unless it has a folder train",
    )
    val: str = Field("val", description="pool for scores; unused, as a plain folder has no ground truth")
    num_classes: int | None = Field(
        None,
        ge=1,
        le=255,
        description="M, the number of classes to suppose; null when the number of clusters is given",
    )
    sixteen_bit: SixteenBit = None


class Folder(FileDataset):
    """Images below ``root``; see the module's docstring.

    Raises:
        InputError: ``root`` is missing.
    """

    name = "folder"
    classes = ()

    def __init__(self, root: AnyPath, num_classes: int | None = None, sixteen_bit: SixteenBit = None) -> None:
        super().__init__(root)
        self.sixteen_bit = sixteen_bit
        self._num_classes = num_classes
        self._in_folders = (root / "train").is_dir()
        self.pools = tuple(pool for pool in POOL_FOLDERS if (root / pool).is_dir()) if self._in_folders else ("train",)
        self.palette = distinct_palette(num_classes or 0)

    @property
    def num_classes(self) -> int | None:
        """The number of classes the user supposes; None when not given."""
        return self._num_classes

    def image_folder(self, pool: str) -> AnyPath:
        """``root/{pool}``, or ``root`` when the whole tree is one pool."""
        return self.root / pool if self._in_folders else self.root

    def scan(self, pool: str) -> Iterator[ImageEntry]:
        """Ids are paths below the pool's folder, with ``/`` and with the suffix."""
        for path, facts in scan_tree(self.image_folder(pool), IMAGE_SUFFIXES):
            yield ImageEntry(str(path), *facts)

    def image_path(self, pool: str, image_id: str) -> AnyPath:
        """The id below the pool's folder."""
        return self.image_folder(pool) / image_id

    def labelled(self, pool: str) -> bool:
        """Never."""
        return False

    def identity(self) -> dict[str, Json]:
        """The name and the supposed number of classes."""
        return {"name": self.name, "num_classes": self._num_classes} | depth_identity(self.sixteen_bit)
