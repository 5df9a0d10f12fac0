"""The report of storages made by hand: its numbers against the files behind them, and what users' files may hold."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_storage import COLUMNS, PAPER, HandMade
from scipy.stats import spearmanr

from orchestrator import cli
from orchestrator.ledger import Ledger
from orchestrator.report.assembling import assemble
from orchestrator.report.comparing import results_of
from orchestrator.report.costs import costs_of
from orchestrator.report.page import placed
from orchestrator.report.plots import rank_correlation
from orchestrator.report.reading import read_experiment
from orchestrator.report.tables import Table, figure, signed
from orchestrator.report.writing import write_all, write_one
from orchestrator.storage import Storage
from workloads.errors import InputError

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Outline(HTMLParser):
    """Checks that every tag is closed in order, and gathers what the page links to, names and says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.anchors: set[str] = set()
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), f"{tag} has a handler {name}"
            if name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
                self.sources.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


@pytest.fixture
def made(storage: Storage) -> HandMade:
    return HandMade(storage)


def page_of(storage: Storage, name: str) -> tuple[str, Outline]:
    """The page of an experiment, written and read back."""
    write_one(storage, name, None)
    text = storage.read(f"report/{name}.html").decode()
    return text, Outline(text)


def table_of(storage: Storage, name: str) -> Table:
    table = assemble(read_experiment(storage, name), storage).table
    assert table is not None
    return table


def column(table: Table, name: str) -> list[str]:
    return [row[table.columns.index(name)].text for row in table.rows]


def means(document: dict[str, Any], metric: str) -> dict[tuple[str | None, str | None], tuple[float, float]]:
    """Mean and sample standard deviation of a metric over the repeats, by row and column, worked out by NumPy."""
    values: dict[tuple[str | None, str | None], list[float]] = {}
    for cell in document["cells"]:
        values.setdefault((cell["row"], cell["column"]), []).append(cell["metrics"][metric])
    return {place: (float(np.mean(found)), float(np.std(found, ddof=1))) for place, found in values.items()}


@pytest.mark.parametrize("layout", ["table1", "table2"])
def test_tables_1_and_2_have_a_row_each_with_pmiou_and_miou_beside_the_papers(made: HandMade, layout: str) -> None:
    document = made.table(layout)
    table = table_of(made.storage, layout)
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


def test_table_1_describes_its_rows_as_the_paper_does(made: HandMade) -> None:
    made.table("table1", seeds=1)
    table = table_of(made.storage, "table1")
    assert table.columns[:4] == ["#", "Feature extractor", "Clustering", "Superpixel"]
    rows = [[entry.text for entry in row[:4]] for row in table.rows]
    assert rows[0] == ["1", "-", "-", "-"]
    assert rows[4] == ["5", "ResNet-50 (MoCo)", "DBSCAN", "✓"]
    assert rows[8] == ["9", "DeepLabV3 (*)", "K-means", "✓"]


@pytest.mark.parametrize("layout", ["table3", "table4", "table5"])
def test_tables_3_to_5_lie_on_their_side(made: HandMade, layout: str) -> None:
    document = made.table(layout)
    table = table_of(made.storage, layout)
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
def test_tables_6_and_7_have_a_group_for_every_fraction(made: HandMade, layout: str) -> None:
    document = made.table(layout)
    table = table_of(made.storage, layout)
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
def test_headings_cover_every_column_of_every_table_once(made: HandMade, layout: str) -> None:
    made.table(layout, seeds=1)
    report = assemble(read_experiment(made.storage, layout), made.storage)
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


def test_another_data_set_stands_beside_the_papers_without_a_difference(made: HandMade) -> None:
    made.table("table2", dataset="camvid")
    table = table_of(made.storage, "table2")
    assert "it prints no figures for this data set" in table.warning
    assert not any("difference" in name for name in table.columns)
    reference = [f"{entry['paper']['nyuv2']['pmiou']:.1f}" for entry in PAPER["table2"]]
    assert column(table, "NYUv2, PmIoU: paper") == reference


def test_another_size_is_said_to_be_not_comparable(made: HandMade) -> None:
    made.table("table2", size="small")
    _, outline = page_of(made.storage, "table2")
    assert "Not comparable with the paper: this was run at size 'small'" in outline.text
    assert "Not comparable" in made.storage.read("report/table2.md").decode()
    made.table("table3", size="paper")
    _, outline = page_of(made.storage, "table3")
    assert "Not comparable" not in outline.text


def test_what_varies_within_a_row_is_never_averaged(made: HandMade) -> None:
    cells = [
        made.cell("weights", {"labels.extractor.weights": weights, "seed": 0}, row="1.0 x M", trained=False)
        for weights in ("nets/a.pth", "nets/b.pth")
    ]
    made.results("weights", cells, layout="table2")
    table = table_of(made.storage, "weights")
    assert [row[0].text for row in table.rows] == ["1.0 x M, weights a.pth", "1.0 x M, weights b.pth"]


def test_without_a_layout_the_keys_of_the_grid_head_the_table(made: HandMade) -> None:
    values = [
        {"labels.outliers": share, "labels.superpixels": pixels} for share in (0.0, 0.1) for pixels in (None, 500)
    ]
    document = made.results("plain", [made.cell("plain", one, trained=False) for one in values])
    report = assemble(read_experiment(made.storage, "plain"), made.storage)
    assert report.table is None
    assert report.plain.columns[:2] == ["outliers", "superpixels"]
    assert column(report.plain, "superpixels") == ["none", "500", "none", "500"]
    assert column(report.plain, "PmIoU") == [f"{cell['metrics']['pmiou']:.2f}" for cell in document["cells"]]


def test_every_number_of_a_table_leads_to_its_steps(made: HandMade) -> None:
    document = made.table("table2")
    text, outline = page_of(made.storage, "table2")
    assert all(target[1:] in outline.ids for target in outline.sources if target.startswith("#"))
    assert len(outline.ids) == len(set(outline.ids))
    assert len(re.findall(r'<td class="ours"[^>]*><a href="#result-', text)) >= 9
    for cell in document["cells"]:
        for key in cell["steps"].values():
            assert f'href="#step-{key}"' in text
            manifest = next(found for found in Ledger(made.storage).manifests() if found.key == key)
            assert all(shard.sha256 in text for shard in manifest.shards)
    for fact in (document["provenance"]["git"]["commit"], "lookbeyond run table2.yaml labels.images=24", "torch"):
        assert fact in outline.text


def test_the_csv_has_every_scalar_of_every_cell(made: HandMade) -> None:
    document = made.table("table6", seeds=2)
    write_one(made.storage, "table6", None)
    rows = list(csv.DictReader(io.StringIO(made.storage.read("report/table6.csv").decode())))
    assert len(rows) == len(document["cells"])
    for row, cell in zip(rows, document["cells"], strict=True):
        assert (row["row"], row["column"], row["status"]) == (cell["row"], cell["column"], "done")
        assert row["cell.seed"] == str(cell["cell"]["seed"])
        assert float(row["metrics.miou"]) == cell["metrics"]["miou"]
        assert float(row["metrics.pmiou"]) == cell["metrics"]["pmiou"]
        assert row["metrics.protocol.split"] == "val"
        assert row["paper.miou"] == str((cell["paper"] or {}).get("miou", ""))
        assert row["step.finetune"] == cell["steps"]["finetune"]
        assert float(row["seconds.pretrain"]) == 1800.0
        assert "metrics.per_class_iou" not in row


def test_shared_steps_are_split_evenly_and_shares_add_up_to_what_was_paid(made: HandMade) -> None:
    document = made.table("table2", seeds=2)
    experiment = read_experiment(made.storage, "table2")
    costs = costs_of(experiment)
    steps = {key for cell in document["cells"] for key in cell["steps"].values()}
    manifests = [manifest for manifest in Ledger(made.storage).manifests() if manifest.key in steps]
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


def test_shards_that_two_image_counts_share_are_paid_once(made: HandMade) -> None:
    cells = [made.cell("counts", {"labels.images": count}, trained=False) for count in (4, 8)]
    long = Ledger(made.storage).manifest("label", cells[1]["steps"]["label_val"])
    assert long is not None
    short = made.step("label", "shared")
    path = f"steps/label/{short}.json"
    document = json.loads(made.storage.read(path))
    document["shards"] = [long.shards[0].to_json()]
    made.storage.replace(path, json.dumps(document).encode())
    cells[0]["steps"]["label_val"] = short
    made.results("counts", cells)
    costs = costs_of(read_experiment(made.storage, "counts"))
    # sample 1 s once, two clusterings of 2 s, two scores of 1 s, and the two shards of the longer labelling.
    assert costs.paid.seconds == pytest.approx(1 + 2 * 2 + 2 * 1 + 1)
    assert costs.separately.seconds == pytest.approx(costs.paid.seconds + 1 + 0.5)


def test_the_rank_correlation_is_scipys(made: HandMade) -> None:
    document = made.table("table2", seeds=3)
    pairs = [(cell["metrics"]["pmiou"], cell["metrics"]["miou"]) for cell in document["cells"]]
    expected = spearmanr([a for a, _ in pairs], [b for _, b in pairs]).statistic
    _, outline = page_of(made.storage, "table2")
    assert f"Rank correlation (Spearman): {signed(expected, 2)} over 9 trained cells" in outline.text
    assert rank_correlation([(1.0, 1.0), (2.0, 1.0), (3.0, 1.0)]).value is None


def test_a_failed_cell_is_named_with_its_error_and_leaves_the_others(made: HandMade) -> None:
    document = made.table("table2", seeds=2)
    for number in (0, 1, 2):
        document["cells"][number] |= {"status": "failed", "error": f"weights {number} are missing", "metrics": {}}
    made.storage.replace("results/table2.json", json.dumps(document).encode())
    _, outline = page_of(made.storage, "table2")
    for number in (0, 1, 2):
        assert f"weights {number} are missing" in outline.text
    assert "3 failed" in outline.text
    table = table_of(made.storage, "table2")
    assert column(table, "Cityscapes, PmIoU: ours")[0] == "failed"
    survivor = document["cells"][3]["metrics"]["pmiou"]
    assert column(table, "Cityscapes, PmIoU: ours")[1] == f"{survivor:.2f}"
    assert "1 of 2 repeats failed" in outline.text
    markdown = made.storage.read("report/table2.md").decode()
    assert "weights 0 are missing" in markdown
    row = next(csv.DictReader(io.StringIO(made.storage.read("report/table2.csv").decode())))
    assert (row["status"], row["error"], row["metrics.pmiou"]) == ("failed", "weights 0 are missing", "")


def test_a_cell_that_was_set_aside_keeps_its_pmiou_and_says_why(made: HandMade) -> None:
    document = made.table("table2", seeds=1)
    reason = "PmIoU 17.80 is not among the 2 best of 3 labellings"
    aside = document["cells"][2] | {"status": "not trained", "reason": reason}
    aside["metrics"] = {name: value for name, value in aside["metrics"].items() if "miou" not in name}
    aside["metrics"]["pmiou"] = 17.8
    del aside["steps"]["finetune"]
    document["cells"][2] = aside
    made.storage.replace("results/table2.json", json.dumps(document).encode())
    _, outline = page_of(made.storage, "table2")
    assert "1 not trained" in outline.text and "0 failed" in outline.text
    assert reason in outline.text
    last = table_of(made.storage, "table2").rows[-1]
    assert [entry.text for entry in last[:4]] == ["2.0 x M", "17.80", "17.8", "0.0"]
    assert "not defined over these 2 trained cells" in outline.text
    assert reason in made.storage.read("report/table2.md").decode()


def test_notes_are_lettered_and_printed_below_the_table(made: HandMade) -> None:
    document = made.table("table6", seeds=1)
    note = "MoCo weights: random values in the official format"
    for number in (3, 6):
        document["cells"][number]["substitutes"] = [note]
    made.storage.replace("results/table6.json", json.dumps(document).encode())
    table = table_of(made.storage, "table6")
    assert table.notes == [note]
    marked = [(row[0].text, entry.text) for row in table.rows for entry in row if entry.notes == ("a",)]
    assert [name for name, _ in marked] == ["ImageNet", "MoCo"]
    assert note in page_of(made.storage, "table6")[1].text
    for cell in document["cells"]:
        cell["substitutes"].append("for 12 steps")
    made.storage.replace("results/table6.json", json.dumps(document).encode())
    assert table_of(made.storage, "table6").notes == [note]
    assert "In every cell: for 12 steps." in page_of(made.storage, "table6")[1].text
    assert f"(a) {note}" in made.storage.read("report/table6.md").decode()


HOSTILE = "<img src=x onerror=alert(1)>|`*_[x](javascript:1)\"'&</script>"


def test_what_users_write_is_shown_and_never_run(made: HandMade) -> None:
    values = [{f"labels.{HOSTILE}": HOSTILE, "labels.outliers": share} for share in (0.0, 0.1, 0.2)]
    cells = [made.cell("hostile", one, row=HOSTILE + str(place)) for place, one in enumerate(values)]
    cells[0] |= {"error": HOSTILE, "status": "failed", "quarantined": [HOSTILE], "substitutes": [HOSTILE]}
    cells[1]["metrics"]["protocol"]["dataset"] = HOSTILE
    made.results("hostile", cells, title=HOSTILE, layout="table2", rows=[{"row": HOSTILE}], size=HOSTILE)
    text, outline = page_of(made.storage, "hostile")
    assert "<img" not in text and "img" not in outline.tags
    assert outline.tags.count("script") == 1
    assert HOSTILE in outline.text
    assert all(source.startswith(("#", "data:")) for source in outline.sources)
    markdown = made.storage.read("report/hostile.md").decode()
    assert "<img" not in markdown
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    assert len(set(widths[:5])) == 1
    row = next(csv.DictReader(io.StringIO(made.storage.read("report/hostile.csv").decode())))
    assert row["error"] == HOSTILE


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(made: HandMade) -> None:
    for layout in PAPER:
        made.table(layout, seeds=1)
    made.picture("table2")
    write_all(made.storage, None)
    for name in (*PAPER, "index"):
        text = made.storage.read(f"report/{name}.html").decode()
        outline = Outline(text)
        allowed = ("#", "data:") if name != "index" else ("table", "data:")
        assert all(source.startswith(allowed) for source in outline.sources)
        assert not re.search(r"https?:|@import|url\(", text)
        assert "default-src 'none'" in text


def test_equal_input_gives_equal_bytes(made: HandMade) -> None:
    made.table("table2")
    made.picture("table2")
    first = write_all(made.storage, None)
    before = {place: Path(place).read_bytes() for place in first.reports["table2"].values()}
    second = write_all(made.storage, None)
    assert {place: Path(place).read_bytes() for place in second.reports["table2"].values()} == before


def test_only_an_experiments_own_pictures_are_embedded_in_order(made: HandMade) -> None:
    made.results("camvid", [made.cell("camvid", {}, trained=False)])
    made.results("camvid-k", [made.cell("camvid-k", {}, trained=False)])
    for name in ("camvid-k", "camvid-2", "camvid-10", "camvid", "camvid-predictions", "camvidx"):
        made.picture(name)
    sheets = assemble(read_experiment(made.storage, "camvid"), made.storage).sheets
    assert [sheet.caption.split(",")[-1].strip() for sheet in sheets] == [
        "labels and the classes they match",
        "page 2",
        "page 10",
        "as in the paper's Figure 4",
    ]
    assert (sheets[0].width, sheets[0].height) == (32, 16)


def test_a_curve_is_drawn_for_every_training(made: HandMade) -> None:
    made.table("table4", seeds=1)
    report = assemble(read_experiment(made.storage, "table4"), made.storage)
    assert {name: len(charts) for name, charts in report.curves.items()} == {
        "Pre-training: loss": 3,
        "Fine-tuning: loss": 3,
        "Fine-tuning: mIoU, %": 3,
    }
    assert "step 40: 1.323" in report.curves["Pre-training: loss"][0].svg


@pytest.mark.parametrize("layout", ["table2", "table3", "table4", "table5"])
def test_a_sweep_is_drawn_with_our_values_and_the_papers(made: HandMade, layout: str) -> None:
    document = made.table(layout)
    charts = assemble(read_experiment(made.storage, layout), made.storage).sweeps
    chart = next(chart for chart in charts if chart.title == "mIoU, multi-scale + flip on Cityscapes")
    assert [name for name, _ in chart.legend] == ["ours", "paper"]
    texts = re.findall(r'<text class="value[^>]*>([^<]*)</text>', chart.svg)
    ours = [f"{mean:.1f}" for mean, _ in means(document, "miou_multi_scale").values()]
    assert texts == ours + [f"{entry['paper']['cityscapes']['miou']:.1f}" for entry in PAPER[layout]]


def test_at_another_size_the_papers_curve_has_a_chart_of_its_own(made: HandMade) -> None:
    made.table("table2", size="small")
    charts = assemble(read_experiment(made.storage, "table2"), made.storage).sweeps
    assert [chart.title for chart in charts if chart.title.startswith("PmIoU")] == [
        "PmIoU on Cityscapes",
        "PmIoU in the paper, on Cityscapes",
    ]


def test_repeats_that_differ_in_seeds_only_are_one_result(made: HandMade) -> None:
    cells = [
        made.cell("seeds", {"seed": seed, "pretrain.seed": seed, "labels.outliers": share}, trained=False)
        for seed in (0, 1)
        for share in (0.0, 0.1)
    ]
    made.results("seeds", cells)
    results = results_of(read_experiment(made.storage, "seeds"))
    assert [[number for number, _ in result.cells] for result in results] == [[0, 2], [1, 3]]
    expected = [cells[0]["metrics"]["pmiou"], cells[2]["metrics"]["pmiou"]]
    spread = results[0].spread("pmiou")
    assert spread is not None
    assert spread.mean == pytest.approx(np.mean(expected))
    assert spread.deviation == pytest.approx(np.std(expected, ddof=1))


def test_a_manifest_that_is_gone_is_named_and_costs_only_its_provenance(made: HandMade) -> None:
    document = made.table("table3", seeds=1)
    gone, damaged = (document["cells"][number]["steps"]["score"] for number in (0, 1))
    Ledger(made.storage).forget("score", gone)
    made.storage.replace(f"steps/score/{damaged}.json", b"{")
    _, outline = page_of(made.storage, "table3")
    steps = {key for cell in document["cells"] for key in cell["steps"].values()}
    assert f"1 of {len(steps)} manifests are no longer on the storage: {gone[:12]}" in outline.text
    assert f"steps/score/{damaged}.json is damaged" in outline.text
    assert figure(document["cells"][0]["metrics"]["pmiou"]) in outline.text


def test_missing_results_say_what_there_is(made: HandMade, capsys: pytest.CaptureFixture[str]) -> None:
    made.table("table3", seeds=1)
    with pytest.raises(InputError, match=r"no results of 'table4' on storage .*; there are: table3$"):
        write_one(made.storage, "table4", None)
    folder = Path(made.storage.uri)
    experiment = folder.parent / "other.yaml"
    experiment.write_text("name: other\ndataset: {name: scenes}\n")
    assert cli.main(["report", str(experiment), "--storage", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("there are: table3")
    (folder.parent / "empty").mkdir()
    assert cli.main(["report", str(folder.parent / "empty")]) == 2
    assert "has no results/*.json to report on" in capsys.readouterr().err
    assert cli.main(["report", str(folder.parent / "nowhere")]) == 2
    assert "is neither a storage (a folder or a URI) nor an experiment file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read"),
        (b"[]", "does not hold results"),
        (b'{"experiment": {}, "provenance": {}, "cells": [{"cell": {}, "status": 3}]}', "cells.0.status"),
    ],
)
def test_a_damaged_results_file_is_named_and_the_other_reports_are_written(
    made: HandMade, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made.table("table3", seeds=1)
    made.storage.replace("results/bad.json", content)
    assert cli.main(["report", made.storage.uri, "--json"]) == 2
    out, err = capsys.readouterr()
    written = json.loads(out)
    assert list(written["reports"]) == ["table3"]
    assert all(Path(place).exists() for place in (*written["reports"]["table3"].values(), written["index"]))
    (line,) = err.splitlines()
    assert "bad.json" in line and message in line


def test_a_report_can_be_written_elsewhere(made: HandMade, capsys: pytest.CaptureFixture[str]) -> None:
    made.table("table3", seeds=1)
    target = Path(made.storage.uri).parent / "new" / "place"
    assert cli.main(["report", made.storage.uri, "--output", str(target)]) == 0
    assert sorted(path.name for path in target.iterdir()) == ["index.html", "table3.csv", "table3.html", "table3.md"]
    assert f"index: {target}/index.html" in capsys.readouterr().out
    assert not (Path(made.storage.uri) / "report").exists()
