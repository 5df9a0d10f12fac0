"""How long the pending steps will take and how many bytes they will write, before they do.

The model: seconds and bytes per image, per kind of step and extractor, from the steps already done on this storage;
where nothing comparable was done, a stated assumption. An estimate says which of the two it is.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.ledger import Ledger, Manifest
from orchestrator.plan import Plan, finished_images
from orchestrator.steps import FinetuneStep, PretrainStep, SampleStep, Step, StepKind
from orchestrator.storage import Storage

# Core-seconds and bytes per image of 480x360 with MobileNetV2; used only until something was measured.
_ASSUMED = {
    StepKind.SAMPLE: (0.08, 256_000),
    StepKind.SUPERPIXELS: (0.10, 25_000),
    StepKind.CLUSTER: (0.01, 0),
    StepKind.LABEL: (0.03, 8_000),
    StepKind.SCORE: (0.005, 0),
    # Per image that is trained on, by recipe small; an image counts once an epoch.
    StepKind.PRETRAIN: (0.13, 0),
    StepKind.FINETUNE: (0.07, 0),
}


@dataclass(frozen=True)
class Estimate:
    """Core-seconds, bytes and peak matrix bytes of the pending steps, and whether all rates were measured."""

    core_seconds: float
    bytes: int
    sample_matrix_bytes: int
    measured: bool
    seconds_by_kind: dict[str, float]


def estimate(plan: Plan, storage: Storage) -> Estimate:
    """Estimate the pending steps of a plan."""
    ledger = Ledger(storage)
    rates = _measured_rates(ledger.manifests())
    seconds: dict[str, float] = defaultdict(float)
    total_bytes = 0.0
    measured = True
    counted: set[tuple[str, str]] = set()
    for step in plan.pending:
        # Two image counts of one stream share their shards: only the longest costs.
        images = _images_of(step) - finished_images(step, ledger)
        if step.stream:
            fresh = {(step.stream, shard.digest) for shard in step.images.shards} - counted
            images = min(
                images,
                sum(shard.stop - shard.start for shard in step.images.shards if (step.stream, shard.digest) in fresh),
            )
            counted |= fresh
        name = _comparable(step.kind, step.meaning)
        rate = rates.get(name)
        measured = measured and rate is not None
        per_image, bytes_per_image = rate or _ASSUMED[step.kind]
        seconds[step.kind.value] += images * per_image
        total_bytes += images * bytes_per_image
    return Estimate(
        core_seconds=round(sum(seconds.values()), 2),
        bytes=int(total_bytes),
        sample_matrix_bytes=max((_matrix_bytes(step, plan, rates) for step in plan.pending), default=0),
        measured=measured,
        seconds_by_kind={kind: round(value, 2) for kind, value in seconds.items()},
    )


def _images_of(step: Step) -> int:
    """Images that a step works through; a training counts each of them once an epoch."""
    if isinstance(step.work, PretrainStep | FinetuneStep):
        config = step.work.config
        return config.total_steps(step.images.count) * config.batch_size
    return step.images.count


def _measured_rates(manifests: Iterable[Manifest]) -> dict[str, tuple[float, float]]:
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for manifest in manifests:
        images = manifest.results.get("images_trained") or manifest.provenance.get("images", {}).get("used", 0)
        spent = manifest.provenance.get("work_seconds") or manifest.provenance.get("wall_seconds", 0.0)
        if images:
            entry = sums[_comparable(StepKind(manifest.kind), manifest.meaning)]
            entry[0] += images
            entry[1] += spent
            entry[2] += manifest.size
    return {name: (spent / images, size / images) for name, (images, spent, size) in sums.items()}


def _comparable(kind: StepKind, meaning: dict) -> str:
    """Steps of one name cost about the same per image."""
    extractor = meaning.get("extractor", {})
    return "/".join(str(part) for part in (kind, extractor.get("arch"), extractor.get("output_stride")))


def _matrix_bytes(step: Step, plan: Plan, rates: dict[str, tuple[float, float]]) -> int:
    """Bytes of the feature matrix that the clustering actor holds while it fits on this sample."""
    if not isinstance(step.work, SampleStep):
        return 0
    _, per_image = rates.get(_comparable(step.kind, step.meaning), _ASSUMED[StepKind.SAMPLE])
    per_pixel = per_image / step.work.sampling.pixels_per_image
    limits = [
        cell.cell.entry.labels.clustering.max_pixels
        for cell in plan.cells
        if cell.roles.get("sample") and cell.roles["sample"].key == step.key
    ]
    pixels = min(step.images.count * step.work.sampling.pixels_per_image, max(limits, default=0))
    return int(pixels * per_pixel)
