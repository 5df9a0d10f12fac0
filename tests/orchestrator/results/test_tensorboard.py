"""What TensorBoard finds beside the trials of a run: the picture sheets, and of a later run only its own."""

from pathlib import Path

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from orchestrator.results.tensorboard import show_sheets


def test_the_sheets_of_the_last_run_are_its_pictures(tmp_path: Path) -> None:
    colours = np.zeros((4, 6, 3), np.uint8)
    colours[:, 3:] = [255, 0, 0]
    for name in ("first", "second"):
        Image.fromarray(colours).save(tmp_path / f"{name}.png")
    trials = tmp_path / "tune"
    show_sheets([str(tmp_path / "gone.png"), "s3://bucket/elsewhere.png"], str(trials))
    assert not trials.exists(), "where there is no picture there is nothing to show"
    show_sheets([str(tmp_path / "first.png")], str(trials))
    show_sheets([str(tmp_path / "second.png")], str(trials))
    events = EventAccumulator(str(trials / "labels"))
    events.Reload()
    assert events.Tags()["images"] == ["labels/second"]
    (shown,) = events.Images("labels/second")
    assert (shown.height, shown.width) == (4, 6)
