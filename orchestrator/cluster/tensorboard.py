"""What TensorBoard shows of a training: its loss, learning rate, speed and mIoU, and what its objective shows.

It takes the place of Tune's own logger, which shows every number of Tune's bookkeeping beside them, and every value of
a configuration among the HPARAMS, whether or not any two trainings differ in it.
"""

from collections.abc import Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.logger import TBXLoggerCallback
from ray.tune.result import AUTO_RESULT_KEYS
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
# What a training counts or ends with, and Tune's own; all other numbers are those of its objective.
_NOT_SHOWN = frozenset((*AUTO_RESULT_KEYS, "done", "epoch", "wait_share", "images_trained", "trial_id"))
_NO_CURVES = ("_loss", "_classes_present")


class TrainingLogger(TBXLoggerCallback):
    """Writes the curves of every trial, and at its end what tells it from the others with its last mIoU."""

    def __init__(self, infos: Mapping[str, TrialInfo]) -> None:
        super().__init__()
        self._infos = dict(infos)

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Add a point to every curve of which something is told."""
        if trial not in self._trial_writer:
            self.log_trial_start(trial)
        for tag, value in _curves(result).items():
            self._trial_writer[trial].add_scalar(tag, value, global_step=result.get("timesteps_total"))
            self._trial_result[trial][tag] = value
        self._trial_writer[trial].flush()

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Write the HPARAMS and close the file."""
        writer, results = self._trial_writer.pop(trial, None), self._trial_result.pop(trial, {})
        if writer is None:
            return
        values = self._infos[trial.config["config"]["key"]].distinguishing
        scores = {tag: value for tag, value in results.items() if tag == "loss" or tag.startswith("mIoU")}
        for summary in hparams(values, scores) if scores else ():
            writer.file_writer.add_summary(summary)
        writer.close()


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
