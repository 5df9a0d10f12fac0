"""Tables of images: the same data set as the folders that they name, and one message for a wrong one."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image
from pydantic import TypeAdapter

from workloads.datasets import Dataset, DatasetConfig, open_dataset
from workloads.errors import InputError

CLASSES = {7: "road", 9: "sky"}
POOLS = {pool: {"images": f"images/{pool}", "masks": f"masks/{pool}"} for pool in ("train", "val")}


def opened(root: Path | None, **options: Any) -> Dataset:
    config: Any = TypeAdapter(DatasetConfig).validate_python(options)
    return open_dataset(config, root)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Images in folders of cities, with masks, and some without."""
    random = np.random.default_rng(0)
    names = ["train/ulm/0.jpg", "train/ulm/1.png", "train/aachen/0.png", "val/bonn/0.png", "val/jena/0.png"]
    for name in [*names, "raw/5.png"]:
        for folder, pixels in (
            ("images", random.integers(0, 255, (6, 8, 3)).astype(np.uint8)),
            ("masks", np.where(random.random((6, 8)) < 0.5, 7, 9).astype(np.uint8)),
        ):
            path = tmp_path / folder / name
            path = path if folder == "images" else path.with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    rows = [("images/" + name, f"masks/{name.rsplit('.', 1)[0]}.png", name.split("/")[0]) for name in names]
    write(tmp_path / "data.parquet", [*rows, ("images/raw/5.png", None, "raw")])
    return tmp_path


def write(path: Path, rows: list[tuple[str | None, ...]]) -> Path:
    columns = zip(("image", "mask", "pool"), zip(*rows, strict=True), strict=True)
    table = pa.table({name: pa.array(column, pa.string()) for name, column in columns})
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        pyarrow.csv.write_csv(table, path, pyarrow.csv.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ","))
    return path


def rows_of(path: Path) -> list[tuple[str | None, ...]]:
    table = pyarrow.parquet.read_table(path)
    return [tuple(row.values()) for row in table.to_pylist()]


def same(one: Dataset, other: Dataset) -> None:
    for pool in ("train", "val"):
        assert one.entries(pool) == other.entries(pool), "ids and sizes are what samples and orders are drawn by"
        for entry in one.entries(pool):
            np.testing.assert_array_equal(one.read_image(pool, entry.id), other.read_image(pool, entry.id))
            np.testing.assert_array_equal(
                one.read_ground_truth(pool, entry.id), other.read_ground_truth(pool, entry.id)
            )


@pytest.mark.parametrize("written", ["parquet", "csv", "tsv", "absolute", "elsewhere", "with ids", "with a root"])
def test_a_table_is_the_data_set_of_its_folders(written: str, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, file, root = rows_of(mine / "data.parquet"), "data.parquet", None
    monkeypatch.chdir(mine)
    match written:
        case "csv" | "tsv":
            file = write(mine / f"data.{written}", rows).name
        case "absolute":
            whole = [tuple(f"{mine}/{cell}" if cell and "/" in cell else cell for cell in row) for row in rows]
            file = write(mine / "data.csv", whole).name
        case "elsewhere":
            (mine / "tables").mkdir()
            above = [tuple(f"../{cell}" if cell and "/" in cell else cell for cell in row) for row in rows]
            file = str(write(mine / "tables" / "data.parquet", above))
        case "with ids":
            table = pyarrow.parquet.read_table(mine / "data.parquet")
            names = [Path(row[0]).relative_to(f"images/{row[2]}").with_suffix("") for row in rows]
            pyarrow.parquet.write_table(table.append_column("id", pa.array(map(str, names))), mine / file)
        case "with a root":
            monkeypatch.chdir("/")
            root = mine
    table = opened(root, name="table", file=file, classes=CLASSES)
    same(table, opened(mine, name="masks", pools=POOLS, classes=CLASSES))
    assert table.pools == ("train", "val", "raw")
    assert not table.labelled("raw")
    assert [entry.id for entry in table.entries("raw")] == ["5"]
    assert str(mine) not in str(table.identity())


def test_a_row_without_a_pool_is_in_train_and_an_image_that_is_gone_is_broken(mine: Path) -> None:
    (mine / "few.csv").write_text("image,note\nimages/raw/5.png,x\nimages/raw/6.png,\n")
    table = opened(mine, name="table", file="few.csv")
    assert table.pools == ("train",)
    assert [(entry.id, entry.size > 0) for entry in table.entries("train")] == [("5", True), ("6", False)]
    with pytest.raises(InputError, match="6: the file is missing"):
        table.read_image("train", "6")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"dataset\.file: .*none\.csv is not there; .* holds data\.parquet, images, masks"),
        ("picture,mask\na,b\n", r"has no column image; it has picture, mask; read are image, mask, pool, id"),
        ("image\n", "has no rows"),
        ("image,pool\n,train\nimages/raw/5.png,train\n", "column image is empty in 1 of 2 rows"),
        (
            "image,pool\nimages/train/0.png,train\n",
            r"column image \('images/train/0\.png'\) gives .*/images/train/0\.png for row of pool 'train', which is "
            r"not there; .*/images/train holds aachen, ulm",
        ),
        (
            "image,mask\nimages/raw/5.png,masks/raw/6.png\n",
            r"gives .*/masks/raw/6\.png for images/raw/5\.png, which is not there; .*/masks/raw holds 5\.png",
        ),
        ("image,mask\nimages/raw/5.png,masks/raw/5.png\n", r"dataset\.classes: is missing; pool train has masks"),
        (
            "image,mask\nimages/raw/5.png,masks/raw/5.png\nimages/val/bonn/0.png,\n",
            r"1 of 2 rows of pool 'train' in .* have no mask, as that of images/val/bonn/0\.png; give them a pool",
        ),
        ("image\nimages/raw/5.png\nimages/raw/5.png\n", "two rows of pool 'train' have the image '5.png'"),
        ("image,pool\na\n", "cannot be read as a table: CSV parse error"),
        ("image\nhttp://host/5.png\n", r"'http://host/5\.png' cannot be read; allowed: a path, s3:// or gs://"),
    ],
)
def test_a_wrong_table_gets_one_message(text: str | None, said: str, mine: Path) -> None:
    if text is not None:
        (mine / "none.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        opened(mine, name="table", file="none.csv").entries("train")


def test_a_damaged_table_is_said_to_be_none(mine: Path) -> None:
    (mine / "data.parquet").write_bytes((mine / "data.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read as a table"):
        opened(mine, name="table", file="data.parquet")
    with pytest.raises(InputError, match=r"is no table; allowed: \.parquet, \.pq, \.csv, \.tsv"):
        opened(mine, name="table", file="data.xlsx")
