"""The command line in this process, on a small CamVid tree: what it printed, and what it left on the storage."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from orchestrator.cli import parser as cli
from orchestrator.cluster.run import RunReport, run_plan
from orchestrator.ledger.verification import verify
from orchestrator.planning.plan import Plan
from orchestrator.steps.jobs import WorkerCache
from orchestrator.storage.store import Storage
from support.without_ray import execute
from workloads.own_output import MARK

HEIGHT, WIDTH = 32, 48
MOBILENET = ("labels.extractor.arch=mobilenet_v2", "labels.extractor.output_stride=16")

EXPERIMENT = {
    "dataset": {"name": "camvid", "root": "camvid"},
    "labels": {
        "extractor": {"arch": "filters", "output_stride": 8, "batch_size": 2},
        "sampling": {"pixels_per_image": 20},
        "clustering": {"k": 3},
        "superpixels": {"n_segments": 20},
    },
    "compute": {"shard_images": 2},
}


@dataclass(frozen=True)
class Answer:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def messages(self) -> list[str]:
        """What it said went wrong."""
        lines = self.err.splitlines()
        return [line.removeprefix("lookbeyond: ") for line in lines if line.startswith("lookbeyond: ")]


FINE_TUNED = [
    "finetune.recipe=small",
    "finetune.steps=2",
    "finetune.batch_size=2",
    "finetune.segmentor={backbone: mobilenet_v2, head_channels: 8, atrous_rates: [1, 2, 3]}",
    "finetune.augmentation={image_size: [32, 48], crop: [33, 33], crop_mode: fixed, cutout: [0, 0]}",
    "finetune.evaluation={image_size: [32, 48]}",
    "finetune.evaluation_multi_scale=null",
]
"""What makes of an experiment one whose small network is fine-tuned, for two steps."""


class Commands:
    """Runs commands in this process, in a folder with a CamVid tree and ``small.yaml``, without Ray."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Answer:
        """One command; what argparse refuses ends with its exit code too."""
        self._capsys.readouterr()
        try:
            code = cli.main(arguments)
        except SystemExit as refused:
            code = int(refused.code or 0)
        out, err = self._capsys.readouterr()
        assert "Traceback" not in out + err
        return Answer(code, out, err)

    def on_ray(self, *arguments: str) -> Answer:
        """One command whose work is done by Ray, which must be running."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("orchestrator.cluster.run.run_plan", run_plan)
            return self(*arguments)

    def results(self, name: str = "small", storage: str = "storage") -> dict[str, Any]:
        """The results file of an experiment."""
        loaded: dict[str, Any] = json.loads((self.folder / storage / "results" / f"{name}.json").read_text())
        return loaded

    def assert_nothing_half_written(self, storage: str = "storage") -> None:
        """No temporary file, and all that `assert_nothing_wrong` asks for."""
        files = (self.folder / storage).rglob("*")
        hidden = [path for path in files if path.name.startswith(".") and path.name != MARK]
        assert [path for path in hidden if path.is_file()] == []
        self.assert_nothing_wrong(storage)

    def assert_nothing_wrong(self, storage: str = "storage") -> None:
        """No shard that cannot be read, no lease held, and no cell called done that is not."""
        place = self.folder / storage
        assert verify(Storage(str(place)), repair=False).damaged == {}
        files = [path for path in place.rglob("*") if path.is_file()]
        assert [path for path in files if "leases" in path.relative_to(place).parts] == []
        for path in place.glob("results/*.json"):
            for cell in json.loads(path.read_text())["cells"]:
                if cell["status"] != "failed":
                    assert all(list(place.glob(f"steps/*/{key}.json")) for key in cell["steps"].values())


def refused(answer: Answer, *parts: str) -> None:
    """Exit code 2 and one message with all these parts."""
    assert answer.code == 2
    assert len(answer.messages) == 1, answer.err
    for part in parts:
        assert part in answer.messages[0]


def run_here(plan: Plan, storage: Storage, *_: Any, **__: Any) -> RunReport:
    """In place of the cluster: the same jobs in this process."""
    workshop = WorkerCache()
    ended = execute(plan, storage, lambda task, steps: steps[0].job(storage, steps, task.shard, "cpu").run(workshop))
    return RunReport(failed=ended.execution.failed, input_errors=ended.execution.input_errors)


def write_camvid(root: Path, *, train: int = 4, val: int = 2) -> None:
    """A CamVid tree in the SegNet layout: blocks of eleven classes, each of its own brightness."""
    random = np.random.default_rng(0)
    for pool, count in (("train", train), ("val", val)):
        (root / pool).mkdir(parents=True)
        (root / f"{pool}annot").mkdir()
        for number in range(count):
            labels = np.repeat(np.repeat(random.integers(0, 11, (HEIGHT // 8, WIDTH // 8)), 8, 0), 8, 1)
            pixels = labels[..., None] * 20 + random.integers(0, 30, (HEIGHT, WIDTH, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / pool / f"{number}.png")
            Image.fromarray(labels.astype(np.uint8)).save(root / f"{pool}annot" / f"{number}.png")


def write_experiment(folder: Path, name: str = "small") -> Path:
    """The experiment on the CamVid tree, as a file."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT))
    return path


def mounted(folder: Path, options: str) -> Callable[[], object]:
    """A disk of its own at a folder; call what is returned to take it away. Skips where that is not allowed."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "lookbeyond-test", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command, which a disk of a chosen size needs")
    if done.returncode:
        pytest.skip(f"a disk of a chosen size cannot be mounted here: {done.stderr.strip()}")
    return lambda: subprocess.run(["umount", "--lazy", str(folder)], check=True)
