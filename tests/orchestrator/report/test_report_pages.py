"""The pages of reports of storages made by hand: pictures, provenance, and what users' files may hold."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.report_pages import Outline, page_of
from support.report_storage import PAPER, HandMade, means, on_dataset

from orchestrator.cli import parser as cli
from orchestrator.ledger.layout import manifest_path
from orchestrator.ledger.manifests import Ledger
from orchestrator.report.assembling import assemble
from orchestrator.report.comparing import results_of
from orchestrator.report.reading import read_experiment
from orchestrator.report.writing import write_all, write_one
from orchestrator.results.cells import Status
from workloads.errors import InputError
from workloads.formats import figure

HOSTILE = "<img src=x onerror=alert(1)>|`*_[x](javascript:1)\"'&</script>"


def test_what_users_write_is_shown_and_never_run(hand_made: HandMade) -> None:
    values = [{f"labels.{HOSTILE}": HOSTILE, "labels.outliers": share} for share in (0.0, 0.1, 0.2)]
    cells = [hand_made.cell("hostile", one, row=HOSTILE + str(place)) for place, one in enumerate(values)]
    failed = {"error": HOSTILE, "status": Status.FAILED, "quarantined": [HOSTILE], "substitutes": [HOSTILE]}
    cells = [cells[0].model_copy(update=failed), on_dataset(cells[1], HOSTILE), cells[2]]
    hand_made.results("hostile", cells, title=HOSTILE, layout="table2", rows=[{"row": HOSTILE}], size=HOSTILE)
    text, outline = page_of(hand_made.storage, "hostile")
    assert "<img" not in text and "img" not in outline.tags
    assert outline.tags.count("script") == 1
    assert HOSTILE in outline.text
    assert all(source.startswith(("#", "data:")) for source in outline.sources)
    markdown = hand_made.storage.read("report/hostile.md").decode()
    assert "<img" not in markdown
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    assert len(set(widths[:5])) == 1
    row = next(csv.DictReader(io.StringIO(hand_made.storage.read("report/hostile.csv").decode())))
    assert row["error"] == HOSTILE


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(hand_made: HandMade) -> None:
    for layout in PAPER:
        hand_made.table(layout, seeds=1)
    hand_made.picture("table2")
    write_all(hand_made.storage, None)
    for name in (*PAPER, "index"):
        text = hand_made.storage.read(f"report/{name}.html").decode()
        outline = Outline(text)
        allowed = ("#", "data:") if name != "index" else ("table", "data:")
        assert all(source.startswith(allowed) for source in outline.sources)
        assert not re.search(r"https?:|@import|url\(", text)
        assert "default-src 'none'" in text


def test_equal_input_gives_equal_bytes(hand_made: HandMade) -> None:
    hand_made.table("table2")
    hand_made.picture("table2")
    first = write_all(hand_made.storage, None)
    before = {place: Path(place).read_bytes() for place in first.reports["table2"].values()}
    second = write_all(hand_made.storage, None)
    assert {place: Path(place).read_bytes() for place in second.reports["table2"].values()} == before


def test_only_an_experiments_own_pictures_are_embedded_in_order(hand_made: HandMade) -> None:
    hand_made.results("camvid", [hand_made.cell("camvid", {}, trained=False)])
    hand_made.results("camvid-k", [hand_made.cell("camvid-k", {}, trained=False)])
    for name in ("camvid-k", "camvid-2", "camvid-10", "camvid", "camvid-predictions", "camvidx"):
        hand_made.picture(name)
    sheets = assemble(read_experiment(hand_made.storage, "camvid"), hand_made.storage).sheets
    assert [sheet.caption.split(",")[-1].strip() for sheet in sheets] == [
        "labels and the classes they match",
        "page 2",
        "page 10",
        "predictions after fine-tuning beside the ground truth",
    ]
    assert (sheets[0].width, sheets[0].height) == (32, 16)


def test_the_curves_of_all_trainings_of_a_kind_are_overlaid_by_row(hand_made: HandMade) -> None:
    hand_made.table("table4", seeds=2)
    report = assemble(read_experiment(hand_made.storage, "table4"), hand_made.storage)
    rows = [entry["row"] for entry in PAPER["table4"]]
    assert list(report.curves) == ["Pre-training: loss", "Fine-tuning: loss", "Fine-tuning: mIoU on a part of val, %"]
    for (chart,) in report.curves.values():
        assert [name for name, _ in chart.legend] == rows
        assert chart.svg.count("<polyline") == 2 * len(rows), "a line for every repeat"
    (loss,), (miou,) = report.curves["Pre-training: loss"], report.curves["Fine-tuning: mIoU on a part of val, %"]
    assert f"{rows[0]}: step 40: 1.323" in loss.svg
    assert re.findall(r"5%: step (\d+): (\d+)<", miou.svg) == 2 * [(str(step),) * 2 for step in (8, 16, 24, 32, 40)]


def test_many_settings_share_several_charts_of_one_scale(hand_made: HandMade) -> None:
    hand_made.table("table1", seeds=1)
    charts = assemble(read_experiment(hand_made.storage, "table1"), hand_made.storage).curves["Fine-tuning: loss"]
    assert [len(chart.legend) for chart in charts] == [6, 3]
    ticks = [re.findall(r'class="tick end"[^>]*>([^<]*)<', chart.svg) for chart in charts]
    assert ticks[0] == ticks[1]


def test_two_keys_of_the_grid_are_a_heat_map_with_the_best_outlined(hand_made: HandMade) -> None:
    values = [{"labels.outliers": share, "labels.images": count} for share in (0.0, 0.1) for count in (8, 16, 24)]
    document = hand_made.results("grid", [hand_made.cell("grid", one, trained=False) for one in values])
    (chart,) = assemble(read_experiment(hand_made.storage, "grid"), hand_made.storage).sweeps
    figures = [f"{cell.metrics.pmiou:.1f}" for cell in document.cells]
    texts = re.findall(r'<text class="middle"[^>]*>([^<]*)<', chart.svg)
    assert texts == figures
    places = dict(zip(texts, re.findall(r'class="field heat-\d" (x="[^"]*" y="[^"]*")', chart.svg), strict=True))
    assert f'class="field-best" {places[max(figures, key=float)]}' in chart.svg
    assert "heat-7" in chart.svg and "heat-0" in chart.svg


def test_the_iou_of_each_class_is_the_mean_over_repeats(hand_made: HandMade) -> None:
    document = hand_made.table("table4")
    first, second = assemble(read_experiment(hand_made.storage, "table4"), hand_made.storage).classes
    assert first.columns == ["class", *(entry["row"] for entry in PAPER["table4"])]
    mious = means(document, "miou")
    expected = [mious[entry["row"], None][0] for entry in PAPER["table4"]]
    road, train = first.rows
    assert [entry.text for entry in road] == ["road", *(f"{mean + 5:.1f}" for mean in expected)]
    assert [entry.value for entry in train[1:]] == pytest.approx([mean - 5 for mean in expected])
    assert [entry.mark for entry in road[1:]] == ["best" if mean == max(expected) else "" for mean in expected]
    assert [[entry.text for entry in row] for row in second.rows] == [["road", *["30.0"] * 3], ["train", "", "", ""]]


def test_the_index_has_the_best_score_of_every_experiment(hand_made: HandMade) -> None:
    document = hand_made.table("table4")
    hand_made.results("labels", [hand_made.cell("labels", {}, trained=False)])
    write_all(hand_made.storage, None)
    outline = Outline(hand_made.storage.read("report/index.html").decode())
    for metric in ("pmiou", "miou_multi_scale"):
        mean, deviation = max(means(document, metric).values())
        assert f"{mean:.2f} ± {deviation:.2f}" in outline.text


@pytest.mark.parametrize("layout", ["table2", "table3", "table4", "table5"])
def test_a_sweep_is_drawn_with_our_values_and_the_papers(hand_made: HandMade, layout: str) -> None:
    document = hand_made.table(layout)
    charts = assemble(read_experiment(hand_made.storage, layout), hand_made.storage).sweeps
    chart = next(chart for chart in charts if chart.title == "mIoU, multi-scale + flip on Cityscapes")
    assert [name for name, _ in chart.legend] == ["ours", "paper"]
    texts = re.findall(r'<text class="value[^>]*>([^<]*)</text>', chart.svg)
    ours = [f"{mean:.1f}" for mean, _ in means(document, "miou_multi_scale").values()]
    assert texts == ours + [f"{entry['paper']['cityscapes']['miou']:.1f}" for entry in PAPER[layout]]


def test_at_another_size_the_papers_curve_has_a_chart_of_its_own(hand_made: HandMade) -> None:
    hand_made.table("table2", size="small")
    charts = assemble(read_experiment(hand_made.storage, "table2"), hand_made.storage).sweeps
    assert [chart.title for chart in charts if chart.title.startswith("PmIoU")] == [
        "PmIoU on Cityscapes",
        "PmIoU in the paper, on Cityscapes",
    ]


def test_repeats_that_differ_in_seeds_only_are_one_result(hand_made: HandMade) -> None:
    cells = [
        hand_made.cell("seeds", {"seed": seed, "pretrain.seed": seed, "labels.outliers": share}, trained=False)
        for seed in (0, 1)
        for share in (0.0, 0.1)
    ]
    hand_made.results("seeds", cells)
    results = results_of(read_experiment(hand_made.storage, "seeds"))
    assert [[number for number, _ in result.cells] for result in results] == [[0, 2], [1, 3]]
    expected = [cells[0].metrics.pmiou, cells[2].metrics.pmiou]
    spread = results[0].spread("pmiou")
    assert spread is not None
    assert spread.mean == pytest.approx(np.mean(expected))
    assert spread.deviation == pytest.approx(np.std(expected, ddof=1))


def test_a_manifest_that_is_gone_is_named_and_costs_only_its_provenance(hand_made: HandMade) -> None:
    document = hand_made.table("table3", seeds=1)
    gone, damaged = (document.cells[number].steps["score"] for number in (0, 1))
    Ledger(hand_made.storage).forget("score", gone)
    hand_made.storage.replace(manifest_path("score", damaged), b"{")
    _, outline = page_of(hand_made.storage, "table3")
    steps = {key for cell in document.cells for key in cell.steps.values()}
    assert f"1 of {len(steps)} manifests are no longer on the storage: {gone[:12]}" in outline.text
    assert f"steps/score/{damaged}.json is damaged" in outline.text
    assert figure(document.cells[0].metrics.pmiou) in outline.text


def test_missing_results_say_what_there_is(hand_made: HandMade, capsys: pytest.CaptureFixture[str]) -> None:
    hand_made.table("table3", seeds=1)
    with pytest.raises(InputError, match=r"no results of 'table4' on storage .*; there are: table3$"):
        write_one(hand_made.storage, "table4", None)
    folder = Path(hand_made.storage.uri)
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
    hand_made: HandMade, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hand_made.table("table3", seeds=1)
    hand_made.storage.replace("results/bad.json", content)
    assert cli.main(["report", hand_made.storage.uri, "--json"]) == 2
    out, err = capsys.readouterr()
    written = json.loads(out)
    assert list(written["reports"]) == ["table3"]
    assert all(Path(place).exists() for place in (*written["reports"]["table3"].values(), written["index"]))
    (line,) = err.splitlines()
    assert "bad.json" in line and message in line


def test_a_report_can_be_written_elsewhere(hand_made: HandMade, capsys: pytest.CaptureFixture[str]) -> None:
    hand_made.table("table3", seeds=1)
    target = Path(hand_made.storage.uri).parent / "new" / "place"
    assert cli.main(["report", hand_made.storage.uri, "--output", str(target)]) == 0
    assert sorted(path.name for path in target.iterdir()) == ["index.html", "table3.csv", "table3.html", "table3.md"]
    assert f"index: {target}/index.html" in capsys.readouterr().out
    assert not (Path(hand_made.storage.uri) / "report").exists()
