"""A table of images: a Parquet or CSV file with columns ``image``, ``mask`` and ``pool``.

Places may be relative to the table, absolute, or in buckets (s3://, gs://). A pool has masks where all its rows do. A
row without a pool is in ``train``. An image's id is its path below the deepest folder that all images of its pool
share, without its suffix; a column ``id`` names it otherwise.
"""

import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from pydantic import Field

from workloads.bucket_paths import AnyPath, BucketPath, any_path, is_uri
from workloads.datasets.base import ImageEntry
from workloads.datasets.described import TRIED, Described, DescribedConfig, missing
from workloads.datasets.files import FileFacts, present
from workloads.errors import BrokenImageError, InputError

_COLUMNS = ("image", "mask", "pool", "id")
_KEY = "dataset.file"
_SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".csv": ",", ".tsv": "\t"}
TABLE_SUFFIXES = tuple(_SUFFIXES)
"""How names of tables end, in small letters."""


class TableConfig(DescribedConfig, tag="TableConfig"):
    """A table of images."""

    name: Literal["table"] = Field("table", description="a Parquet or CSV table with columns image, mask, pool")
    file: str = Field(
        min_length=1, description="the table, below the root, or s3:// or gs://; places in it are relative to it"
    )


@dataclass(frozen=True)
class _Row:
    """A row of the table: the places as they are written; `id` is empty where the table names none."""

    image: str
    mask: str
    pool: str
    id: str


class Table(Described):
    """The images of a table; see the module's docstring.

    Parameters
    ----------
    root
        Folder that the file's place is relative to.
    config
        The description.

    Raises
    ------
    InputError
        The table cannot be read, lacks a column, or finds no images or masks.
    """

    name = "table"

    def __init__(self, root: AnyPath, config: TableConfig) -> None:
        self._file = any_path(config.file, _KEY) if _is_whole(config.file) else root / config.file
        super().__init__(self._file.parent, config.classes, config.ignore, config.sixteen_bit)
        self._buckets: dict[str, BucketPath] = {}
        rows: dict[str, list[_Row]] = defaultdict(list)
        for row in _read(self._file):
            rows[row.pool].append(row)
        self.pools = tuple(rows)
        self._rows = {pool: self._named(pool, listed) for pool, listed in rows.items()}
        labelled = [pool for pool in self.pools if self.labelled(pool)]
        for pool in self.pools:
            self._require(pool, "image", lambda row: row.image)
        for pool in labelled:
            self._require(pool, "mask", lambda row: row.mask)
        self._require_classes(labelled)

    def image_folder(self, pool: str) -> AnyPath:
        """The table."""
        return self._file

    def passed_over(self, pool: str) -> list[str]:
        """Nothing: a table names what is read."""
        return []

    def scan(self, pool: str) -> Iterator[ImageEntry]:
        """The rows of the pool; a file that cannot be looked at has size -1, and reading it says why."""
        for image_id, row in self._rows[pool].items():
            try:
                yield ImageEntry(image_id, *FileFacts.of(self._place(row.image).stat()))
            except OSError:
                yield ImageEntry(image_id, -1)

    def image_path(self, pool: str, image_id: str) -> AnyPath:
        """The place of the column ``image``."""
        return self._place(self._row(pool, image_id).image)

    def labelled(self, pool: str) -> bool:
        """Whether the pool's rows have masks."""
        return any(row.mask for row in self._rows[pool].values())

    def label_path(self, pool: str, image_id: str) -> AnyPath:
        """The place of the column ``mask``."""
        return self._place(self._row(pool, image_id).mask)

    def _row(self, pool: str, image_id: str) -> _Row:
        try:
            return self._rows[pool][image_id]
        except KeyError:
            raise BrokenImageError(image_id, f"is in no row of {self._file}") from None

    def _place(self, place: str) -> AnyPath:
        if is_uri(place):
            scheme, _, rest = place.partition("://")
            bucket, _, path = rest.partition("/")
            name = f"{scheme.lower()}://{bucket}"
            # One tree a bucket: what is in its folders is asked for once.
            return self._buckets.setdefault(name, BucketPath.of(name)) / path
        return any_path(place, _KEY) if _is_whole(place) else self.root / os.path.normpath(place)

    def _whole(self, place: str) -> str:
        """The place with nothing left out, as ids are cut from."""
        found = self._place(place)
        return str(found) if isinstance(found, BucketPath) else os.path.normpath(found.absolute())

    def _named(self, pool: str, rows: list[_Row]) -> dict[str, _Row]:
        """The rows by the ids of their images."""
        without = [row for row in rows if not row.mask]
        if without and len(without) < len(rows):
            raise InputError(
                f"{len(without)} of {len(rows)} rows of pool {pool!r} in {self._file} have no mask, as that of "
                f"{without[0].image}",
                key=_KEY,
                allowed="give them a pool of their own",
            )
        ids = (
            [row.id for row in rows] if all(row.id for row in rows) else _ids([self._whole(row.image) for row in rows])
        )
        named = dict(zip(ids, rows, strict=True))
        if len(named) < len(rows):
            twice = next(one for one in ids if ids.count(one) > 1)
            raise InputError(f"{self._file}: two rows of pool {pool!r} have the image {twice!r}", key=_KEY)
        return named

    def _require(self, pool: str, column: str, place: Callable[[_Row], str]) -> None:
        """Refuse places that lead to no file for the first rows: they are wrong, and not the files."""
        tried = [row for _, row in sorted(self._rows[pool].items())[:TRIED]]
        if not any(self._place(place(row)).exists() for row in tried):
            written = place(tried[0])
            looked_for = self._place(written)
            about = f"row of pool {pool!r}" if column == "image" else tried[0].image
            raise missing(f"column {column} ({written!r})", about, looked_for, _KEY, written)


def _is_whole(place: str) -> bool:
    return is_uri(place) or "://" in place or place.startswith(("/", "~"))


def _ids(places: list[str]) -> list[str]:
    """Paths below the folder that all share, without suffix where that leaves them distinct."""
    paths = [PurePosixPath("/", place.lstrip("/")) for place in places]
    shared = os.path.commonpath([path.parent for path in paths])
    below = [path.relative_to(shared) for path in paths]
    short = [str(path.with_suffix("")) for path in below]
    return short if len(set(short)) == len(short) else [str(path) for path in below]


def _read(file: AnyPath) -> list[_Row]:
    """The rows of a table, with nothing where a column has none."""
    kind = _SUFFIXES.get(file.suffix.lower())
    if kind is None:
        raise InputError(f"{file} is no table", key=_KEY, value=str(file), allowed=f"allowed: {', '.join(_SUFFIXES)}")
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{file} is not there", key=_KEY, value=str(file), allowed=present(file.parent)) from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}", key=_KEY) from None
    try:
        table = _of_parquet(data) if kind == "parquet" else _of_text(data, kind)
        table.validate(full=True)
        if "image" not in table.column_names:
            found = ", ".join(table.column_names)
            raise InputError(
                f"{file} has no column image", key=_KEY, allowed=f"it has {found}; read are {', '.join(_COLUMNS)}"
            )
        columns = [
            [str(one or "").strip() for one in table.column(name).cast(pa.string()).to_pylist()]
            if name in table.column_names
            else [""] * table.num_rows
            for name in _COLUMNS
        ]
    except pa.ArrowException as error:
        raise InputError(f"{file} cannot be read as a table: {str(error).splitlines()[0]}", key=_KEY) from None
    rows = [_Row(image, mask, pool or "train", name) for image, mask, pool, name in zip(*columns, strict=True)]
    if not rows:
        raise InputError(f"{file} has no rows", key=_KEY)
    if empty := sum(not row.image for row in rows):
        raise InputError(f"{file}: column image is empty in {empty} of {len(rows)} rows", key=_KEY)
    return rows


def _of_parquet(data: bytes) -> pa.Table:
    file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
    return file.read([name for name in _COLUMNS if name in file.schema_arrow.names] or None)


def _of_text(data: bytes, delimiter: str) -> pa.Table:
    return pyarrow.csv.read_csv(
        io.BytesIO(data),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(_COLUMNS, pa.string())),
    )
