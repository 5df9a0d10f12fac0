"""What TensorBoard finds of a trial: the curves of its training, none of Tune's, and what tells it from others."""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from orchestrator.cluster.tensorboard import TrainingLogger
from orchestrator.execution.trial_info import TrialInfo


class Trial(SimpleNamespace):
    """As much of a trial as a logger asks for."""

    def __hash__(self) -> int:
        return id(self)


def result(step: int, **values: Any) -> dict[str, Any]:
    """What Tune hands on, its own among it."""
    report = {"timesteps_total": step, "epoch": 0.5, "loss": 1 / step, "learning_rate": 0.1, "images_per_second": 8.0}
    tunes = {"training_iteration": step, "time_total_s": 3.0, "pid": 7, "done": False, "trial_id": "a", "config": {}}
    return report | {"wait_share": 0.2} | tunes | values


def test_curves_are_those_of_the_training_and_hparams_what_tells_it_apart(tmp_path: Path) -> None:
    info = TrialInfo(
        "some", "finetune-ours-k", {"key": "k", "steps": 9}, {"kind": "finetune", "row": "ours", "pmiou": 20.0}
    )
    trial = Trial(config={"config": info.values, "info": info})
    logger = TrainingLogger(tmp_path)
    logger.log_trial_result(1, trial, {"placement_group": "abc", "training_iteration": 1})
    logger.log_trial_result(1, trial, result(1, main_loss=0.7))
    logger.log_trial_result(2, trial, result(2, main_loss=0.6, val_miou_subset=30.0))
    logger.log_trial_result(3, trial, {"timesteps_total": 4, "miou": 35.0, "finetune_loss": 0.2, "images_trained": 8})
    logger.log_trial_end(trial)
    logger.log_trial_end(trial)
    folder = tmp_path / "some/finetune-ours-k"
    lines = [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]
    assert [(line["timesteps_total"], line.get("loss")) for line in lines] == [(1, 1.0), (2, 0.5), (4, None)]
    assert not {"config", "pid", "trial_id"} & set().union(*lines)
    with (folder / "progress.csv").open(newline="") as file:
        assert [(row["timesteps_total"], row["miou"]) for row in csv.DictReader(file)] == [
            ("1", ""),
            ("2", ""),
            ("4", "35.0"),
        ]
    assert json.loads((folder / "params.json").read_text()) == {"config": {"key": "k", "steps": 9}}
    events = EventAccumulator(str(folder))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "loss",
        "learning_rate",
        "images_per_second",
        "objective/main_loss",
        "mIoU/val_subset",
        "mIoU/val",
    }
    assert [(point.step, point.value) for point in events.Scalars("loss")] == [(1, 1.0), (2, 0.5)]
    assert [(point.step, point.value) for point in events.Scalars("mIoU/val")] == [(4, 35.0)]
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    values = HParamsPluginData.FromString(content).session_start_info.hparams
    assert {name: value.string_value or value.number_value for name, value in values.items()} == {
        "kind": "finetune",
        "row": "ours",
        "pmiou": 20.0,
    }
    content = events.PluginTagToContent("hparams")["_hparams_/experiment"]
    columns = HParamsPluginData.FromString(content).experiment.metric_infos
    assert [column.name.tag for column in columns] == ["mIoU/val", "loss"]


def test_a_training_without_a_score_has_the_columns_of_the_others(tmp_path: Path) -> None:
    """TensorBoard takes them from whichever it finds first."""
    info = TrialInfo("some", "pretrain-ours-k", {}, {"kind": "pretrain", "row": "ours", "pmiou": math.nan})
    trial, logger = Trial(config={"config": {}, "info": info}), TrainingLogger(tmp_path)
    logger.log_trial_result(1, trial, result(1))
    logger.log_trial_end(trial)
    events = EventAccumulator(str(tmp_path / "some/pretrain-ours-k"))
    events.Reload()
    content = events.PluginTagToContent("hparams")["_hparams_/experiment"]
    figures = HParamsPluginData.FromString(content).experiment.metric_infos
    assert [figure.name.tag for figure in figures] == ["mIoU/val", "loss"]
    columns = HParamsPluginData.FromString(content).experiment.hparam_infos
    assert [column.name for column in columns] == ["kind", "row", "pmiou"]
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert set(HParamsPluginData.FromString(content).session_start_info.hparams) == {"kind", "row"}
