"""Picture sheets beside the curves: TensorBoard's IMAGES tab shows the labels that a run's trainings started from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def show_sheets(sheets: Sequence[str], trials: str) -> None:
    """Add the pictures to the folder of a run's trials; what does not lie on this machine is left out.

    The sheets of a later run take the place of those of an earlier one.
    """
    from tensorboardX import SummaryWriter

    present = [Path(sheet) for sheet in sheets if Path(sheet).is_file()]
    if not present:
        return
    folder = Path(trials) / "labels"
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        for sheet in present:
            writer.add_image(f"labels/{sheet.stem}", np.asarray(Image.open(sheet).convert("RGB")), dataformats="HWC")
