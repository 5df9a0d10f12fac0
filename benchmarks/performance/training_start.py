"""How long a training takes to start, after the first of its run.

One run of a single fine-tuning against one of several that differ in their seeds, both whole commands, one training at
a time, of few steps on few small scenes, so that little but their start is left:

    (seconds of the run of several - seconds of the run of one) / (several - 1) - seconds of the steps of a training

The first training of a run is left out: it waits for Ray. Several cores train each, so that no two run beside each
other, as the larger trainings do on a machine of so many.

    python -m benchmarks.performance.training_start --trainings 5
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.measuring import Aim, put, run_project, table, verdict
from orchestrator.planning.estimate import cores_here

AIM = Aim("seconds from the end of a training to the first step of the next", most=5)

SIZE = [64, 96]
EXPERIMENT = {
    "name": "start",
    "dataset": {"name": "scenes", "image_size": SIZE, "num_train": 8, "num_val": 2},
    "pretrain": None,
    "finetune": {
        "recipe": "small",
        "steps": 3,
        "batch_size": 2,
        "augmentation": {"image_size": SIZE, "crop": SIZE},
        "evaluation": {"image_size": SIZE},
        "evaluation_multi_scale": None,
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=5, help="of the run of several (default 5)")
    parser.add_argument("--repeats", type=int, default=2, help="pairs of runs; the mean counts (default 2)")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(options.repeats):
            one, _ = timed(Path(folder) / f"one-{repeat}", 1)
            several, steps = timed(Path(folder) / f"several-{repeat}", options.trainings)
            start = (several - one) / (options.trainings - 1) - steps
            put(
                {"one": round(one, 2), "several": round(several, 2), "steps": round(steps, 2), "start": round(start, 2)}
            )
            rows.append((f"{one:.1f}", f"{several:.1f}", f"{steps:.2f}", f"{start:.2f}", start))
    print("", table(["one, s", "several, s", "steps of one, s", "start, s"], [row[:4] for row in rows]), sep="\n")
    return verdict([(AIM, statistics.fmean(row[4] for row in rows))])


def timed(folder: Path, trainings: int) -> tuple[float, float]:
    """Seconds of a run, and of the steps and the evaluation of one of its trainings, in the mean."""
    folder.mkdir()
    cores = cores_here()
    document = EXPERIMENT | {"grid": {"finetune.seed": list(range(trainings))}, "compute": {"train_cores": cores}}
    (folder / "start.yaml").write_text(yaml.safe_dump(document))
    done = run_project(folder / "start.yaml", [], folder / "storage")
    # Counted in seconds of one core.
    return done.seconds, statistics.fmean(cell.seconds["finetune"] for cell in done.cells) / cores


if __name__ == "__main__":
    sys.exit(main())
