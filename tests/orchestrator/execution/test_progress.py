"""What a terminal shows of a run, in 100 and in 60 columns, from its start to its end and after a resume."""

import io
import time
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli.foretelling import ahead
from orchestrator.execution import progress as module
from orchestrator.execution.progress import Ahead, Progress
from orchestrator.ledger.manifests import Ledger
from orchestrator.planning.plan import make_plan
from orchestrator.steps.jobs import WorkerCache
from orchestrator.storage.store import Storage


class Clock:
    """A clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    assert module.time is time
    return Clock(monkeypatch)


def shown(progress: Progress) -> list[str]:
    """The lines of the bars as they are now."""
    with progress.console.capture() as capture:
        progress.console.print(progress._bars.get_renderable())
    return [line.rstrip() for line in capture.get().splitlines()]


def on_terminal(width: int) -> Progress:
    return Progress(Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None, height=40))


@pytest.mark.parametrize("width", [60, 100])
def test_all_lines_fit_and_elapsed_is_not_taken_for_left(clock: Clock, width: int) -> None:
    progress = on_terminal(width)
    progress.ahead([Ahead("label images", 400, 100), Ahead("fine-tune", 2, trains=True)])
    progress.reckoned({"label images": 60.0, "fine-tune": 180.0}, 2)
    clock.now += 10
    progress.advance("label images", 150)
    clock.now += 25
    progress.follow("fine-tune", 0.5, 0.6931, 43.21, "a")
    lines = shown(progress)
    assert all(len(line) <= width for line in lines), lines
    label, train, whole = lines
    assert "250/400" in label
    assert "0/2" in train and "50%, loss 0.693" in train
    # 150 of the 300 images that were left, and a quarter of two trainings: 30 + 45 of 240 seconds.
    assert "31%" in whole
    # 165 core-seconds are left. Two cores were reckoned with, and over 25 s three core-seconds a second were seen.
    trusted = 0.05 * 240 / 2
    left = 165 / ((2 * trusted + 75) / (trusted + 25))
    assert progress.seconds_left() == pytest.approx(left)
    words = f"35 s; ~{left:.0f} s to go" if width == 60 else f"35 s so far, about {left:.0f} s to go"
    assert words in whole


@pytest.mark.parametrize(("width", "guess", "seen"), [(60, "~50 s? to go", "~"), (100, "by a guess 50 s", "about ")])
def test_a_guess_is_said_to_be_one_until_enough_was_seen(clock: Clock, width: int, guess: str, seen: str) -> None:
    progress = on_terminal(width)
    progress.ahead([Ahead("label images", 100), Ahead("score labels", 10)])
    progress.reckoned({"label images": 100.0, "score labels": 0.0}, 2, is_guess=True)
    assert guess in shown(progress)[-1]
    progress.advance("label images", 10)
    assert seen in shown(progress)[-1] and "?" not in shown(progress)[-1] and "guess" not in shown(progress)[-1]


def test_the_time_to_the_end_follows_what_was_seen(clock: Clock) -> None:
    """The plan reckoned ten times too little: after a tenth of the work the rest is known within a third."""
    progress = on_terminal(100)
    progress.ahead([Ahead("label images", 1000), Ahead("score labels", 10)])
    assert progress.seconds_left() is None
    progress.reckoned({"label images": 100.0, "score labels": 0.0}, 1)
    assert progress.seconds_left() == 100
    progress.advance("label images", 0)
    clock.now += 100
    progress.advance("label images", 100)
    assert progress.seconds_left() == pytest.approx(900, rel=1 / 3)
    clock.now += 400
    progress.advance("label images", 400)
    assert progress.seconds_left() == pytest.approx(500, rel=0.15)


def test_a_bar_of_trainings_moves_by_their_steps_and_is_full_at_the_end(clock: Clock) -> None:
    progress = on_terminal(100)
    progress.ahead([Ahead("pre-train", 2, trains=True)])
    bar = progress._known["pre-train"]
    progress.follow("pre-train", 0.25, 1.0, None, "a")
    progress.follow("pre-train", 0.5, 1.0, None, "b")
    assert bar.reached == 0.75
    progress.advance("pre-train", 367)
    assert (bar.done, bar.shares) == (1, {"a": 0.25})
    progress.advance("pre-train", 367)
    progress.expect("pre-train", 367)
    progress.finished("pre-train")
    assert (bar.reached, bar.share) == (2, 1.0)


def test_a_step_that_is_finished_before_its_last_piece_is_told_is_counted_once(clock: Clock) -> None:
    progress = on_terminal(100)
    progress.ahead([Ahead("label images", 12), Ahead("fine-tune", 1, trains=True)])
    for title in ("label images", "fine-tune"):
        progress.expect(title, 12)
        progress.follow("fine-tune", 0.9, 1.0, None, "a")
        progress.finished(title)
        progress.advance(title, 8)
    label, train, _ = shown(progress)
    assert "12/12" in label and "1/1" in train


def test_words_stand_there_until_something_moves(clock: Clock) -> None:
    progress = on_terminal(60)
    progress.ahead([Ahead("label images", 4)])
    progress.wait("starting Ray", "takes some seconds")
    assert any("starting Ray" in line and "takes some seconds" in line for line in shown(progress))
    progress.advance("label images", 1)
    assert not any("starting Ray" in line for line in shown(progress))


def test_a_log_has_a_line_for_what_is_waited_for_and_for_every_title(clock: Clock) -> None:
    out = io.StringIO()
    with Progress(Console(file=out, width=80)) as progress:
        progress.wait("starting Ray", "takes some seconds")
        for _ in range(2):
            progress.expect("label images", 8)
        clock.now += 30
        progress.finished("label images")
        progress.finished("label images")
    lines = ["starting Ray: takes some seconds", "label images: done, 30 s after the start"]
    assert [line for line in out.getvalue().splitlines() if line] == lines


def test_what_is_shared_counts_once_and_what_a_run_before_has_done_is_done(tiny: dict[str, Any], tmp_path: Any) -> None:
    """Two numbers of clusters, with and without superpixels: four labellings of each of six shards, in one go."""
    storage = Storage(str(tmp_path))
    plan = make_plan(tiny, storage, write_listings=True)
    before = {one.title: one for one in ahead(plan, Ledger(storage))}
    assert (before["label images"].units, before["label images"].done) == (24 + 8, 0)
    assert (before["sample features"].units, before["score labels"].units) == (24, 4 * 8)
    [step] = [step for step in plan.steps.values() if step.kind == "sample"]
    for shard in step.images.shards[:2]:
        step.job(storage, (step,), shard, "cpu").run(WorkerCache())
    after = {one.title: one for one in ahead(plan, Ledger(storage))}
    assert (after["sample features"].units, after["sample features"].done) == (24, 8)
