"""What a size costs that was not tried: time, bytes moved, money, and what gives way first.

Core-seconds and bytes per image are measured here, by the project's own jobs on a few generated pictures of Cityscapes'
size and file format, with ResNet-50 (random weights cost the same). What a GPU does, what machines and requests cost
and what a network carries is assumed, and printed as such; `--assume name=value` changes it. The work is spread evenly
over the machines of a scenario; what is busy longest says how long labelling takes, and saturates first.

    python -m benchmarks.performance.capacity --measure 4
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.measuring import Aim, not_measured, put, table, verdict
from orchestrator.execution.execution import Execution
from orchestrator.ledger.manifests import Ledger
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.steps.jobs import WorkerCache
from orchestrator.steps.step import Pool
from orchestrator.storage.store import Storage
from workloads.datasets import open_dataset
from workloads.datasets.scenes import ScenesConfig
from workloads.formats import duration, size

# However large the data set, what hands out the work is not what the machines wait for.
AIM = Aim("driver's share of the busiest resource's time, most of all scenarios", most=0.5)

SIZE = (1024, 2048)
PIXELS = 200

# All assumed: there was no GPU and no cloud at hand.
ASSUMED = {
    "GPU forward passes/s": 40.0,  # L4, 1024x2048, stride 16, float32: 0.45 TFLOP an image at 60 % of 30 TFLOPS
    "GPU pre-training images/s": 8.0,  # two 713x713 views of DeepLabV3 at stride 8, bfloat16
    "pre-training epochs": 100.0,
    "$/h GPU machine": 0.45,  # g6.2xlarge, spot
    "$/h CPU machine": 0.30,  # c7i.4xlarge, spot
    "$/h head": 0.20,  # m7i.xlarge, on demand
    "$/million writes": 5.0,  # S3 PUT and LIST
    "$/million reads": 0.4,  # S3 GET
    "MB/s per machine": 150.0,  # what such machines sustain against S3
    "driver ms per image and kind": 0.2,  # more than benchmarks/performance/scaling.py measures
}


@dataclass(frozen=True)
class Scenario:
    """So many images on machines with one GPU and machines without; pixels sampled per image, images per shard."""

    name: str
    images: int
    gpu_machines: int
    cpu_machines: int
    pixels: int
    shard_images: int
    gpu_cores: int = 8
    cpu_cores: int = 16


SCENARIOS = (
    Scenario("5 000 Cityscapes", 5_000, 4, 8, 200, 16),
    Scenario("50 000 Cityscapes", 50_000, 4, 8, 200, 16),
    Scenario("a million, 64 GPUs", 1_000_000, 64, 64, 20, 20),
)


@dataclass(frozen=True)
class Rates:
    """Per image: seconds of one core for decoding and for each kind of step (decoding included), and bytes."""

    decode: float
    seconds: dict[str, float]
    size: dict[str, float]

    @property
    def label_cores(self) -> float:
        """Core-seconds of a label step beside its forward pass, which a sample step has, too."""
        return max(self.seconds["label"] - (self.seconds["sample"] - self.decode), self.decode)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=int, default=4, help="pictures that rates are measured on (default 4)")
    parser.add_argument("--assume", nargs="*", default=[], metavar="NAME=VALUE", help=", ".join(ASSUMED))
    options = parser.parse_args(arguments)
    assumed = dict(ASSUMED)
    for pair in options.assume:
        name, _, value = pair.rpartition("=")
        if name not in assumed:
            not_measured(f"--assume {name}: allowed are {', '.join(ASSUMED)}")
        assumed[name] = float(value)
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(Path(folder), options.measure)
    print("", table(["measured per image", "core-seconds", "MB"], measured_rows(rates)), sep="\n")
    print("", table(["assumed", "value"], [[name, f"{value:g}"] for name, value in assumed.items()]), sep="\n")
    busy = [busy_seconds(scenario, rates, assumed) for scenario in SCENARIOS]
    plans = [plan(scenario, rates, assumed, times) for scenario, times in zip(SCENARIOS, busy, strict=True)]
    rows = [[name, *(one[name] for one in plans)] for name in plans[0]]
    print("", table(["", *(scenario.name for scenario in SCENARIOS)], rows), sep="\n")
    return verdict([(AIM, max(times["driver"] / max(times.values()) for times in busy))])


def measure(folder: Path, images: int) -> Rates:
    """Work on pictures of Cityscapes' size, one image a shard."""
    scenes = open_dataset(ScenesConfig(image_size=SIZE, num_train=images, num_val=1), None)
    (folder / "pictures").mkdir()
    for number, entry in enumerate(scenes.entries("train")):
        # Photographs have noise, and noise is what a PNG's size and its decoding go by.
        noise = np.random.default_rng(number).normal(0, 3, (*SIZE, 3))
        picture = np.clip(scenes.read_image("train", entry.id) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"pictures/{number}.png")
    files = sorted((folder / "pictures").iterdir())
    begun = time.process_time()
    for file in files:
        np.asarray(Image.open(file).convert("RGB"))
    decode = (time.process_time() - begun) / images
    document = {
        "name": "capacity",
        "dataset": {"name": "folder", "root": str(folder / "pictures")},
        "labels": {
            "extractor": {"arch": "resnet50", "weights": "random", "batch_size": 1},
            "sampling": {"pixels_per_image": PIXELS},
            "clustering": {"k": 29},
        },
        "compute": {"shard_images": 1},
    }
    storage = Storage(str(folder / "storage"))
    made, seconds = work(document, storage)
    size = {"image": sum(file.stat().st_size for file in files) / images}
    for step in made.steps.values():
        size[step.kind] = made.done[step.key].size / images
    put({"decode": decode, "seconds": seconds, "bytes": size})
    return Rates(decode, seconds, size)


def work(document: dict[str, Any], storage: Storage) -> tuple[Plan, dict[str, float]]:
    """Make labels on one thread of this process; processor seconds of a shard by kind, which no other load adds to."""
    torch.set_num_threads(1)
    made = make_plan(document, storage, write_listings=True, until="labels")
    execution = Execution(Ledger(storage), made.compute, made.done, lambda step, manifest: None)
    execution.begin(made.pending, groups=1)
    cache, seconds = WorkerCache(), defaultdict(list)
    while len(execution.schedule):
        item = next(filter(None, map(execution.schedule.take, (Pool.PROCESS, Pool.CLUSTER, Pool.EXTRACT))))
        steps = execution.live_steps(item)
        execution.started(steps)
        job = steps[0].job(storage, steps, item.payload.shard, "cpu")
        begun = time.process_time()
        outcome = job.run(cache)
        seconds[item.payload.kind].append(time.process_time() - begun)
        execution.completed(item, outcome)
    # The first shard of a kind loads libraries and the network.
    return made, {kind: mean(of_shards[1:] or of_shards) for kind, of_shards in seconds.items()}


def measured_rows(rates: Rates) -> list[list[str]]:
    """The measured rates as rows of a table."""
    rows = [["decode a PNG of 2048x1024", f"{rates.decode:.3f}", f"{rates.size['image'] / 1e6:.2f}"]]
    names = {
        "sample": f"sample, {PIXELS} features (forward pass on a core included)",
        "superpixels": "superpixels (SLIC)",
        "label": "label (forward pass on a core included)",
    }
    rows += [[text, f"{rates.seconds[kind]:.3f}", f"{rates.size[kind] / 1e6:.3f}"] for kind, text in names.items()]
    return [*rows, ["label without its forward pass", f"{rates.label_cores:.3f}", ""]]


def bytes_read(scenario: Scenario, rates: Rates) -> float:
    """Every image three times, and the superpixels that vote."""
    return scenario.images * (3 * rates.size["image"] + rates.size["superpixels"])


def bytes_written(scenario: Scenario, rates: Rates) -> dict[str, float]:
    """Bytes that a labelling writes, by kind of step."""
    images = scenario.images
    written = {kind: images * rates.size[kind] for kind in ("sample", "superpixels", "label")}
    return written | {"sample": written["sample"] * scenario.pixels / PIXELS}


def busy_seconds(scenario: Scenario, rates: Rates, assumed: dict[str, float]) -> dict[str, float]:
    """How long labelling keeps each resource busy."""
    images, machines = scenario.images, scenario.gpu_machines + scenario.cpu_machines
    moved = bytes_read(scenario, rates) + sum(bytes_written(scenario, rates).values())
    return {
        "GPUs": 2 * images / assumed["GPU forward passes/s"] / scenario.gpu_machines,
        "cores beside the GPUs (decoding, votes)": images
        * (rates.decode + rates.label_cores)
        / (scenario.gpu_machines * scenario.gpu_cores),
        "cores of the CPU machines (SLIC)": images
        * rates.seconds["superpixels"]
        / (scenario.cpu_machines * scenario.cpu_cores),
        "network to the storage": moved / machines / assumed["MB/s per machine"] / 1e6,
        "driver": images * 3 * assumed["driver ms per image and kind"] / 1000,
    }


def plan(scenario: Scenario, rates: Rates, assumed: dict[str, float], busy: dict[str, float]) -> dict[str, str]:
    """Time, bytes and money of one scenario."""
    images, read, written = scenario.images, bytes_read(scenario, rates), bytes_written(scenario, rates)
    order = sorted(busy, key=lambda name: -busy[name])
    # Superpixels and samples are made side by side, labels after the clusters: half of the GPUs' time follows on.
    labelling = max(busy.values()) + (busy["GPUs"] / 2 if order[0] != "GPUs" else 0)
    training = images * assumed["pre-training epochs"] / assumed["GPU pre-training images/s"] / scenario.gpu_machines
    shards = images / scenario.shard_images
    # A shard is a file and a record; images and superpixels are read one by one and by the shard.
    writes, reads = 6 * shards, 3 * images + 6 * shards
    requests = (writes * assumed["$/million writes"] + reads * assumed["$/million reads"]) / 1e6
    an_hour = (
        scenario.gpu_machines * assumed["$/h GPU machine"]
        + scenario.cpu_machines * assumed["$/h CPU machine"]
        + assumed["$/h head"]
    )
    training_hour = scenario.gpu_machines * assumed["$/h GPU machine"] + assumed["$/h head"]
    return {
        "machines": f"{scenario.gpu_machines} with a GPU and 8 cores, {scenario.cpu_machines} with 16 cores",
        "pixels sampled per image": str(scenario.pixels),
        "labelling": duration(labelling),
        "saturates first": order[0],
        "then": f"{order[1]} ({100 * busy[order[1]] / busy[order[0]]:.0f} % as busy)",
        "read from the storage": size(read),
        "written": f"{size(sum(written.values()))} "
        f"(samples {size(written['sample'])}, labels {size(written['label'])})",
        "tasks": f"{3 * shards:,.0f}",
        "labelling costs": f"${labelling / 3600 * an_hour + requests:,.2f} (requests ${requests:,.2f})",
        f"pre-training, {assumed['pre-training epochs']:g} epochs": duration(training),
        "pre-training costs": f"${training / 3600 * training_hour:,.0f}",
    }


if __name__ == "__main__":
    sys.exit(main())
