"""What a grid saves: Tables 2 to 5 together against each of their cells alone, from scratch.

Together, all tables run one after the other into one storage, as a user would run them; then again, when all is done.
Alone, every cell is an experiment of its own with a storage of its own. Both are whole commands, start of Ray included.
Also counted: distinct steps planned, and steps executed.

    python -m benchmarks.cost_model.grid_pays
    python -m benchmarks.cost_model.grid_pays --tables 2 3 --until labels

What the plan predicts for the paper's size (5 000 Cityscapes images, ResNet-50), with rates of a file; nothing is run:

    python -m benchmarks.cost_model.grid_pays --predict benchmarks/cost_model/cityscapes_rates.yaml
"""

import argparse
import copy
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from benchmarks.measuring import Aim, not_measured, put, run_project, table, verdict
from orchestrator.planning.estimate import estimate, read_assumptions
from orchestrator.planning.plan import Stage, make_plan
from orchestrator.spec.experiment import TABLE_KEYS
from orchestrator.spec.grid import expand
from orchestrator.spec.loading import load_experiment
from orchestrator.spec.merging import set_key
from orchestrator.storage.store import Storage

PAYS = Aim("seconds of all cells alone / together", least=1.5)
ONCE = Aim("distinct steps that were executed, of those planned", least=1, most=1)
PREDICTED = Aim("core- and GPU-seconds of all cells alone / together, least of all stages", least=1.5)

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, nargs="+", default=[2, 3, 4, 5], help="default: 2 3 4 5")
    parser.add_argument("--until", choices=["labels", "pretrain", "finetune"], default="finetune")
    parser.add_argument("--predict", metavar="RATES", help="only predict for the paper's size, with these rates")
    parser.add_argument("override", nargs="*", help="key=value pairs; size=small is always set")
    options = parser.parse_args(arguments)
    if options.predict:
        return verdict([(PREDICTED, predict(options.tables, options.predict))])
    overrides = ["size=small", *options.override]
    documents = {number: load_experiment(EXPERIMENTS / f"table{number}.yaml", overrides) for number in options.tables}
    with tempfile.TemporaryDirectory() as folder:
        rows = [["together", *together(documents, Path(folder), options.until)]]
    alone: dict[str, float] = {}
    for number, document in documents.items():
        for position, cell in enumerate(cells_of(document)):
            with tempfile.TemporaryDirectory() as folder:
                name = f"table{number}-{position}"
                alone[name] = run(cell | {"name": name}, Path(folder), options.until)
                put({"alone": name, "seconds": alone[name]})
    rows.append(["alone", f"{sum(alone.values()):.0f}", str(len(alone)), "", "", ""])
    once = float(rows[0][1])
    put({"alone / together": sum(alone.values()) / once})
    print()
    print(table(["", "seconds", "cells", "distinct steps", "executed", "seconds again"], rows))
    return verdict([(PAYS, sum(alone.values()) / once), (ONCE, float(rows[0][4]) / float(rows[0][3]))])


def predict(tables: list[int], rates: str) -> float:
    """Work of all cells alone over that of all distinct steps, as `lookbeyond plan` reckons it, at the paper's size."""
    with tempfile.TemporaryDirectory() as folder:
        root, storage = Path(folder) / "cityscapes", Storage(str(Path(folder) / "storage"))
        name_cityscapes(root)
        overrides = [f"dataset.root={root}", "dataset.pool=sequence", "finetune.pool=train"]
        overrides += [f"weights.{name}=stand-in:{name}" for name in ("moco", "pixpro", "imagenet", "voc")]
        documents = [load_experiment(EXPERIMENTS / f"table{number}.yaml", overrides) for number in tables]
        rows, times = [], []
        for until in get_args(Stage):
            plans = [make_plan(document, storage, write_listings=False, until=until) for document in documents]
            for cell in (cell for plan in plans for cell in plan.cells):
                if cell.error is not None:
                    not_measured(str(cell.error))
            whole = replace(
                plans[0],
                cells=[cell for plan in plans for cell in plan.cells],
                steps={key: step for plan in plans for key, step in plan.steps.items()},
            )
            costs = estimate(whole, storage, read_assumptions(rates))
            put({"until": until, "sources": costs.sources, "alone / together": costs.times_alone})
            hours = [f"{seconds / 3600:.0f}" for seconds in (costs.core_seconds, costs.gpu_seconds)]
            times.append(costs.times_alone)
            rows.append([until, str(len(whole.cells)), str(len(whole.steps)), *hours, f"{costs.times_alone:.2f}"])
    print()
    print(table(["until", "cells", "distinct steps", "core-hours", "GPU-hours", "alone / together"], rows))
    return min(times)


def name_cityscapes(root: Path) -> None:
    """Cityscapes as far as a plan looks at it: the names of 5 000 frames and of the labelled images."""
    for pool, count in (("train", 2975), ("val", 500)):
        for part, end in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
            name_files(root / part / pool / "city", f"_{end}.png", count)
    name_files(root / "leftImg8bit_sequence/train/city", "_leftImg8bit.png", 5000)


def name_files(folder: Path, end: str, count: int) -> None:
    """Empty files."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"city_{number:06d}_000019{end}").touch()


def together(documents: dict[int, dict[str, Any]], folder: Path, until: Stage) -> list[str]:
    """Seconds, cells, distinct steps, executed steps, and seconds of the same commands again."""
    planned: set[str] = set()
    cells = 0
    for document in documents.values():
        plan = make_plan(document, Storage(str(folder / "storage")), write_listings=False, until=until)
        planned |= set(plan.steps)
        cells += len(plan.cells)
    seconds = sum(run(document, folder, until) for document in documents.values())
    put({"together": list(documents), "seconds": seconds})
    manifests = [json.loads(path.read_text()) for path in (folder / "storage/steps").rglob("*.json")]
    again = sum(run(document, folder, until) for document in documents.values())
    after = len(list((folder / "storage/steps").rglob("*.json")))
    assert after == len(manifests), "nothing is executed twice"
    put({"distinct steps": len(planned), "executed": len(manifests), "seconds again": again})
    return [f"{seconds:.0f}", str(cells), str(len(planned)), str(len(manifests)), f"{again:.1f}"]


def run(document: dict[str, Any], folder: Path, until: Stage) -> float:
    """Wall seconds of one command."""
    path = folder / f"{document['name']}.yaml"
    # Its layer is laid over already.
    path.write_text(json.dumps({key: value for key, value in document.items() if key != "size"}))
    begun = time.perf_counter()
    run_project(path, ["--until", until], folder / "storage")
    return time.perf_counter() - begun


def cells_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The document of every cell, without rows, columns and grid."""
    made = []
    for cell in expand(document):
        own = copy.deepcopy({key: value for key, value in document.items() if key not in TABLE_KEYS})
        for key, value in cell.values.items():
            set_key(own, key, copy.deepcopy(value))
        made.append(own)
    return made


if __name__ == "__main__":
    sys.exit(main())
