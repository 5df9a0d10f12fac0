"""Training jobs at work: what each worker of a run builds, and what rank 0 leaves behind.

The model: every worker builds the same network and reads images and label shards itself; rank 0 alone writes (see
`orchestrator.ledger.training_states`). The whole state goes to one file named by the step's key, so whoever runs the
step next (after a worker, a node or the driver died) continues from it.
"""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from orchestrator.ledger.image_sets import read_listing
from orchestrator.ledger.layout import model_path, state_path
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import MAP_SCHEMA, ShardRecord, ShardWriter, map_batch, map_of
from orchestrator.ledger.training_states import (
    VAL_MIOU_SUBSET,
    last_loss,
    read_history,
    training_seconds,
    write_history,
)
from orchestrator.steps.jobs import MAP_COMPRESSION, Source
from orchestrator.steps.training import FinetuneJob, PretrainJob, TrainingJob
from orchestrator.storage.faults import kill_point
from orchestrator.storage.store import Storage
from workloads.configs.training import EvaluationConfig
from workloads.datasets.fractions import parse_labelled_list
from workloads.networks.segmentors import build_segmentor, initialise, load_pretrained, pretrained_state
from workloads.scoring.evaluation import class_counts, predict
from workloads.scoring.metrics import mean_iou
from workloads.seeding import stable_hash
from workloads.training.collectives import Workers
from workloads.training.finetuning import class_pixels, finetuning_loop, log_inverse_weights
from workloads.training.loop import Loop, Machine, Sample, StepReport, Wrap
from workloads.training.pretraining import pretrained_scope, pretraining_loop, pretraining_network

# Told of a step by every worker; False on all of them where the training is to end here, without an outcome.
Tell = Callable[[StepReport], bool]

# How often, and on how many of the val images, a fine-tuning is evaluated while it runs: enough to see it improve.
_SUBSET_EVALUATIONS = 5
_SUBSET_IMAGES = 16
_PREDICTED_IMAGES = 4


@dataclass(frozen=True)
class DistributedContext:
    """One worker's place in a training run: its machine, its peers, and how its module is wrapped."""

    machine: Machine
    workers: Workers
    wrap: Wrap | None


@dataclass(frozen=True)
class TrainingImages:
    """Images with their label or superpixel maps, read from the shards by whoever needs them."""

    storage: Storage
    source: Source
    ids: Sequence[str]
    places: dict[str, tuple[str, int]] = field(repr=False)

    @staticmethod
    def of_job(job: PretrainJob) -> "TrainingImages":
        """The images of a pre-training: those that have a map, or all where none is needed."""
        if job.labels is None:
            names = read_listing(job.storage, job.images.listing, job.images.start, job.images.stop)
            return TrainingImages(job.storage, job.source, names, {})
        manifest = Ledger(job.storage).manifest(*job.labels)
        assert manifest is not None, "pre-training waits for its labels"
        places = {}
        for record in manifest.shards:
            reader = _reader(job.storage, record.path)
            for index in range(reader.num_record_batches):
                places[reader.get_batch(index).column("image")[0].as_py()] = (record.path, index)
        return TrainingImages(job.storage, job.source, list(places), places)

    def load(self, image_id: str) -> Sample:
        """Decode one image and its map."""
        image = self.source.open().read_image(self.source.pool, image_id)
        if image_id not in self.places:
            return Sample(image, None)
        path, index = self.places[image_id]
        return Sample(image, map_of(_reader(self.storage, path).get_batch(index)))


@dataclass(frozen=True)
class TrueLabels:
    """Images with their ground truth."""

    source: Source
    ids: Sequence[str]

    def load(self, image_id: str) -> Sample:
        """Decode one image and its ground truth."""
        dataset = self.source.open()
        pool = self.source.pool
        return Sample(dataset.read_image(pool, image_id), dataset.read_ground_truth(pool, image_id))

    def ground_truth(self, start: int, step: int) -> Iterator[np.ndarray]:
        """The ground truth of every `step`-th image from `start` on, uint8 (H, W), 255 ignored."""
        dataset = self.source.open()
        return (dataset.read_ground_truth(self.source.pool, image_id) for image_id in self.ids[start::step])


@dataclass(frozen=True)
class _PretrainRun:
    job: PretrainJob

    def build(self, context: DistributedContext) -> Loop:
        """The training loop of one worker."""
        job = self.job
        network = pretraining_network(job.config)
        initialise(network, job.config.init, job.weights)
        images = TrainingImages.of_job(job)
        return pretraining_loop(
            network,
            images,
            job.config,
            num_labels=job.num_labels,
            machine=context.machine,
            workers=context.workers,
            wrap=context.wrap,
        )

    def evaluate_subset(self, loop: Loop) -> dict[str, float]:
        """Nothing but the loss says how a pre-training is doing."""
        return {}

    def finish(self, loop: Loop) -> Outcome:
        """Write what was pre-trained."""
        job = self.job
        state = pretrained_state(loop.objective.segmentor, pretrained_scope(job.config))
        record = write_tensors(job.storage, model_path(job.key, "pt"), state)
        return Outcome(
            [record],
            {job.key: {"pretrain_loss": last_loss(job.storage, job.key)} | _trained(loop)},
            loop.machine.device.type,
        )


@dataclass(frozen=True)
class _FinetuneRun:
    job: FinetuneJob

    def build(self, context: DistributedContext) -> Loop:
        """The training loop of one worker."""
        job = self.job
        seed = stable_hash(job.config.seed, "network") % 2**63
        network = build_segmentor(job.config.segmentor, job.num_classes, seed=seed)
        if job.pretrained is not None:
            load_pretrained(network, read_tensors(job.storage, job.pretrained))
        else:
            initialise(network, job.init, job.weights)
        names = parse_labelled_list(job.storage.read(job.labelled).decode()).ids
        images = TrueLabels(job.source, names)
        class_weights = None
        if job.config.class_balance == "log_inverse":
            # Every worker reads its share.
            ours = class_pixels(images.ground_truth(context.workers.rank, context.workers.size), job.num_classes)
            class_weights = log_inverse_weights(context.workers.sum(ours.to(context.machine.device)).cpu())
        return finetuning_loop(
            network,
            images,
            job.config,
            machine=context.machine,
            workers=context.workers,
            wrap=context.wrap,
            class_weights=class_weights,
        )

    def evaluate_subset(self, loop: Loop) -> dict[str, float]:
        """The mIoU, single scale, on the validation subset: the first few images."""
        counts = class_counts(
            loop.objective.segmentor, self._judged(_SUBSET_IMAGES), self.job.config.evaluation, loop.machine.device
        )
        return {VAL_MIOU_SUBSET: mean_iou(counts).miou}

    def finish(self, loop: Loop) -> Outcome:
        """Write the network, score it (at single scale and, where the recipe says so, at several), and keep a few
        predictions to look at.
        """
        job = self.job
        network = loop.objective.segmentor
        record = write_tensors(job.storage, model_path(job.key, "pt"), network.state_dict())
        images = self._judged(job.judged_images.stop)
        results: dict[str, Any] = {"finetune_loss": last_loss(job.storage, job.key)} | _trained(loop)
        results |= _score(loop, images, job.config.evaluation, "miou")
        if job.config.evaluation_multi_scale is not None:
            results |= _score(loop, images, job.config.evaluation_multi_scale, "miou_multi_scale")
        return Outcome([record, self._predictions(loop)], {job.key: results}, loop.machine.device.type)

    def _judged(self, limit: int) -> "TrueLabels":
        job = self.job
        stop = min(limit, job.judged_images.stop)
        return TrueLabels(job.judged, read_listing(job.storage, job.judged_images.listing, 0, stop))

    def _predictions(self, loop: Loop) -> ShardRecord:
        """Predicted classes of the first few judged images, as a shard of maps."""
        job = self.job
        images = self._judged(_PREDICTED_IMAGES)
        writer = ShardWriter(MAP_SCHEMA, compression=MAP_COMPRESSION)
        for name in images.ids:
            picture = images.load(name).image
            classes = predict(loop.objective.segmentor, [picture], job.config.evaluation, loop.machine.device)[0]
            writer.add(map_batch(name, classes.astype(np.uint16)))
        # The network's record has the seconds of the whole training.
        return writer.write(job.storage, model_path(job.key, "predictions.arrow"), seconds=0.0)


def training_loop(job: TrainingJob, context: DistributedContext) -> Loop:
    """The loop of one worker at step 0, as `train` begins it."""
    return _run_of(job).build(context)


def train(job: TrainingJob, context: DistributedContext, tell: Tell, checkpoint_seconds: float) -> Outcome | None:
    """Run one worker's part of a job to its end; the outcome on rank 0, None on the others and where it was given up.

    `tell` is called by every worker after the same steps, about a hundred times a run. Rank 0 writes the whole state
    after one of them whenever `checkpoint_seconds` have gone by, and when the training is given up.
    """
    run = _run_of(job)
    loop = run.build(context)
    storage, key = job.storage, job.key
    if storage.exists(state_path(key)):
        loop.load_state_dict(torch.load(io.BytesIO(storage.read(state_path(key))), weights_only=True))
    history = [row for row in read_history(storage, key) if row["step"] <= loop.step]
    written = time.monotonic()
    evaluations = loop.step * _SUBSET_EVALUATIONS // loop.total_steps
    for told in loop.run(report_every=max(1, loop.total_steps // 100)):
        kill_point("training.kill", f"{job.title} step {told.step}")
        report = told
        if context.workers.rank == 0:
            if told.step * _SUBSET_EVALUATIONS // loop.total_steps > evaluations:
                evaluations = told.step * _SUBSET_EVALUATIONS // loop.total_steps
                report = replace(told, shown=told.shown | run.evaluate_subset(loop))
            history.append(history_row(report))
            write_history(storage, key, history)
            if time.monotonic() - written >= checkpoint_seconds:
                _keep_state(storage, key, loop)
                written = time.monotonic()
        if not tell(report):
            if context.workers.rank == 0:
                _keep_state(storage, key, loop)
            return None
    if context.workers.rank:
        return None
    begun = time.perf_counter()
    outcome = run.finish(loop)
    seconds = training_seconds(history, loop.config.batch_size) * context.workers.size + time.perf_counter() - begun
    # As of all work, seconds of one core or of one GPU.
    cores = torch.get_num_threads() if loop.machine.device.type == "cpu" else 1
    network, *others = outcome.records
    return replace(outcome, records=[replace(network, seconds=round(seconds * cores, 3)), *others])


def _run_of(job: TrainingJob) -> _PretrainRun | _FinetuneRun:
    return _PretrainRun(job) if isinstance(job, PretrainJob) else _FinetuneRun(job)


def _keep_state(storage: Storage, key: str, loop: Loop) -> None:
    buffer = io.BytesIO()
    torch.save(loop.state_dict(), buffer)
    storage.replace(state_path(key), buffer.getvalue())


def write_tensors(storage: Storage, path: str, state: dict[str, torch.Tensor]) -> ShardRecord:
    """A state dict as a file that loads with ``weights_only=True``."""
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, buffer)
    data = buffer.getvalue()
    storage.replace(path, data)
    return ShardRecord.of(path, data, rows=len(state), columns=["state_dict"], images=0)


def read_tensors(storage: Storage, path: str) -> dict[str, torch.Tensor]:
    """The state dict that `write_tensors` wrote."""
    state: dict[str, torch.Tensor] = torch.load(io.BytesIO(storage.read(path)), weights_only=True)
    return state


def _trained(loop: Loop) -> dict[str, int]:
    return {"images_trained": loop.total_steps * loop.config.batch_size}


def _score(loop: Loop, images: TrueLabels, config: EvaluationConfig, name: str) -> dict[str, Any]:
    counts = class_counts(loop.objective.segmentor, images, config, loop.machine.device)
    score = mean_iou(counts)
    per_class = [None if np.isnan(value) else float(value) for value in score.per_class_iou]
    return {name: score.miou, f"{name}_per_class": per_class, f"{name}_classes_present": score.present}


def history_row(report: StepReport) -> dict[str, float]:
    """What a history holds of a report."""
    return {
        "step": report.step,
        "total_steps": report.total_steps,
        "epoch": report.epoch,
        "loss": report.loss,
        "learning_rate": report.learning_rate,
        "images_per_second": report.images_per_second,
        "wait_share": report.wait_share,
    } | report.shown


@lru_cache(maxsize=64)
def _reader(storage: Storage, path: str) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(storage.open(path))
