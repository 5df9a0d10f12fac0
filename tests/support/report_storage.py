"""Storages made by hand for the report: results files, manifests and histories as a run leaves them, without a run.

They are written by the code that writes them in a run, so that a report never reads what only a test writes.
"""

import hashlib
import io
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.execution.provenance import Code
from orchestrator.ledger.layout import figure_path, model_path, results_path, shard_path
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.ledger.shards import Quarantined, ShardRecord
from orchestrator.ledger.training_states import VAL_MIOU_SUBSET, write_history
from orchestrator.results.cells import (
    CellResult,
    ImageCount,
    Machine,
    Metrics,
    Protocol,
    Results,
    Run,
    Status,
)
from orchestrator.steps.training_runs import history_row
from orchestrator.storage.store import Storage
from workloads.training.loop import StepReport

STEPS = 40
PROTOCOL = Protocol(dataset="cityscapes", classes=19, class_names=["road", "train"], split="val", scored_images=500)
VERSIONS = {"python": "3.11.7", "torch": "2.14.0"}
PAPER = {
    "table1": [
        {
            "row": f"{number}: {name}",
            "paper": {"nyuv2": {"pmiou": a, "miou": b}, "cityscapes": {"pmiou": c, "miou": d}},
        }
        for number, name, a, b, c, d in (
            (1, "pixel ids", "<0.1", 37.2, "<0.1", 71.4),
            (2, "superpixel ids", "<1", 38.5, "<1", 73.1),
            (3, "MoCo, no superpixels", 8.3, 44.9, 19.2, 78.5),
            (4, "MoCo", 9.7, 46.0, 21.7, 79.2),
            (5, "MoCo, DBSCAN", 8.7, 45.7, 20.9, 78.9),
            (6, "VGG-19", 7.9, 44.5, 18.9, 78.2),
            (7, "ImageNet", 10.5, 46.4, 22.5, 79.6),
            (8, "Pascal VOC", 11.2, 46.9, 23.1, 80.1),
            (9, "DeepLabV3 (*)", 24.5, 49.2, 40.7, 81.2),
        )
    ],
    "table2": [
        {
            "row": f"{factor} x M",
            "set": {"labels.clustering.k_per_class": factor},
            "paper": {"nyuv2": {"pmiou": a, "miou": b}, "cityscapes": {"pmiou": c, "miou": d}},
        }
        for factor, a, b, c, d in (
            (1.0, 9.5, 45.9, 21.2, 78.7),
            (1.5, 9.7, 46.0, 21.7, 79.2),
            (2.0, 7.7, 44.1, 17.8, 78.1),
        )
    ],
    "table3": [
        {"row": str(count), "paper": {"cityscapes": {"miou": miou}}}
        for count, miou in ((200, 81.2), (500, 81.2), (2000, 81.1))
    ],
    "table4": [
        {"row": share, "paper": {"cityscapes": {"miou": miou}}}
        for share, miou in (("0%", 80.9), ("5%", 81.2), ("10%", 81.0))
    ],
    "table5": [
        {"row": str(count), "paper": {"cityscapes": {"pmiou": pmiou, "miou": miou}}}
        for count, pmiou, miou in (
            (500, 37.2, 80.7),
            (2000, 40.0, 81.0),
            (5000, 40.7, 81.2),
            (20000, 40.9, 81.2),
            (50000, 41.0, 81.3),
        )
    ],
    "table6": [
        {
            "row": method,
            "paper": {
                "cityscapes": {
                    column: {"miou": value}
                    for column, value in zip(("10%", "20%", "100%"), values, strict=True)
                    if value is not None
                }
            },
        }
        for method, values in (
            ("Random initialization", (None, None, 68.0)),
            ("ImageNet", (41.4, 56.7, 78.4)),
            ("MoCo", (40.7, 56.1, 78.0)),
            ("PixPro", (43.6, 59.0, 78.6)),
            ("Ours (MoCo)", (47.5, 59.9, 79.3)),
            ("Ours (DeepLabV3 (*))", (51.9, 62.3, 81.0)),
        )
    ],
    "table7": [
        {
            "row": method,
            "paper": {"cityscapes": {"100": {"miou": few}, "500": {"miou": more}}},
        }
        for method, few, more in (
            ("Baseline (ImageNet pre-trained)", 28.1, 55.3),
            ("2000 unlabeled images (unsupervised)", 33.1, 57.7),
            ("2000 unlabeled images (semi-supervised)", 36.4, 59.6),
        )
    ],
}
COLUMNS: dict[str, list[str | None]] = {"table6": ["10%", "20%", "100%"], "table7": ["100", "500"]}


def key_of(*parts: object) -> str:
    """A step key for whatever tells a step from the others."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@dataclass
class HandMade:
    """Puts manifests, histories and results files on a storage. Every number is drawn from one seeded stream."""

    storage: Storage
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def step(self, kind: str, *parts: object, seconds: float = 1.0, device: str = "cpu", **facts: Any) -> str:
        """Commit a step with two shards (a model, where it trains) and return its key."""
        key = key_of(kind, *parts)
        if Ledger(self.storage).manifest(kind, key) is not None:
            return key
        trained = kind in ("pretrain", "finetune", "cluster")
        timed = kind != "cluster"
        paths = [model_path(key, "pt")] if trained else [shard_path(key, number) for number in ("1", "2")]
        records = [
            ShardRecord(
                path=path,
                rows=8,
                size=1000 + len(path),
                sha256=hashlib.sha256(path.encode()).hexdigest(),
                columns=[],
                images=4,
                seconds=seconds / len(paths) if timed else 0.0,
            )
            for path in paths
        ]
        for image, reason in facts.get("quarantined", ()):
            records[0].quarantined.append(Quarantined(image, reason))
        provenance = {
            "images": {"pool": "train", "requested": 10, "available": 8, "used": 8},
            "started": 1_700_000_000.0,
            "wall_seconds": seconds,
            "work_seconds": seconds if timed else 0.0,
            "host": "machine-1",
            "device": device,
            "versions": VERSIONS,
        }
        meaning = {"parts": [str(part) for part in parts], "seed": 0}
        manifest = Manifest(
            kind,
            key,
            meaning,
            facts.get("inputs", {}),
            shards=[] if trained else records,
            results=facts.get("results", {}),
            provenance=provenance,
            files={"network": records[0]} if trained else {},
        )
        Ledger(self.storage).commit(manifest)
        if kind in ("pretrain", "finetune"):
            write_history(self.storage, key, [history_row(_report(step, kind)) for step in range(1, STEPS + 1)])
        return key

    def cell(self, name: str, values: Mapping[str, Any], *, trained: bool = True, **members: Any) -> CellResult:
        """A finished cell with its steps; `members` are laid over it."""
        sample = self.step("sample", name)
        cluster = self.step("cluster", name, values, inputs={"sample": sample}, seconds=2.0)
        label = self.step("label", name, values, "val", inputs={"cluster": cluster})
        score = self.step("score", name, values, inputs={"labels": label})
        steps = {"sample": sample, "cluster": cluster, "label_val": label, "score": score}
        seconds = {"sample": 1.0, "cluster": 2.0, "label_val": 1.0, "score": 1.0}
        metrics: dict[str, Any] = {
            "pmiou": float(self.random.uniform(18, 26)),
            "coverage": 0.95,
            "miou": None,
            "per_class_iou": [30.0, None],
            "num_clusters": 15,
            "protocol": PROTOCOL,
        }
        if trained:
            pretrain = self.step("pretrain", name, values, inputs={"labels": label}, seconds=1800.0, device="cuda")
            finetune = self.step(
                "finetune", name, values, inputs={"pretrain": pretrain}, seconds=900.0, device="cuda:0"
            )
            steps |= {"pretrain": pretrain, "finetune": finetune}
            seconds |= {"pretrain": 1800.0, "finetune": 900.0}
            miou = float(self.random.uniform(70, 80))
            metrics |= {"miou": miou, "miou_multi_scale": miou + 1.1, "miou_per_class": [miou + 5, miou - 5]}
        made = CellResult(
            values=dict(values),
            status=Status.DONE,
            metrics=Metrics(**metrics),
            steps=steps,
            seconds=seconds,
            images={"sample": ImageCount(pool="train", requested=10, available=8, used=8)},
        )
        return made.model_copy(update=members)

    def results(self, name: str, cells: Iterable[CellResult], **document: Any) -> Results:
        """Write ``results/NAME.json``."""
        run = Run(
            git=Code("c0ffee" * 6 + "c0ff"),
            versions=VERSIONS,
            seed=0,
            started="2026-01-02T03:04:05Z",
            seconds=61.0,
            command=["lookbeyond", "run", f"{name}.yaml", "labels.images=24"],
            machines=[Machine(host="machine-1", cores=8, gpus=1, memory=64_000_000_000)],
        )
        experiment = {"name": name, "dataset": {"name": "cityscapes"}} | document
        return self.write(Results(experiment=experiment, cells=list(cells), provenance=run))

    def write(self, results: Results) -> Results:
        """Write the file of these results."""
        self.storage.replace(results_path(results.experiment["name"]), results.to_bytes())
        return results

    def change(self, results: Results, changes: Mapping[int, Mapping[str, Any]]) -> Results:
        """Write results again, with some cells of which some members are others."""
        cells = [cell.model_copy(update=changes.get(number, {})) for number, cell in enumerate(results.cells)]
        return self.write(results.model_copy(update={"cells": cells}))

    def table(
        self, layout: str, *, seeds: int = 2, trained: bool = True, dataset: str = "cityscapes", **document: Any
    ) -> Results:
        """An experiment with every row and column of a table of the paper, each over some seeds."""
        cells = []
        rows = PAPER[layout]
        for entry, column, seed in itertools.product(rows, COLUMNS.get(layout, [None]), range(seeds)):
            values = {"labels.row": entry["row"], "seed": seed} | (
                {} if column is None else {"finetune.column": column}
            )
            paper: Any = entry["paper"].get(dataset)
            if column is not None and paper is not None:
                paper = paper.get(column)
            cell = self.cell(
                f"{layout}-{dataset}", values, trained=trained, row=entry["row"], column=column, paper=paper
            )
            cells.append(on_dataset(cell, dataset))
        return self.results(
            layout,
            cells,
            layout=layout,
            rows=rows,
            title=f"The paper's {layout}",
            dataset={"name": dataset},
            **document,
        )

    def picture(self, name: str, colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
        """Put a picture below figures and return its bytes."""
        buffer = io.BytesIO()
        Image.new("RGB", (32, 16), colour).save(buffer, format="PNG")
        self.storage.replace(figure_path(name), buffer.getvalue())
        return buffer.getvalue()


def on_dataset(cell: CellResult, dataset: str) -> CellResult:
    """The cell, scored on another data set."""
    assert cell.metrics.protocol is not None
    protocol = cell.metrics.protocol.model_copy(update={"dataset": dataset})
    return cell.model_copy(update={"metrics": cell.metrics.model_copy(update={"protocol": protocol})})


def means(results: Results, metric: str) -> dict[tuple[str | None, str | None], tuple[float, float]]:
    """Mean and sample standard deviation of a metric over the repeats, by row and column, worked out by NumPy."""
    values: dict[tuple[str | None, str | None], list[float]] = {}
    for cell in results.cells:
        values.setdefault((cell.row, cell.column), []).append(getattr(cell.metrics, metric))
    return {place: (float(np.mean(found)), float(np.std(found, ddof=1))) for place, found in values.items()}


def _report(step: int, kind: str) -> StepReport:
    """What a training says after a step; a fine-tuning is evaluated on the validation subset five times."""
    evaluated = kind == "finetune" and step % (STEPS // 5) == 0
    return StepReport(
        step=step,
        total_steps=STEPS,
        epoch=0,
        loss=4.0 / step**0.3,
        learning_rate=0.01,
        images_per_second=8.0,
        wait_share=0.1,
        shown={VAL_MIOU_SUBSET: float(step)} if evaluated else {},
    )
