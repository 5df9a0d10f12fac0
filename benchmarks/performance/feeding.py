"""Images per second that reach a device which takes no time, by cores, format of the files and kind of work.

The loop of a real training job is asked for its batches and nothing is done with them; sampling and labelling make
whole shards of what a device is said to have found: features, and labels before the vote, that are computed once. The
work is confined to so many cores and loads with as many threads, as beside a GPU. Images are drawn scenes of 1024x2048
with noise, as PNG and as JPEG, with masks; labels are those of a `lookbeyond run`. The plain pipeline, of trainings, is
what torchvision's own transforms make: `v2` on an image and its mask (resize, rotate, crop, flip, colours), one after
another, for both views, in a DataLoader of as many processes on the same cores. The aims in images/s are those of a
core that decodes such a PNG in about 40 ms; what decoding alone comes to here is printed first.

    python -m benchmarks.performance.feeding
    python -m benchmarks.performance.feeding --kinds pretrain --formats png --batches 12

With `--device 40` it also reckons, from the rates measured, for which share of its time a device that takes 40 images
a second would wait beside 8 cores, each of which loads as fast as one here.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmarks.measuring import Aim, put, run_project, table, verdict
from orchestrator.ledger.keys import digest
from orchestrator.planning.plan import make_plan
from orchestrator.spec.loading import load_experiment
from orchestrator.steps import feature_shards
from orchestrator.steps.jobs import Job, WorkerCache
from orchestrator.steps.label import LabelJob
from orchestrator.steps.sample import SampleJob
from orchestrator.steps.step import ShardedStep
from orchestrator.steps.training import DistributedContext, TrainingJob, TrainingStep
from orchestrator.storage.store import Storage
from workloads.configs.views import ViewsConfig
from workloads.datasets.decode import decode_image
from workloads.datasets.scenes import Scenes, ScenesConfig
from workloads.features.extractors import Extractor
from workloads.imagenet import IMAGENET_MEAN, IMAGENET_STD
from workloads.labels.auxiliary import Scorer
from workloads.training.batches import Source
from workloads.training.collectives import SingleProcess
from workloads.training.decoded import DecodedCache
from workloads.training.loop import Machine
from workloads.training.pretraining import PixelContrast

SIZE = (1024, 2048)
TWO_CORES = Aim("images/s of two cores / of one, least of all", least=1.85)
PRETRAINING = Aim("images/s a core of pre-training from PNG", least=12)
KEPT = Aim("images/s a core of pre-training from decoded images that are kept", least=22)
PLAIN = Aim("images/s / the plain pipeline's on the same cores, pre-training, least of all", least=4)
WAITING = Aim("share of its time that the device would wait beside 8 cores, %, pre-training from PNG", most=5)
_CORES_BESIDE_A_DEVICE = 8
BATCH = 8
_UNTIL_ALL_ARE_UP = 15.0
_DECODING_SECONDS = 6.0

TRAININGS = ("pretrain", "finetune")
SHARDS = ("sample", "label")
KINDS = (*TRAININGS, *SHARDS)
FORMATS = ("png", "jpg")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--cores", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batches", type=int, default=8, help="measured batches of 8 images (default 8)")
    parser.add_argument("--size", nargs=2, type=int, default=SIZE, help="height and width (default 1024 2048)")
    parser.add_argument("--images", type=int, default=8, help="files of each format (default 8)")
    parser.add_argument("--device", type=float, default=40, help="images a second that a device takes (default 40)")
    options = parser.parse_args(arguments)
    if max(options.cores) > (there := len(os.sched_getaffinity(0))):
        parser.error(f"--cores {max(options.cores)}: this machine has {there}")
    rates: list[Rate] = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix in options.formats:
            jobs = prepare(Path(folder) / suffix, suffix, options)
            files = Path(folder) / suffix / "data/images"
            rates += [measure_decoding(files, suffix, cores) for cores in options.cores]
            for kind in options.kinds:
                for cores in options.cores:
                    of_kind = measure if kind in TRAININGS else measure_shard
                    rates.append(of_kind(jobs[kind], kind, suffix, cores, options.batches))
        # Whatever the files were, kept images are the same pixels.
        trainings = [kind for kind in options.kinds if kind in TRAININGS]
        rates += [
            measure_kept(jobs[kind], kind, cores, options.batches) for kind in trainings for cores in options.cores
        ]
    headings = ["work", "files", "cores", "images/s", "a core", "plain images/s", "ours / plain"]
    print("\n" + table(headings, [rate.cells for rate in rates]))
    return verdict(list(aims(rates, options.device)))


@dataclass(frozen=True)
class Rate:
    """Images/s of one kind of work from files of one format on so many cores, and of the plain pipeline.

    From images that are kept as they were decoded (`compute.decoded_cache_gb`) it is ours alone.
    """

    kind: str
    suffix: str
    cores: int
    ours: float
    plain: float | None = None

    @property
    def cells(self) -> list[Any]:
        """As a row of the table."""
        beside = ["", ""] if self.plain is None else [f"{self.plain:.1f}", f"{self.ours / self.plain:.2f}"]
        return [self.kind, self.suffix, self.cores, f"{self.ours:.1f}", f"{self.ours / self.cores:.1f}", *beside]


def aims(rates: Sequence[Rate], device: float) -> Iterator[tuple[Aim, float]]:
    """What the rates say of each aim; nothing of one whose rates were not measured."""
    by_case = {(rate.kind, rate.suffix, rate.cores): rate for rate in rates}
    scaling = [
        by_case[kind, suffix, 2].ours / rate.ours
        for (kind, suffix, cores), rate in by_case.items()
        if cores == 1 and (kind, suffix, 2) in by_case
    ]
    if scaling:
        yield TWO_CORES, min(scaling)
    plain = [rate.ours / rate.plain for rate in rates if rate.kind == "pretrain" and rate.plain is not None]
    if plain:
        yield PLAIN, min(plain)
    if one := by_case.get(("pretrain", "png", 1)):
        yield PRETRAINING, one.ours
        yield WAITING, 100 * max(0.0, 1 - _CORES_BESIDE_A_DEVICE * one.ours / device)
    if one := by_case.get(("pretrain", "kept", 1)):
        yield KEPT, one.ours


def prepare(folder: Path, suffix: str, options: argparse.Namespace) -> dict[str, Any]:
    """Images, masks and labels; the jobs of all kinds of work that read them."""
    size = tuple(options.size)
    draw(folder / "data", suffix, size, options.images)
    classes = list(Scenes.classes)
    pool = {"images": f"images/*.{suffix}", "masks": "masks"}
    document: dict[str, Any] = {
        "name": "feeding",
        "dataset": {"name": "masks", "root": str(folder / "data"), "pools": {"train": pool, "val": pool}},
        "labels": {
            "extractor": {"arch": "filters", "output_stride": 16},
            "clustering": {"k": 8},
            "superpixels": {"n_segments": 500},
        },
        # What is made of an image is decided by views and crops; the network only has to be there.
        "pretrain": {"recipe": "cityscapes", "epochs": 4000, "batch_size": BATCH, "segmentor": NETWORK},
    }
    document["dataset"] |= {"classes": classes, "ignore": [255]}
    experiment = folder / "experiment.yaml"
    experiment.write_text(json.dumps(document))
    storage = Storage(str(folder / "storage"))
    run_project(experiment, ["--until", "labels"], folder / "storage")
    jobs: dict[str, Any] = {kind: job_of(experiment, storage, kind) for kind in ("pretrain", *SHARDS)}
    document |= {
        "pretrain": None,
        "finetune": {"recipe": "cityscapes", "epochs": 4000, "batch_size": BATCH, "segmentor": NETWORK},
    }
    experiment.write_text(json.dumps(document))
    return jobs | {"finetune": job_of(experiment, storage, "finetune")}


NETWORK = {"backbone": "mobilenet_v2", "output_stride": 16, "head": "fcn", "head_channels": 8, "auxiliary_head": False}


def draw(folder: Path, suffix: str, size: tuple[int, int], number: int) -> None:
    """Scenes as files: noise of three grey levels, so that a PNG is as hard to decode as that of a camera."""
    scenes = Scenes(ScenesConfig(image_size=size, num_train=number))
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for index, entry in enumerate(scenes.entries("train")):
        image = scenes.read_image("train", entry.id).astype(np.int16)
        image += np.random.default_rng(index).normal(0, 3, image.shape).astype(np.int16)
        pixels = Image.fromarray(image.clip(0, 255).astype(np.uint8))
        # Of a PNG the quality is no option.
        pixels.save(folder / "images" / f"{index}.{suffix}", quality=95)
        Image.fromarray(scenes.read_ground_truth("train", entry.id)).save(folder / "masks" / f"{index}.png")


def job_of(experiment: Path, storage: Storage, kind: str) -> TrainingJob | Job:
    """The first training of that kind in the experiment's plan, or the first shard."""
    plan = make_plan(load_experiment(experiment, []), storage, write_listings=True)
    step = next(step for step in plan.steps.values() if step.kind == kind)
    if isinstance(step, TrainingStep):
        return step.training_job(storage)
    assert isinstance(step, ShardedStep)
    return step.job(storage, (step,), step.images.shards[0], "cpu")


def measure(job: TrainingJob, kind: str, suffix: str, cores: int, batches: int) -> Rate:
    """Both pipelines, in processes of their own on the same cores."""
    rate = Rate(kind, suffix, cores, apart(ours, job, cores, batches), apart(plain, job, cores, batches))
    put({"training": kind, "files": suffix, "cores": cores, "images_per_second": rate.ours, "plain": rate.plain})
    return rate


def measure_kept(job: TrainingJob, kind: str, cores: int, batches: int) -> Rate:
    """Our pipeline, from decoded images that are kept."""
    rate = Rate(kind, "kept", cores, apart(partial(ours, kept=True), job, cores, batches))
    put({"training": kind, "files": rate.suffix, "cores": cores, "images_per_second": rate.ours})
    return rate


def measure_decoding(folder: Path, suffix: str, cores: int) -> Rate:
    """The files of a folder decoded by so many processes at once, and nothing else."""
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        begin = time.time() + _UNTIL_ALL_ARE_UP
        rate = Rate("decode", suffix, cores, sum(pool.map(decoding, [folder] * cores, [begin] * cores)))
    put({"work": rate.kind, "files": suffix, "cores": cores, "images_per_second": rate.ours})
    return rate


def measure_shard(job: Job, kind: str, suffix: str, cores: int, batches: int) -> Rate:
    """Whole shards, in a process of its own; torchvision has nothing to compare them with."""
    rate = Rate(kind, suffix, cores, apart(shard, job, cores, batches))
    put({"work": kind, "files": suffix, "cores": cores, "images_per_second": rate.ours})
    return rate


def apart(pipeline: Callable[[Any, int, int], float], job: TrainingJob | Job, cores: int, batches: int) -> float:
    """What a pipeline does in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(pipeline, job, cores, batches).result()


def decoding(folder: Path, begin: float) -> float:
    """Images a second of nothing but decoding, for some seconds from a moment on."""
    files = [file.read_bytes() for file in sorted(folder.iterdir())]
    decode_image(files[0], "")
    time.sleep(max(0.0, begin - time.time()))
    begun, decoded = time.perf_counter(), 0
    while time.perf_counter() - begun < _DECODING_SECONDS:
        decode_image(files[decoded % len(files)], "")
        decoded += 1
    return decoded / (time.perf_counter() - begun)


def ours(job: TrainingJob, cores: int, batches: int, kept: bool = False) -> float:
    """Images a second of the training's own loop."""
    confine(cores)
    cache = DecodedCache(4.0) if kept else None
    loop = job.build(DistributedContext(Machine(loader_threads=cores), SingleProcess(), None, cache))
    steps = loop.batches(range(10**6))
    rate = timed(iter(steps.next, None), loop.config.batch_size, cores * loop.machine.prefetch, batches)
    steps.close()
    return rate


class Instant(Extractor):
    """An extractor on a device that takes no time: the features of the first image are those of all."""

    def features(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Features that were computed once for images of this size."""
        found: torch.Tensor = Found.once("features", images[0].shape, lambda: super(Instant, self).features(images[:1]))
        return found.expand(len(images), -1, -1, -1)


class Found:
    """What a device that takes no time found before: the first that was made of each name and size."""

    made: ClassVar[dict[Any, Any]] = {}

    @classmethod
    def once(cls, name: str, size: tuple[int, ...], make: Callable[[], Any]) -> Any:
        """What was made of this name and size, made now where there is none."""
        if (name, size) not in cls.made:
            cls.made[name, size] = make()
        return cls.made[name, size]


def shard(job: SampleJob | LabelJob, cores: int, batches: int) -> float:
    """Images a second of a shard in which every image comes several times, of a device that takes no time."""
    confine(cores)
    real = feature_shards.load_extractor(job.extractor)
    extractor = Instant(**{each.name: getattr(real, each.name) for each in fields(real)})
    listed = feature_shards.read_listing(job.storage, job.images.listing, job.images.start, job.images.stop)
    assign, outliers, maps = feature_shards.assign, feature_shards.outliers, Scorer.maps
    once = Found.once
    with (
        patch.object(feature_shards, "assign", lambda *one: once("assign", one[1], lambda: assign(*one))),
        patch.object(feature_shards, "outliers", lambda *one: once("outliers", one[2], lambda: outliers(*one))),
        patch.object(Scorer, "maps", lambda self, one: once("maps", one.shape, lambda: maps(self, one))),
    ):
        make_shard(job, extractor, cores, listed)
        names = [*listed] * max(1, batches * BATCH // len(listed))
        begun = time.perf_counter()
        make_shard(job, extractor, cores, names)
        return len(names) / (time.perf_counter() - begun)


def make_shard(job: SampleJob | LabelJob, extractor: Extractor, helpers: int, names: Sequence[str]) -> None:
    """The shard of a job with these images instead, under another name, so that it is not there yet."""
    cache = WorkerCache(helpers)
    cache.keep("extractor", job.extractor, lambda: extractor)
    other = [len(names), helpers]
    if isinstance(job, SampleJob):
        job = replace(job, stream=digest([job.stream, other]))
    else:
        job = replace(job, targets=tuple(replace(one, stream=digest([one.stream, other])) for one in job.targets))
    with patch.object(feature_shards, "read_listing", lambda *_: names):
        job.run(cache)


def plain(job: TrainingJob, cores: int, batches: int) -> float:
    """Images a second of torchvision's transforms in a DataLoader."""
    confine(cores)
    loop = job.build(DistributedContext(Machine(), SingleProcess(), None))
    views = 2 if isinstance(loop.objective, PixelContrast) else 1
    images, size = PlainImages(loop.source, loop.objective.views, views), loop.config.batch_size
    loader = torch.utils.data.DataLoader(images, batch_size=size, num_workers=cores, prefetch_factor=1)
    # It takes several times as long, so half as many are enough; whole rounds, since its processes end theirs together.
    return timed(iter(loader), size, cores, cores * max(2, batches // (2 * cores)))


def confine(cores: int) -> None:
    """Keep this process and its children to so many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(1)


def timed(steps: Iterator[Any], size: int, ahead: int, batches: int) -> float:
    """Images a second once the queues are in balance: what was made ahead is taken first, and a batch more for each."""
    for _ in range(2 * ahead):
        next(steps)
    begun = time.perf_counter()
    for _ in range(batches):
        next(steps)
    return batches * size / (time.perf_counter() - begun)


class PlainImages(torch.utils.data.Dataset[Any]):
    """Views by torchvision's transforms, one after another, of whole images and masks."""

    def __init__(self, source: Source, config: ViewsConfig, views: int) -> None:
        self.source, self.config, self.views = source, config, views
        self.crop = v2.RandomCrop(config.crop if config.crop_mode == "fixed" else config.crop[0], pad_if_needed=True)
        self.colours = v2.ColorJitter(*config.jitter) if any(config.jitter) else v2.Identity()

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        sample = self.source.load(self.source.ids[index % len(self.source.ids)])
        assert sample.labels is not None
        image = tv_tensors.Image(torch.from_numpy(sample.image.copy()).permute(2, 0, 1))
        mask = tv_tensors.Mask(torch.from_numpy(sample.labels.astype(np.int32))[None])
        made = [self.view(image, mask) for _ in range(self.views)]
        return torch.stack([one[0] for one in made]), torch.stack([one[1] for one in made])

    def view(self, image: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One view: resize, rotate, crop, flip, colours."""
        scale = float(np.random.uniform(*self.config.scale))
        size = [round(side * scale) for side in image.shape[1:]]
        image, mask = F.resize(image, size, antialias=True), F.resize(mask, size)
        if np.random.uniform() < self.config.rotation_probability:
            angle = float(np.random.uniform(*self.config.rotation))
            image, mask = F.rotate(image, angle, F.InterpolationMode.BILINEAR), F.rotate(mask, angle)
        image, mask = self.crop(image, mask)
        if np.random.uniform() < self.config.flip:
            image, mask = F.horizontal_flip(image), F.horizontal_flip(mask)
        colours = F.to_dtype(self.colours(image), torch.float32, scale=True)
        return F.normalize(colours, list(IMAGENET_MEAN), list(IMAGENET_STD)), mask


if __name__ == "__main__":
    sys.exit(main())
