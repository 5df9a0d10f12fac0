"""What is shown of a training beside the results: files for TensorBoard, its parameters and what it reported.

They take the place of the files of Tune's own loggers, which show every number of Tune's bookkeeping beside them, and
every value of a configuration among the HPARAMS, whether or not any two trainings differ in it. They lie by the name of
the experiment and of the training, and decide nothing; a training that is taken up again goes on in its folder.
"""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback
from ray.tune.result import AUTO_RESULT_KEYS
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from orchestrator.execution.trial_info import TrialInfo
from orchestrator.ledger.training_states import VAL_MIOU_SUBSET

_TAGS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "images_per_second": "images_per_second",
    VAL_MIOU_SUBSET: "mIoU/val_subset",
    "miou": "mIoU/val",
    "miou_multi_scale": "mIoU/val_multi_scale",
}
_FIGURES_OF_MERIT = ("mIoU/val", "loss")
# What a training counts or ends with, and Tune's own; all other numbers are those of its objective.
_NOT_SHOWN = frozenset((*AUTO_RESULT_KEYS, "done", "epoch", "wait_share", "images_trained", "trial_id"))
_NO_CURVES = ("_loss", "_classes_present")
_COLUMNS = ("timesteps_total", "epoch", "loss", "learning_rate", "images_per_second", "wait_share", *list(_TAGS)[3:])


@dataclass
class _Files:
    """The folder of one trial, its open file for TensorBoard, and the last value of every curve."""

    folder: Path
    info: TrialInfo
    writer: SummaryWriter
    last: dict[str, float] = field(default_factory=dict)


class TrainingLogger(LoggerCallback):
    """Writes the curves of every trial, and at its end what tells it from the others with its last mIoU."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[Trial, _Files] = {}

    def log_trial_start(self, trial: Trial) -> None:
        """Open the files of a trial."""
        info: TrialInfo = trial.config["info"]
        folder = self._folder / info.experiment / info.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "params.json").write_text(json.dumps({"config": info.values}, indent=2) + "\n")
        self._files[trial] = _Files(folder, info, SummaryWriter(str(folder), flush_secs=30))

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Add a point to every curve of which something is told."""
        told = {name: value for name, value in result.items() if _is_plain(value) and name not in _TUNES}
        if "timesteps_total" not in told:
            # Nothing of the training itself.
            return
        if trial not in self._files:
            self.log_trial_start(trial)
        files = self._files[trial]
        with (files.folder / "result.json").open("a") as lines:
            lines.write(json.dumps(told) + "\n")
        table = files.folder / "progress.csv"
        is_new = not table.exists()
        with table.open("a", newline="") as lines:
            rows = csv.DictWriter(lines, _COLUMNS, restval="", extrasaction="ignore")
            if is_new:
                rows.writeheader()
            rows.writerow(told)
        for tag, value in _curves(told).items():
            files.writer.add_scalar(tag, value, global_step=told["timesteps_total"])
            files.last[tag] = value
        files.writer.flush()

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Write the HPARAMS and close the file."""
        files = self._files.pop(trial, None)
        if files is None:
            return
        if files.last:
            # TensorBoard takes the columns from whichever training it finds first, so all name the same.
            figures = dict.fromkeys(_FIGURES_OF_MERIT, 0.0)
            # Of a figure that is not known the column is named, and no value.
            told = files.info.distinguishing
            known = {name: value for name, value in told.items() if not _is_nan(value)}
            columns, _, _ = hparams({name: known.get(name, 0.0) for name in told}, figures)
            _, begin, end = hparams(known, figures)
            for summary in (columns, begin, end):
                files.writer.file_writer.add_summary(summary)
        files.writer.close()


_TUNES = frozenset(AUTO_RESULT_KEYS) - {"timesteps_total"} | {"trial_id", "done", "config"}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _curves(result: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for name, value in result.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or name in _NOT_SHOWN:
            continue
        if name in _TAGS:
            found[_TAGS[name]] = float(value)
        elif not name.endswith(_NO_CURVES) or name.split("_")[0] not in ("pretrain", "finetune", "miou"):
            found[f"objective/{name}"] = float(value)
    return found
