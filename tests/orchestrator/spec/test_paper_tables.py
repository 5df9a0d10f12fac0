"""The files of Tables 1 to 7: every entry of the paper has a cell with its figure, at every size and on every data set.

The figures are read from the tables' lines as the supplement prints them, not from the files.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.plan import PlannedCell, make_plan
from orchestrator.results.collecting import substitutes
from orchestrator.spec.grid import Cell, expand
from orchestrator.spec.loading import load_experiment
from orchestrator.steps.finetune import FinetuneStep
from orchestrator.storage.store import Storage
from workloads.datasets import open_dataset
from workloads.datasets.order import seeded_order

EXPERIMENTS = Path(__file__).resolve().parents[3] / "experiments"

PRINTED = {
    1: r"""
1	-	-	-	<0.1	37.2	<0.1	71.4
2	-	-	✓	<1	38.5	<1	73.1
3	ResNet-50 (MoCo)	K-means	-	8.3	44.9	19.2	78.5
4	ResNet-50 (MoCo)	K-means	✓	9.7	46.0	21.7	79.2
5	ResNet-50 (MoCo)	DBSCAN	✓	8.7	45.7	20.9	78.9
6	VGG-19 (ImageNet)	K-means	✓	7.9	44.5	18.9	78.2
7	ResNet-50 (ImageNet)	K-means	✓	10.5	46.4	22.5	79.6
8	DeepLabV3 (Pascal VOC)	K-means	✓	11.2	46.9	23.1	80.1
9	DeepLabV3 (*)	K-means	✓	24.5	49.2	40.7	81.2
""",
    2: r"""
$1.0 \times M$	9.5	45.9	21.2	78.7
$1.5 \times M$	9.7	46.0	21.7	79.2
$2.0 \times M$	7.7	44.1	17.8	78.1
""",
    3: r"""
# superpixels	200	500	2000
mIoU	81.2	81.2	81.1
""",
    4: r"""
Outliers removed	0%	5%	10%
mIoU	80.9	81.2	81.0
""",
    5: r"""
# images	500	2000	5000	20000	50000
PmIoU	37.2	40.0	40.7	40.9	41.0
mIoU	80.7	81.0	81.2	81.2	81.3
""",
    6: r"""
Random initialization	-	-	24.6	-	-	68.0	-	-	34.4
ImageNet	19.5	28.7	43.1	41.4	56.7	78.4	19.6	26.6	42.8
MoCo [1]	19.2	28.4	42.4	40.7	56.1	78.0	18.7	26.1	42.6
PixPro [3]	21.5	30.2	43.9	43.6	59.0	78.6	20.8	26.9	43.1
Ours (MoCo)	29.1	34.2	45.1	47.5	59.9	79.3	24.3	29.2	43.6
Ours (DeepLabV3 (*))	35.4	39.2	48.8	51.9	62.3	81.0	26.0	30.7	44.1
""",
    7: r"""
# labeled images	100	500
Baseline (ImageNet pre-trained)	28.1	55.3
2000 unlabeled images (unsupervised)	33.1	57.7
2000 unlabeled images (semi-supervised)	36.4	59.6
""",
}
# The data sets of each table, in the order of its columns, and how many cells it has on each.
DATASETS = {
    1: ("nyuv2", "cityscapes"),
    2: ("nyuv2", "cityscapes"),
    6: ("nyuv2", "cityscapes", "ade20k"),
}
CELLS = {1: 9, 2: 3, 3: 3, 4: 3, 5: 5, 6: 18, 7: 6}
# A table at the paper's size, planned without its data and without its recipes, which belong to the data.
ON_SCENES = (
    "dataset.name=scenes",
    "dataset.num_train=100",
    "dataset.num_val=2",
    "pretrain.recipe=cityscapes",
    "finetune.recipe=cityscapes",
)
STAND_INS = [f"weights.{name}=stand-in:{kind}" for name, kind in (("moco", "moco"), ("pixpro", "pixpro"))]


def table(number: int, *overrides: str) -> dict[str, Any]:
    """The table's document."""
    return load_experiment(EXPERIMENTS / f"table{number}.yaml", overrides)


def figure(text: str) -> float | str | None:
    if text == "-":
        return None
    return text if text.startswith("<") else float(text)


def entries(number: int, dataset: str) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """What the paper prints of a data set, entry by entry: the row's and column's names and the figures."""
    lines = [line.split("\t") for line in PRINTED[number].strip().splitlines()]
    index = DATASETS.get(number, ("cityscapes",)).index(dataset)
    match number:
        case 1 | 2:
            for line in lines:
                pmiou, miou = line[-4:][2 * index : 2 * index + 2]
                yield " ".join(line[:-4]), {"pmiou": figure(pmiou), "miou": figure(miou)}
        case 3 | 4 | 5:
            for names in zip(*lines, strict=True):
                if names[0] == lines[0][0]:
                    metrics = [name.lower() for name in names[1:]]
                else:
                    yield names[0], dict(zip(metrics, map(figure, names[1:]), strict=True))
        case 6 | 7:
            columns = ["10%", "20%", "100%"] if number == 6 else lines.pop(0)[1:]
            for line in lines:
                for column, text in zip(columns, line[1 + len(columns) * index :], strict=False):
                    value = figure(text)
                    yield f"{line[0]} {column}", None if value is None else {"miou": value}


def planned(storage: Storage, number: int, *overrides: str) -> list[PlannedCell]:
    return make_plan(table(number, *overrides), storage, write_listings=False).cells


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


def test_the_lines_are_read_as_printed() -> None:
    assert dict(entries(1, "nyuv2"))["9 DeepLabV3 (*) K-means ✓"] == {"pmiou": 24.5, "miou": 49.2}
    assert dict(entries(5, "cityscapes"))["20000"] == {"pmiou": 40.9, "miou": 81.2}
    assert dict(entries(6, "cityscapes"))["Ours (MoCo) 20%"] == {"miou": 59.9}
    assert dict(entries(6, "ade20k"))["Random initialization 10%"] is None


@pytest.mark.parametrize("number", CELLS)
def test_every_entry_has_a_cell_with_the_papers_figure(number: int) -> None:
    for dataset in DATASETS.get(number, ("cityscapes",)):
        cells = expand(table(number, f"dataset.name={dataset}"))
        printed = list(entries(number, dataset))
        assert len(cells) == len(printed) == CELLS[number]
        assert [cell.paper for cell in cells] == [figures for _, figures in printed]
        for cell, (name, _) in zip(cells, printed, strict=True):
            plain = re.sub(r"\\times|\$|\[\d\]|✓|(?<!\w)-(?!\w)", "", name)
            shown = " ".join(filter(None, [cell.row, cell.column])).replace(",", "")
            assert all(word in shown for word in plain.split()), (shown, name)


@pytest.mark.parametrize("number", CELLS)
@pytest.mark.parametrize("overrides", [(), ("size=small",)], ids=["paper", "small"])
@pytest.mark.parametrize("dataset", ["cityscapes", "nyuv2", "ade20k", "camvid"])
def test_every_table_is_valid_on_every_data_set(number: int, overrides: tuple[str, ...], dataset: str) -> None:
    cells = expand(table(number, *overrides, f"dataset.name={dataset}", "dataset.root=somewhere"))
    assert len(cells) == CELLS[number]
    assert {(cell.entry.dataset.config.name, cell.entry.dataset.root) for cell in cells} == {(dataset, "somewhere")}
    recipes = {cell.entry.finetune.recipe for cell in cells if cell.entry.finetune}
    assert recipes == ({dataset} if not overrides else {"small"})
    assert len({(cell.row, cell.column) for cell in cells}) == CELLS[number]


@pytest.mark.parametrize("number", CELLS)
def test_every_small_cell_can_be_planned_and_is_work_of_its_own(number: int, storage: Storage) -> None:
    cells = planned(storage, number, "size=small")
    assert [cell.error for cell in cells] == [None] * CELLS[number]
    assert len({cell.roles["finetune"].key for cell in cells}) == CELLS[number]
    labels = [step.images for cell in cells for role, step in cell.roles.items() if role == "label"]
    assert all(images.count == images.requested for images in labels)


@pytest.mark.parametrize("number", [1, 6])
def test_every_cell_of_the_papers_size_can_be_planned_once_all_weights_are_named(number: int, storage: Storage) -> None:
    cells = planned(storage, number, *ON_SCENES, *STAND_INS, "weights.voc=COCO_WITH_VOC_LABELS_V1")
    assert [cell.error for cell in cells] == [None] * CELLS[number]
    assert len({cell.roles["finetune"].key for cell in cells}) == CELLS[number]


def test_rows_are_what_they_are_called() -> None:
    def of(number: int, value: Any) -> list[Any]:
        return [value(cell.entry) for cell in expand(table(number))]

    assert of(2, lambda entry: entry.labels.clustering.k_per_class) == [1.0, 1.5, 2.0]
    assert of(3, lambda entry: entry.labels.superpixels.n_segments) == [200, 500, 2000]
    assert of(4, lambda entry: entry.labels.outliers) == [0.0, 0.05, 0.1]
    assert of(5, lambda entry: entry.labels.images) == [500, 2000, 5000, 20000, 50000]
    assert of(6, lambda entry: entry.finetune.fraction) == [0.1, 0.2, 1.0] * 6
    assert of(7, lambda entry: entry.finetune.number) == [100, 500] * 3
    assert of(7, lambda entry: entry.labels.images) == [2000] * 6
    assert of(6, lambda entry: entry.pretrain is None) == [True] * 12 + [False] * 6
    assert of(6, lambda entry: entry.finetune.init)[::3][:4] == ["random", "imagenet", "moco", "pixpro"]
    assert of(1, lambda entry: entry.labels.source) == ["pixel", "superpixel", *["auxiliary"] * 7]
    assert of(1, lambda entry: entry.labels.superpixels is None) == [False, False, True, *[False] * 6]
    assert [method == "dbscan" for method in of(1, lambda entry: entry.labels.clustering.method)].index(True) == 4


@pytest.mark.parametrize("number", CELLS)
def test_what_a_table_does_not_vary_is_the_papers_default(number: int) -> None:
    for cell in expand(table(number)):
        labels, finetune = cell.entry.labels, cell.entry.finetune
        assert number == 2 or labels.clustering.k_per_class == 1.5
        assert number in (5, 7) or labels.images == 5000
        assert number == 4 or labels.outliers == 0.05
        assert number == 3 or labels.superpixels is None or labels.superpixels.n_segments == 500
        assert finetune is not None
        networks = [finetune.config.segmentor] + ([cell.entry.pretrain.config.segmentor] if cell.entry.pretrain else [])
        head = "pspnet" if number == 6 else "deeplabv3"
        assert {(network.head, network.backbone) for network in networks} == {(head, "resnet50")}


def test_the_number_of_images_to_cluster_leaves_pre_training_as_it_is(storage: Storage) -> None:
    """Table 5: the same images are labelled and trained on for as many steps, however many are clustered."""
    rows = [cell.roles for cell in planned(storage, 5, "size=small", "pretrain.images=")]
    assert [roles["cluster"].images.count for roles in rows] == [6, 12, 24, 48, 96]
    assert [(roles["label"].images.count, roles["pretrain"].images.count) for roles in rows] == [(96, 96)] * 5
    epochs = planned(storage, 5, "size=small", "pretrain.images=30", "pretrain.steps=", "pretrain.epochs=2")
    assert [cell.roles["label"].images.count for cell in epochs] == [30] * 5
    assert {cell.roles["pretrain"].image_passes for cell in epochs} == {60}


def test_pre_training_sees_all_of_ade20k(storage: Storage, tmp_path: Path) -> None:
    for pool, count in (("training", 30), ("validation", 1)):
        for folder, suffix in (("images", "jpg"), ("annotations", "png")):
            (tmp_path / "ade20k" / folder / pool).mkdir(parents=True)
            for number in range(count):
                (tmp_path / "ade20k" / folder / pool / f"{number}.{suffix}").touch()
    names = ("dataset.name=ade20k", f"dataset.root={tmp_path / 'ade20k'}", "labels.images=20")
    cells = planned(storage, 6, *names, *STAND_INS, "weights.imagenet=stand-in:imagenet")
    ours = [cell.roles for cell in cells if "pretrain" in cell.roles]
    assert [(roles["cluster"].images.count, roles["pretrain"].images.count) for roles in ours] == [(20, 30)] * 6


def test_the_labelled_images_of_table_7_lie_inside_those_of_pre_training(storage: Storage) -> None:
    assert all(cell.entry.finetune.among == cell.entry.labels.images == 2000 for cell in expand(table(7)))
    cells = planned(storage, 7, "size=small")
    entry = cells[0].cell.entry
    pool = open_dataset(entry.dataset.config, None).entries("train")
    first = {image.id for image in seeded_order(pool, entry.dataset.order_seed)[:24]}
    for cell, number in zip(cells, [4, 20] * 3, strict=True):
        finetune = cell.roles["finetune"]
        assert isinstance(finetune, FinetuneStep)
        assert len(finetune.labelled.ids) == number
        assert first.issuperset(finetune.labelled.ids)
    assert {cell.roles["pretrain"].images.count for cell in cells if "pretrain" in cell.roles} == {24}


def test_fractions_are_trained_for_as_many_epochs_or_for_as_many_steps(storage: Storage) -> None:
    def steps(*overrides: str) -> set[tuple[str | None, int]]:
        cells = planned(storage, 6, *ON_SCENES, *STAND_INS, "weights.imagenet=stand-in:imagenet", *overrides)
        found = [(cell.cell.column, cell.roles["finetune"]) for cell in cells]
        return {(column, step.total_steps) for column, step in found if isinstance(step, FinetuneStep)}

    assert steps() == {("10%", 125), ("20%", 250), ("100%", 1250)}
    assert steps("finetune.epochs_of=pool") == {("10%", 1250), ("20%", 1250), ("100%", 1250)}


def test_rows_whose_weights_are_not_at_hand_fail_alone(storage: Storage) -> None:
    cells = planned(storage, 6, *ON_SCENES)
    missing = {cell.cell.row: str(cell.error) for cell in cells if cell.error}
    assert list(missing) == ["MoCo", "PixPro", "Ours (MoCo)"]
    needed = "is not at hand; give weights.moco=FILE, the path or URL of a checkpoint"
    assert missing["MoCo"] == f"finetune.weights: $moco {needed}"
    assert missing["Ours (MoCo)"] == f"labels.extractor.weights: $moco {needed}"
    cells = planned(storage, 6, *ON_SCENES, *STAND_INS)
    assert not any(cell.error for cell in cells)


def test_small_cells_say_what_stands_in(storage: Storage) -> None:
    def said(number: int) -> dict[str | None, list[str]]:
        return {cell.cell.row: substitutes(cell) for cell in planned(storage, number, "size=small")}

    trained = "MobileNetV2 in place of ResNet-50 as the network that is trained, for 12 steps"
    features = "ResNet-18 in place of ResNet-50 as feature extractor"
    moco = "MoCo weights: random values in the official format"
    first = said(1)
    assert first["#1 pixels"] == [trained]
    assert first["#4 ResNet-50 (MoCo), K-means, superpixels"] == [trained, features, moco]
    sixth = said(6)
    assert sixth["Random initialization"] == [trained]
    assert sixth["MoCo"] == [trained, moco]
    assert sixth["PixPro"] == [trained, "PixPro weights: random values in the official format"]
    assert sixth["ImageNet"] == [trained, "ImageNet weights: random values in torchvision's format"]


def test_a_file_that_is_given_is_not_called_a_stand_in(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "imagenet.pth").write_bytes(b"any bytes will do to plan")
    cells = planned(storage, 1, "size=small", f"weights.imagenet={tmp_path / 'imagenet.pth'}")
    (cell,) = [cell for cell in cells if cell.cell.row and cell.cell.row.startswith("#7")]
    assert not any("ImageNet" in note for note in substitutes(cell))


def test_repeats_over_seeds_keep_the_figures() -> None:
    cells: list[Cell] = expand(table(2, "grid.seed=[0, 1, 2]"))
    assert len(cells) == 9
    assert [cell.paper for cell in cells] == [figures for _, figures in entries(2, "cityscapes") for _ in range(3)]
