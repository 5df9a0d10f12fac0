"""What `lookbeyond plan` predicts against what the steps then take, for eight jobs that differ in all that time
depends on: the network, the size of images, the batch, the objective, what is computed at all.

This machine is calibrated once, in a cache folder of the benchmark's own; every job has an empty storage, so nothing
corrects the prediction. Both sides are core-seconds of all steps. The steps are done by their own jobs, one after the
other on one thread of this process, and what is measured is the time of the processor, so that others at work on the
machine count little. Images are generated.

    python -m benchmarks.cost_model.predicted
    python -m benchmarks.cost_model.predicted --jobs vgg19 moco
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import Aim, put, table, verdict
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import ShardRecord
from orchestrator.planning.plan import make_plan
from orchestrator.spec.loading import load_experiment
from orchestrator.steps.jobs import WorkerCache
from orchestrator.storage.store import Storage

FACTOR = Aim("measured over predicted or its inverse, whichever is larger, worst of all jobs", most=2)

_LABELS: dict[str, Any] = {"clustering": {"k": 12}, "superpixels": {"n_segments": 200}}
_VIEWS: dict[str, Any] = {"image_size": [177, 241], "crop_mode": "fixed", "crop": [129, 177]}
_RESNET50: dict[str, Any] = {"head": "deeplabv3", "backbone": "resnet50", "output_stride": 16}
_PSPNET: dict[str, Any] = {"head": "pspnet", "backbone": "resnet18", "output_stride": 8}


def _scenes(size: tuple[int, int], images: int, validation: int = 4) -> dict[str, Any]:
    return {"name": "scenes", "image_size": list(size), "num_train": images, "num_val": validation}


def _labels(extractor: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"labels": {**_LABELS, "extractor": extractor, **others}}


def _finetune(network: dict[str, Any], size: list[int], steps: int, batch: int) -> dict[str, Any]:
    augmentation = {"image_size": size, "crop_mode": "fixed", "crop": [size[0] * 3 // 4, size[1] * 3 // 4]}
    evaluation = {"image_size": size, "batch_size": 2}
    own = {"segmentor": network, "augmentation": augmentation, "evaluation": evaluation, "evaluation_multi_scale": None}
    return {"finetune": {"recipe": "small", "steps": steps, "batch_size": batch, **own}}


def _pretrain(steps: int, batch: int, **others: Any) -> dict[str, Any]:
    return {"pretrain": {"recipe": "small", "steps": steps, "batch_size": batch, "views": _VIEWS, **others}}


JOBS: dict[str, dict[str, Any]] = {
    "filters": {"dataset": _scenes((160, 240), 96), **_labels({"arch": "filters", "output_stride": 8})},
    "mobilenet_v2": {
        "dataset": _scenes((360, 480), 24),
        **_labels({"arch": "mobilenet_v2", "weights": "random"}),
    },
    "resnet50": {
        "dataset": _scenes((240, 320), 12),
        **_labels({"arch": "resnet50", "weights": "random", "output_stride": 8}, superpixels=None),
    },
    "vgg19": {
        "dataset": _scenes((224, 288), 10),
        **_labels({"arch": "vgg19", "weights": "random"}, clustering={"k": 60}),
    },
    "contrast": {
        "dataset": _scenes((160, 240), 32),
        **_labels({"arch": "filters", "output_stride": 8}),
        **_pretrain(30, 8),
    },
    "moco": {"dataset": _scenes((160, 240), 32), **_pretrain(16, 4, objective="moco")},
    "deeplabv3_resnet50": {
        "dataset": _scenes((241, 321), 12),
        "pretrain": None,
        **_finetune(_RESNET50, [241, 321], 6, 2),
    },
    "pspnet_resnet18": {
        "dataset": _scenes((160, 240), 16, 8),
        "pretrain": None,
        **_finetune(_PSPNET, [177, 241], 12, 4),
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), help="default: all")
    options = parser.parse_args(arguments)
    rows, worst = [], 1.0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        _command("calibrate", "--json")
        # What computes is imported once, and is no part of a job.
        warm = _written(Path(folder), "warm", {**JOBS["contrast"], **_pretrain(1, 2)})
        core_seconds(warm, Storage(str(Path(folder) / "warm")))
        for name in options.jobs:
            path, storage = _written(Path(folder), name, JOBS[name]), Path(folder) / name
            estimate = json.loads(_command("plan", str(path), "--storage", str(storage), "--json"))["estimate"]
            took = core_seconds(path, Storage(str(storage)))
            predicted, measured = estimate["core_seconds"], sum(took.values())
            ratio = measured / predicted
            put({"job": name, "predicted": predicted, "by kind": estimate["seconds_by_kind"], "measured": took})
            rows.append([name, f"{predicted:.1f}", f"{measured:.1f}", f"{ratio:.2f}"])
            worst = max(worst, ratio, 1 / ratio)
    print()
    print(table(["job", "predicted core-seconds", "measured", "measured / predicted"], rows))
    return verdict([(FACTOR, worst)])


def _written(folder: Path, name: str, job: dict[str, Any]) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"name": name, **job}), encoding="utf-8")
    return path


def core_seconds(experiment: Path, storage: Storage) -> dict[str, float]:
    """Run all steps of an experiment in this process; the seconds of each kind."""
    torch.set_num_threads(1)
    took: dict[str, float] = defaultdict(float)
    cache, ledger = WorkerCache(), Ledger(storage)
    plan = make_plan(load_experiment(experiment, []), storage, write_listings=True)
    for step in plan.steps.values():
        records: list[ShardRecord] = []
        outcome = Outcome()
        begun = time.process_time()
        for piece in step.pieces(ledger):
            outcome = step.job(storage, (step,), piece.shard, "cpu").run(cache)
            records += outcome.shards.values()
        took[step.kind] += time.process_time() - begun
        results = outcome.results.get(step.key, {})
        files = outcome.files
        ledger.commit(Manifest(step.kind, step.key, step.meaning, step.input_keys, records, results, files=files))
    return dict(took)


def _command(*arguments: str) -> str:
    command = [sys.executable, "-m", "lookbeyond", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
