"""The tables of reports of storages made by hand: their numbers against the files behind them."""

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr
from support.report_pages import page_of
from support.report_storage import COLUMNS, PAPER, HandMade, means

from orchestrator.ledger.manifests import Ledger
from orchestrator.report.assembling import assemble
from orchestrator.report.costs import costs_of
from orchestrator.report.page import placed
from orchestrator.report.reading import read_experiment
from orchestrator.report.tables import Table
from orchestrator.report.writing import write_one
from orchestrator.results.cells import Metrics, Status
from orchestrator.storage.store import Storage
from workloads.formats import signed


def table_of(storage: Storage, name: str) -> Table:
    table = assemble(read_experiment(storage, name), storage).table
    assert table is not None
    return table


def column(table: Table, name: str) -> list[str]:
    return [row[table.columns.index(name)].text for row in table.rows]


@pytest.mark.parametrize("layout", ["table1", "table2"])
def test_tables_1_and_2_have_a_row_each_with_pmiou_and_miou_beside_the_papers(hand_made: HandMade, layout: str) -> None:
    document = hand_made.table(layout)
    table = table_of(hand_made.storage, layout)
    pmiou, miou = means(document, "pmiou"), means(document, "miou_multi_scale")
    assert len(table.rows) == len(PAPER[layout])
    for row, entry in zip(table.rows, PAPER[layout], strict=True):
        found = {name: place.text for name, place in zip(table.columns, row, strict=True)}
        mean, deviation = pmiou[entry["row"], None]
        assert found["Cityscapes, PmIoU: ours"] == f"{mean:.2f} ± {deviation:.2f}"
        printed = entry["paper"]["cityscapes"]["pmiou"]
        assert found["Cityscapes, PmIoU: paper"] == str(printed)
        bound = isinstance(printed, str)
        assert found["Cityscapes, PmIoU: difference"] == ("" if bound else signed(mean - printed))
        mean, deviation = miou[entry["row"], None]
        printed = entry["paper"]["cityscapes"]["miou"]
        assert found["Cityscapes, mIoU, multi-scale + flip: ours"] == f"{mean:.2f} ± {deviation:.2f}"
        assert found["Cityscapes, mIoU: paper"] == f"{printed:.1f}"
        assert found["Cityscapes, mIoU: difference"] == signed(mean - printed)


def test_table_1_describes_its_rows_as_the_paper_does(hand_made: HandMade) -> None:
    hand_made.table("table1", seeds=1)
    table = table_of(hand_made.storage, "table1")
    assert table.columns[:4] == ["#", "Feature extractor", "Clustering", "Superpixel"]
    rows = [[entry.text for entry in row[:4]] for row in table.rows]
    assert rows[0] == ["1", "-", "-", "-"]
    assert rows[4] == ["5", "ResNet-50 (MoCo)", "DBSCAN", "✓"]
    assert rows[8] == ["9", "DeepLabV3 (*)", "K-means", "✓"]


@pytest.mark.parametrize("layout", ["table3", "table4", "table5"])
def test_tables_3_to_5_lie_on_their_side(hand_made: HandMade, layout: str) -> None:
    document = hand_made.table(layout)
    table = table_of(hand_made.storage, layout)
    assert table.columns[1:] == [entry["row"] for entry in PAPER[layout]]
    lines = {row[0].text: [entry.text for entry in row[1:]] for row in table.rows}
    miou = means(document, "miou_multi_scale")
    printed = [entry["paper"]["cityscapes"]["miou"] for entry in PAPER[layout]]
    assert lines["mIoU: paper"] == [f"{value:.1f}" for value in printed]
    ours = [miou[entry["row"], None] for entry in PAPER[layout]]
    assert lines["mIoU, multi-scale + flip: ours"] == [f"{mean:.2f} ± {spread:.2f}" for mean, spread in ours]
    differences = [signed(mean - value) for (mean, _), value in zip(ours, printed, strict=True)]
    assert lines["mIoU: difference"] == differences
    assert ("PmIoU: paper" in lines) == (layout == "table5")


@pytest.mark.parametrize("layout", ["table6", "table7"])
def test_tables_6_and_7_have_a_group_for_every_fraction(hand_made: HandMade, layout: str) -> None:
    document = hand_made.table(layout)
    table = table_of(hand_made.storage, layout)
    miou = means(document, "miou_multi_scale")
    assert [row[0].text for row in table.rows] == [entry["row"] for entry in PAPER[layout]]
    for name in COLUMNS[layout]:
        ours = [f"{miou[entry['row'], name][0]:.2f} ± {miou[entry['row'], name][1]:.2f}" for entry in PAPER[layout]]
        assert column(table, f"Cityscapes, {name}, mIoU, multi-scale + flip: ours") == ours
        printed = [entry["paper"]["cityscapes"].get(name, {}).get("miou") for entry in PAPER[layout]]
        shown = ["" if value is None else f"{value:.1f}" for value in printed]
        assert column(table, f"Cityscapes, {name}, mIoU: paper") == shown
    assert not any("PmIoU" in name for name in table.columns)


@pytest.mark.parametrize("layout", sorted(PAPER))
def test_headings_cover_every_column_of_every_table_once(hand_made: HandMade, layout: str) -> None:
    hand_made.table(layout, seeds=1)
    report = assemble(read_experiment(hand_made.storage, layout), hand_made.storage)
    for table in filter(None, (report.table, report.plain, report.costs)):
        levels = placed(table.levels)
        covered = np.zeros((len(levels), len(table.columns)), dtype=int)
        for number, level in enumerate(levels):
            for head in level:
                covered[number : number + head.depth, head.column : head.column + head.heading.span] += 1
        assert (covered == 1).all()
        leaves = sorted(head.column for level in levels for head in level if head.leaf)
        assert leaves == list(range(len(table.columns)))
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_another_data_set_stands_beside_the_papers_without_a_difference(hand_made: HandMade) -> None:
    hand_made.table("table2", dataset="camvid")
    table = table_of(hand_made.storage, "table2")
    assert "it prints no figures for this data set" in table.warning
    assert not any("difference" in name for name in table.columns)
    reference = [f"{entry['paper']['nyuv2']['pmiou']:.1f}" for entry in PAPER["table2"]]
    assert column(table, "NYUv2, PmIoU: paper") == reference


def test_another_size_is_said_to_be_not_comparable(hand_made: HandMade) -> None:
    hand_made.table("table2", size="small")
    _, outline = page_of(hand_made.storage, "table2")
    assert "Not comparable with the paper: this was run at size 'small'" in outline.text
    assert "Not comparable" in hand_made.storage.read("report/table2.md").decode()
    hand_made.table("table3", size="paper")
    _, outline = page_of(hand_made.storage, "table3")
    assert "Not comparable" not in outline.text


def test_the_best_of_a_column_is_marked_and_bold_only_where_it_stands_out(hand_made: HandMade) -> None:
    document = hand_made.table("table2")
    pmious = [20.0, 20.2, 25.0, 25.2, 22.0, 22.2]
    mious = [70.0, 74.0, 71.0, 75.0, 70.0, 75.0]
    hand_made.change(
        document,
        {
            number: {"metrics": cell.metrics.model_copy(update={"pmiou": pmiou, "miou_multi_scale": miou})}
            for number, (cell, pmiou, miou) in enumerate(zip(document.cells, pmious, mious, strict=True))
        },
    )
    table = table_of(hand_made.storage, "table2")
    marks = {
        name: [row[table.columns.index(f"Cityscapes, {name}: ours")].mark for row in table.rows]
        for name in ("PmIoU", "mIoU, multi-scale + flip")
    }
    assert marks == {"PmIoU": ["", "best out", ""], "mIoU, multi-scale + flip": ["", "best", ""]}
    text, outline = page_of(hand_made.storage, "table2")
    assert "1.5 x M: mIoU, multi-scale + flip 73.00 ± 2.83, 0.50 above the next: does not stand out" in outline.text
    assert '<td class="ours best out"' in text
    assert "**25.10 ± 0.14**" in hand_made.storage.read("report/table2.md").decode()


def test_what_varies_within_a_row_is_never_averaged(hand_made: HandMade) -> None:
    cells = [
        hand_made.cell("weights", {"labels.extractor.weights": weights, "seed": 0}, row="1.0 x M", trained=False)
        for weights in ("nets/a.pth", "nets/b.pth")
    ]
    hand_made.results("weights", cells, layout="table2")
    table = table_of(hand_made.storage, "weights")
    assert [row[0].text for row in table.rows] == ["1.0 x M, weights a.pth", "1.0 x M, weights b.pth"]


def test_without_a_layout_the_keys_of_the_grid_head_the_table(hand_made: HandMade) -> None:
    values = [
        {"labels.outliers": share, "labels.superpixels": pixels} for share in (0.0, 0.1) for pixels in (None, 500)
    ]
    document = hand_made.results("plain", [hand_made.cell("plain", one, trained=False) for one in values])
    report = assemble(read_experiment(hand_made.storage, "plain"), hand_made.storage)
    assert report.table is None
    assert report.plain.columns[:2] == ["outliers", "superpixels"]
    assert column(report.plain, "superpixels") == ["none", "500", "none", "500"]
    assert column(report.plain, "PmIoU") == [f"{cell.metrics.pmiou:.2f}" for cell in document.cells]


def test_every_number_of_a_table_leads_to_its_steps(hand_made: HandMade) -> None:
    document = hand_made.table("table2")
    text, outline = page_of(hand_made.storage, "table2")
    assert all(target[1:] in outline.ids for target in outline.sources if target.startswith("#"))
    assert len(outline.ids) == len(set(outline.ids))
    assert len(re.findall(r'<td class="ours"[^>]*><a href="#result-', text)) >= 9
    for cell in document.cells:
        for key in cell.steps.values():
            assert f'href="#step-{key}"' in text
            manifest = next(found for found in Ledger(hand_made.storage).manifests() if found.key == key)
            assert all(record.sha256 in text for record in manifest.records)
    for fact in (document.provenance.git.commit, "lookbeyond run table2.yaml labels.images=24", "torch"):
        assert fact in outline.text


def test_the_csv_has_every_scalar_of_every_cell(hand_made: HandMade) -> None:
    document = hand_made.table("table6", seeds=2)
    write_one(hand_made.storage, "table6", None)
    rows = list(csv.DictReader(io.StringIO(hand_made.storage.read("report/table6.csv").decode())))
    assert len(rows) == len(document.cells)
    for row, cell in zip(rows, document.cells, strict=True):
        assert (row["row"], row["column"], row["status"]) == (cell.row, cell.column, "done")
        assert row["cell.seed"] == str(cell.values["seed"])
        assert float(row["metrics.miou"]) == cell.metrics.miou
        assert float(row["metrics.pmiou"]) == cell.metrics.pmiou
        assert row["metrics.protocol.split"] == "val"
        assert row["paper.miou"] == str((cell.paper or {}).get("miou", ""))
        assert row["step.finetune"] == cell.steps["finetune"]
        assert float(row["seconds.pretrain"]) == 1800.0
        assert "metrics.per_class_iou" not in row


def test_shared_steps_are_split_evenly_and_shares_add_up_to_what_was_paid(hand_made: HandMade) -> None:
    document = hand_made.table("table2", seeds=2)
    experiment = read_experiment(hand_made.storage, "table2")
    costs = costs_of(experiment)
    steps = {key for cell in document.cells for key in cell.steps.values()}
    manifests = [manifest for manifest in Ledger(hand_made.storage).manifests() if manifest.key in steps]
    seconds = sum(m.provenance["work_seconds"] or m.provenance["wall_seconds"] for m in manifests)
    assert costs.paid.seconds == pytest.approx(seconds)
    assert sum(cell.share.seconds for cell in costs.cells) == pytest.approx(seconds)
    stored = sum(cell.share.shard_bytes + cell.share.model_bytes for cell in costs.cells)
    assert stored == pytest.approx(sum(manifest.size for manifest in manifests))
    # Six cells train 1 800 s and 900 s each on a GPU, and share one sample of 1 s.
    assert costs.paid.gpu_hours == pytest.approx(6 * 2700 / 3600)
    assert costs.cells[0].share.gpu_hours == pytest.approx(0.75)
    assert costs.separately.seconds == pytest.approx(seconds + 5 * 1.0)
    assert costs.cells[0].alone.seconds - costs.cells[0].share.seconds == pytest.approx(5 / 6)


def test_shards_that_two_image_counts_share_are_paid_once(hand_made: HandMade) -> None:
    cells = [hand_made.cell("counts", {"labels.images": count}, trained=False) for count in (4, 8)]
    long = Ledger(hand_made.storage).manifest("label", cells[1].steps["label_val"])
    assert long is not None
    short = hand_made.step("label", "shared")
    ledger = Ledger(hand_made.storage)
    manifest = ledger.manifest("label", short)
    assert manifest is not None
    ledger.forget("label", short)
    ledger.commit(replace(manifest, shards=long.shards[:1]))
    cells[0] = cells[0].model_copy(update={"steps": cells[0].steps | {"label_val": short}})
    hand_made.results("counts", cells)
    costs = costs_of(read_experiment(hand_made.storage, "counts"))
    # sample 1 s once, two clusterings of 2 s, two scores of 1 s, and the two shards of the longer labelling.
    assert costs.paid.seconds == pytest.approx(1 + 2 * 2 + 2 * 1 + 1)
    assert costs.separately.seconds == pytest.approx(costs.paid.seconds + 1 + 0.5)


def test_the_rank_correlation_is_scipys(hand_made: HandMade) -> None:
    document = hand_made.table("table2", seeds=3)
    pairs = [(cell.metrics.pmiou, cell.metrics.miou) for cell in document.cells]
    expected = spearmanr([a for a, _ in pairs], [b for _, b in pairs]).statistic
    _, outline = page_of(hand_made.storage, "table2")
    assert f"Rank correlation (Spearman) of PmIoU with mIoU: {signed(expected, 2)} over 9 trained cells" in outline.text


def test_a_failed_cell_is_named_with_its_error_and_leaves_the_others(hand_made: HandMade) -> None:
    document = hand_made.table("table2", seeds=2)
    errors = {number: f"weights {number} are missing" for number in (0, 1, 2)}
    failed = {"status": Status.FAILED, "metrics": Metrics()}
    hand_made.change(document, {number: failed | {"error": error} for number, error in errors.items()})
    _, outline = page_of(hand_made.storage, "table2")
    for number in (0, 1, 2):
        assert f"weights {number} are missing" in outline.text
    assert "3 failed" in outline.text
    table = table_of(hand_made.storage, "table2")
    assert column(table, "Cityscapes, PmIoU: ours")[0] == "failed"
    survivor = document.cells[3].metrics.pmiou
    assert column(table, "Cityscapes, PmIoU: ours")[1] == f"{survivor:.2f}"
    assert "1 of 2 repeats failed" in outline.text
    markdown = hand_made.storage.read("report/table2.md").decode()
    assert "weights 0 are missing" in markdown
    row = next(csv.DictReader(io.StringIO(hand_made.storage.read("report/table2.csv").decode())))
    assert (row["status"], row["error"], row["metrics.pmiou"]) == ("failed", "weights 0 are missing", "")


def test_a_cell_that_was_skipped_keeps_its_pmiou_and_says_why(hand_made: HandMade) -> None:
    document = hand_made.table("table2", seeds=1)
    reason = "PmIoU 17.80 is not among the 2 best of 3 labellings"
    cell = document.cells[2]
    metrics = cell.metrics.model_copy(update={"pmiou": 17.8, "miou": None, "miou_multi_scale": None})
    steps = {role: key for role, key in cell.steps.items() if role != "finetune"}
    skipped = {"status": Status.NOT_TRAINED, "reason": reason, "metrics": metrics, "steps": steps}
    hand_made.change(document, {2: skipped})
    _, outline = page_of(hand_made.storage, "table2")
    assert "1 not trained" in outline.text and "0 failed" in outline.text
    assert reason in outline.text
    last = table_of(hand_made.storage, "table2").rows[-1]
    assert [entry.text for entry in last[:4]] == ["2.0 x M", "17.80", "17.8", "0.0"]
    assert "not defined over these 2 trained cells" in outline.text
    assert reason in hand_made.storage.read("report/table2.md").decode()


def test_notes_are_lettered_and_printed_below_the_table(hand_made: HandMade) -> None:
    document = hand_made.table("table6", seeds=1)
    note = "MoCo weights: random values in the official format"
    document = hand_made.change(document, {number: {"substitutes": [note]} for number in (3, 6)})
    table = table_of(hand_made.storage, "table6")
    assert table.notes == [note]
    marked = [(row[0].text, entry.text) for row in table.rows for entry in row if entry.notes == ("a",)]
    assert [name for name, _ in marked] == ["ImageNet", "MoCo"]
    assert note in page_of(hand_made.storage, "table6")[1].text
    further = {number: [*cell.substitutes, "for 12 steps"] for number, cell in enumerate(document.cells)}
    hand_made.change(document, {number: {"substitutes": notes} for number, notes in further.items()})
    assert table_of(hand_made.storage, "table6").notes == [note]
    assert "In every cell: for 12 steps." in page_of(hand_made.storage, "table6")[1].text
    assert f"(a) {note}" in hand_made.storage.read("report/table6.md").decode()
