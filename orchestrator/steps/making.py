"""From steps to jobs: what of a step travels to a worker, and where the worker finds the rest."""

from pathlib import Path

from orchestrator.ledger.image_sets import ShardRange
from orchestrator.ledger.manifests import Ledger
from orchestrator.spec.experiment import ExtractorEntry
from orchestrator.steps.clusters import ClusterJob
from orchestrator.steps.features import ExtractorSource, LabelJob, LabelTarget, SampleJob, SampleWork
from orchestrator.steps.jobs import ImageSlice, Job
from orchestrator.steps.scores import ScoreJob, ScoreTarget
from orchestrator.steps.steps import (
    ClusterStep,
    FinetuneStep,
    LabelStep,
    PretrainStep,
    SampleStep,
    ScoreStep,
    Step,
    StepKind,
)
from orchestrator.steps.superpixels import SuperpixelJob, SuperpixelWork
from orchestrator.steps.training import FinetuneJob, PretrainJob, TrainingJob
from orchestrator.storage.store import Storage


def make_job(storage: Storage, kind: StepKind, steps: tuple[Step, ...], shard: ShardRange | None, device: str) -> Job:
    """The job of a task: `device` is where extraction or clustering runs."""
    step = steps[0]
    span = shard or ShardRange(0, step.images.count, "")
    images = ImageSlice(step.images.listing, span.start, span.stop)
    match step.work:
        case SampleStep() as sample:
            work = SampleWork(sample.source, sample.sampling.pixels_per_image, sample.seed)
            extractor = _extractor_source(storage, step, sample.extractor, device)
            return SampleJob(storage, images, step.stream, span.digest, work, extractor)
        case SuperpixelWork() as superpixel:
            return SuperpixelJob(storage, images, step.stream, span.digest, superpixel)
        case ClusterStep() as cluster:
            return ClusterJob(storage, step.key, step.inputs["sample"], cluster, device)
        case LabelStep() as label:
            extractor = _extractor_source(storage, step, label.extractor, device)
            targets = tuple(_label_target(step) for step in steps)
            return LabelJob(storage, images, span.digest, label.source, extractor, targets)
        case ScoreStep() as score:
            scores = tuple(_score_target(step) for step in steps)
            return ScoreJob(storage, images, score.source, scores)
    raise AssertionError(f"{kind} has no job")


def make_training_job(storage: Storage, step: Step) -> TrainingJob:
    """The job of a training step."""
    images = ImageSlice(step.images.listing, 0, step.images.count)
    match step.work:
        case PretrainStep() as work:
            kinds = {"auxiliary": StepKind.LABEL, "superpixel": StepKind.SUPERPIXELS}
            kind = kinds.get(work.config.contrast.positives) if work.config.objective == "contrast" else None
            labels = (kind.value, step.inputs["labels"]) if kind else None
            weights = _absolute(work.weights)
            return PretrainJob(storage, step.key, work.source, images, labels, work.config, weights, work.num_labels)
        case FinetuneStep() as work:
            pretrained = None
            if "pretrain" in step.inputs:
                pretrained = _model_of(storage, StepKind.PRETRAIN, step, "pretrain")
            return FinetuneJob(
                storage,
                step.key,
                work.source,
                work.labelled,
                work.judged,
                images,
                work.num_classes,
                work.config,
                pretrained,
                work.init,
                _absolute(work.weights),
            )
    raise AssertionError(f"{step.kind} is no training")


def _absolute(weights: str | None) -> str | None:
    """A file's place for a worker, which may run in another working directory than the driver."""
    if weights is not None and Path(weights).expanduser().is_file():
        return str(Path(weights).expanduser().absolute())
    return weights


def _extractor_source(storage: Storage, step: Step, entry: ExtractorEntry, device: str) -> ExtractorSource:
    if "network" not in step.inputs:
        return ExtractorSource(entry.config, _absolute(entry.weights), device)
    return ExtractorSource(
        entry.config, None, device, (storage, _model_of(storage, StepKind.FINETUNE, step, "network"))
    )


def _model_of(storage: Storage, kind: StepKind, step: Step, role: str) -> str:
    """Where the network of the training lies that a step is computed from."""
    manifest = Ledger(storage).manifest(kind, step.inputs[role])
    assert manifest is not None, f"{step.kind} waits for its {role}"
    return manifest.shards[0].path


def _label_target(step: Step) -> LabelTarget:
    assert isinstance(step.work, LabelStep)
    superpixels = (step.segment_stream, step.inputs["superpixels"]) if step.segment_stream else None
    return LabelTarget(step.stream, step.inputs["cluster"], step.work.outliers, step.work.judged, superpixels)


def _score_target(step: Step) -> ScoreTarget:
    assert isinstance(step.work, ScoreStep)
    kinds = {"auxiliary": StepKind.LABEL, "superpixel": StepKind.SUPERPIXELS}
    kind = kinds.get(step.work.condition)
    labels = (kind.value, step.inputs["labels"]) if kind else None
    return ScoreTarget(step.key, step.work.num_classes, step.work.condition, labels)
