"""What a grid saves: Tables 2 to 5 together against each of their cells alone, from scratch.

Together, all tables run one after the other into one storage, as a user would run them; then again, when all is done.
Alone, every cell is an experiment of its own with a storage of its own. Both are whole commands, start of Ray included.
Also counted: distinct steps planned, and steps executed.

    python benchmarks/grid_pays.py
    python benchmarks/grid_pays.py --tables 2 3 --until labels

What the plan predicts for the paper's size, with rates of one's own (see docs/cluster.md):

    lookbeyond plan experiments/table2.yaml dataset.root=CITYSCAPES --rates rates.yaml
"""

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import put, run_project, table

from orchestrator.documents import load_document
from orchestrator.grid import expand
from orchestrator.layers import set_key
from orchestrator.plan import Stage, make_plan
from orchestrator.spec import TABLE_KEYS
from orchestrator.storage import Storage

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, nargs="+", default=[2, 3, 4, 5], help="default: 2 3 4 5")
    parser.add_argument("--until", choices=["labels", "pretrain", "finetune"], default="finetune")
    parser.add_argument("override", nargs="*", help="key=value pairs; size=small is always set")
    options = parser.parse_args()
    overrides = ["size=small", *options.override]
    documents = {number: load_document(EXPERIMENTS / f"table{number}.yaml", overrides) for number in options.tables}
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
    print(f"\nalone / together: {sum(alone.values()) / once:.2f}")


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
    path.write_text(json.dumps(document))
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
    main()
