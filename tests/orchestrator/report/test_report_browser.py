"""The report in a real browser: no complaints, nothing fetched, narrow and wide, light and dark, and tables sort."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import run_here
from support.headless_browser import Page, browser_page
from support.report_storage import HandMade

from orchestrator.planning.plan import make_plan
from orchestrator.report.writing import write_all
from orchestrator.results.gallery import write_gallery
from orchestrator.results.results import collect, record_run, write_results
from orchestrator.storage.store import Storage

COLUMN = 'table[data-sortable] th[data-column="1"] button'
SCENES = {
    "name": "scenes",
    "dataset": {"name": "scenes", "image_size": [64, 96], "num_train": 4, "num_val": 2},
    "labels": {
        "extractor": {"arch": "filters", "output_stride": 8, "batch_size": 2},
        "superpixels": {"n_segments": 40},
    },
    "grid": {"labels.outliers": [0.0, 0.3], "labels.clustering.k_per_class": [1.0, 2.0], "seed": [0, 1]},
    "compute": {"shard_images": 2},
}
CELLS = "[...document.querySelector('table[data-sortable]').tBodies[0].rows].map(row => row.cells[1].dataset.value)"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = Storage(str(tmp_path_factory.mktemp("reports")))
    made = HandMade(storage)
    for layout in ("table2", "table6"):
        made.table(layout, seeds=2)
    made.picture("table2")
    write_all(storage, None)
    return Path(storage.uri) / "report"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of labels that were made of scenes, with their pictures."""
    storage = Storage(str(tmp_path_factory.mktemp("own")))
    plan = make_plan(SCENES, storage, write_listings=True)
    run_here(plan, storage)
    write_results(plan, collect(plan, set(), {}), storage, run=record_run(plan, 0.0, []))
    write_gallery(plan, storage)
    write_all(storage, None)
    return Path(storage.uri) / "report"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser_page(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("table6", 390, "light"),
        ("table6", 390, "dark"),
        ("table6", 1280, "light"),
        ("table6", 1280, "dark"),
        ("index", 390, "light"),
    ],
)
def test_a_page_fits_its_window_without_complaints_or_requests(
    page: Page, reports: Path, name: str, width: int, scheme: str
) -> None:
    path = reports / f"{name}.html"
    page.open(path, width=width, scheme=scheme)
    assert page.ask("document.documentElement.scrollWidth") <= width
    ink, paper = (page.ask(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    red_of = [int(colour.split("(")[1].split(",")[0]) for colour in (ink, paper)]
    assert (red_of[0] < red_of[1]) == (scheme == "light")
    assert page.complaints == []
    assert page.requests == [path.as_uri()]


def test_a_click_on_a_heading_sorts_and_a_second_one_turns_it_round(page: Page, reports: Path) -> None:
    page.open(reports / "table2.html", width=1280, scheme="light")
    written = [float(value) for value in page.ask(CELLS)]
    assert written != sorted(written)
    page.ask(f"document.querySelector('{COLUMN}').click()")
    assert [float(value) for value in page.ask(CELLS)] == sorted(written, reverse=True)
    page.ask(f"document.querySelector('{COLUMN}').click()")
    assert [float(value) for value in page.ask(CELLS)] == sorted(written)
    heading = page.ask(f"document.querySelector('{COLUMN}').parentElement.getAttribute('aria-sort')")
    assert (heading, page.complaints) == ("ascending", [])


def test_a_phone_shows_the_score_of_a_row_without_scrolling_and_a_desktop_all_costs(page: Page, own: Path) -> None:
    page.open(own / "scenes.html", width=390, scheme="light")
    right = "document.querySelector('#results td.ours').getBoundingClientRect().right"
    assert page.ask(right) <= 390
    page.open(own / "scenes.html", width=1280, scheme="light")
    table = "document.querySelector('#cost .scroll')"
    assert page.ask(f"{table}.scrollWidth") <= page.ask(f"{table}.clientWidth")


def test_the_pictures_are_those_of_the_setting_that_is_chosen(page: Page, own: Path) -> None:
    page.open(own / "scenes.html", width=1280, scheme="light")
    shown = "[...document.querySelectorAll('[data-setting]')].filter(tile => tile.getBoundingClientRect().width)"
    chooser = "document.querySelector('[data-chooses]')"
    assert page.ask(f"{chooser}.options.length") == 4
    for number in ("3", "1"):
        page.ask(f"{chooser}.value = '{number}', {chooser}.dispatchEvent(new Event('change'))")
        # Labels, and labels as classes, of two images.
        assert page.ask(f"{shown}.map(tile => tile.dataset.setting)") == [number] * 4
    assert page.ask("[...document.images].every(image => image.complete && image.naturalWidth)") is True
    assert page.complaints == []


def test_a_number_opens_its_provenance(page: Page, reports: Path) -> None:
    page.open(reports / "table2.html", width=1280, scheme="light")
    place = "document.querySelector('td.ours a')"
    target = f"document.getElementById({place}.getAttribute('href').slice(1))"
    assert page.ask(f"{target}.open") is False
    page.ask(f"{place}.click()")
    # The page opens it when it hears that its address has changed, which is after this turn of its loop.
    page.ask_later(f"{target}.open")
    page.ask(f"{target}.querySelector('.keys a').click()")
    page.ask_later(f"document.getElementById({target}.querySelector('.keys a').getAttribute('href').slice(1)).open")
    assert page.complaints == []
