"""What the benchmarks share: where the data lies, one run of the project in a fresh storage, how figures are printed,
and what the exit code says.

A figure is a JSON line as soon as it is known, and a row of the table at the end; beside it stands the load of the
machine, without which no time means anything. The exit code is 0 when every aim is met, 1 when one is not, and 2 when
nothing could be measured.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from orchestrator.results.cells import CellResult, Results

WEIGHTS = {
    "imagenet": "weights/mobilenet_v2_imagenet_fp16.pth",
    "voc": "weights/deeplabv3_mobilenet_v2_voc_fp16.pth",
}
INPUT_SIZE = "[353, 481]"


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """The option --data: a folder that holds camvid/ and weights/."""
    place = os.environ.get("LOOKBEYOND_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(place) if place else None,
        required=place is None,
        help="folder with camvid/ (SegNet layout) and weights/ (MobileNetV2 in torchvision's names: "
        f"{', '.join(Path(path).name for path in WEIGHTS.values())}); default: $LOOKBEYOND_DATA",
    )


@dataclass(frozen=True)
class Aim:
    """What a figure is to be: at least one value, at most another, or both."""

    figure: str
    least: float = -math.inf
    most: float = math.inf

    def met_by(self, value: float) -> bool:
        """Whether it is; what is not a number never is."""
        return self.least <= value <= self.most

    def __str__(self) -> str:
        least = [f"at least {self.least:g}"] if self.least > -math.inf else []
        most = [f"at most {self.most:g}"] if self.most < math.inf else []
        return f"{self.figure} {' and '.join(least + most)}"


def verdict(seen: Sequence[tuple[Aim, float]]) -> int:
    """Print what became of each aim, and return the exit code that says whether all are met."""
    print("" if seen else "\naim: none was asked for")
    for aim, value in seen:
        print(f"aim: {aim}: {value:.3g}, {'met' if aim.met_by(value) else 'NOT MET'}")
    return int(not all(aim.met_by(value) for aim, value in seen))


def not_measured(why: str) -> NoReturn:
    """End a benchmark that can say nothing about its aims."""
    print(why, file=sys.stderr)
    sys.exit(2)


@dataclass(frozen=True)
class ProjectRun:
    """One `lookbeyond run`: its results, its wall time, and how long until the first job was handed out
    (interpreter, plan and start of Ray)."""

    results: Results
    seconds: float
    start_seconds: float

    @property
    def cells(self) -> list[CellResult]:
        """The cells of the results file."""
        return self.results.cells


def run_project(experiment: Path, overrides: Sequence[str], storage: Path) -> ProjectRun:
    """Run an experiment as a user would, in a process of its own."""
    command = [sys.executable, "-m", "lookbeyond", "run", str(experiment), *overrides]
    command += ["--storage", str(storage), "--json"]
    begun, clock = time.time(), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    seconds = time.perf_counter() - clock
    if done.returncode:
        not_measured(f"`lookbeyond run` ended with code {done.returncode}")
    manifests = [json.loads(path.read_text()) for path in (storage / "steps").rglob("*.json")]
    first = min(manifest["provenance"]["started"] for manifest in manifests)
    return ProjectRun(Results.from_bytes(done.stdout, "the output of `lookbeyond run`"), seconds, first - begun)


def put(figure: Mapping[str, Any]) -> None:
    """Print one figure as a JSON line, with the load of the machine over the last minute."""
    print(json.dumps(dict(figure) | {"load": round(os.getloadavg()[0], 2)}), flush=True)


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table, aligned so that it can be read as it is."""
    lines = [list(map(str, row)) for row in [headings, *rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(f"| {line} |" for line in [padded[0], " | ".join("-" * width for width in widths), *padded[1:]])
