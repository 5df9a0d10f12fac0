"""How long the pending steps will take, how many bytes they will write and what they cost, before they do.

The model: every step says what it does (`Step.work`): passes through networks, whose operations are counted for its own
network, size of image and batch, and operations on images. Speeds turn that into seconds: those that `lookbeyond
calibrate` measured on this machine, else guesses. Where steps of the same rate were done on this storage, what they
took over what they should have taken corrects them. A rate of the file that the user gives is taken as it stands. The
estimate says which it was, and how far it can be trusted. Seconds on a GPU are GPU-hours, others core-hours.
"""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from orchestrator.ledger.keys import canonical_json
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.planning.capacity import Capacity
from orchestrator.planning.image_sizes import ImageSizes
from orchestrator.planning.plan import Plan
from orchestrator.planning.speeds import counted, read_speeds
from orchestrator.spec.entries import RuntimeConfig
from orchestrator.spec.strict_yaml import YamlError, load_yaml
from orchestrator.spec.validation import validated
from orchestrator.steps.kinds import BY_NAME
from orchestrator.steps.rates import Extent, Rate
from orchestrator.steps.step import Pool, Step
from orchestrator.storage.store import Storage
from workloads.costs.speeds import Device, PassCost, Speeds
from workloads.costs.work import NetworkPass, Work
from workloads.errors import InputError

GUESS = "a guess"
# A guess of less than this share of all seconds does not make the whole a guess.
_SMALL_SHARE = 0.1
_FACTOR = 2
# Beside these, everything that is no pass of a network stays on a core where there is a GPU.
_ON_GPU = ("assign", "scores", "cluster")
# What they gain there; never measured.
_GPU_GAIN = 30.0
_WORDS = {
    "given": "rates given",
    "measured": "corrected by what steps of the kind took on this storage",
    "calibrated": "by this machine's speed, which `lookbeyond calibrate` measured",
    "assumed": "no step of the kind was done here, and `lookbeyond calibrate` has not measured this machine",
}


class Prices(RuntimeConfig):
    """What an hour costs; that of a GPU includes the cores beside it."""

    core_hour: float = Field(0.0, ge=0)
    gpu_hour: float = Field(0.0, ge=0)
    currency: str = "USD"


class Assumptions(RuntimeConfig):
    """The file of `lookbeyond plan --rates`."""

    rates: dict[str, Rate] = Field(default_factory=dict, description="by name, as `plan --json` prints them")
    prices: Prices | None = None


@dataclass(frozen=True)
class Estimate:
    """What the pending steps take.

    Attributes:
        core_seconds, gpu_seconds: of work, on cores and on GPUs.
        wall_seconds: at least, on all machines of the cluster file; None without one.
        bytes: written to the storage.
        sample_matrix_bytes: of the largest feature matrix that is clustered.
        money: by the prices given, None without; `currency` is theirs.
        seconds_by_kind: work on either device.
        seconds_by_step: the same, by the step's key.
        times_alone: the work of all cells, each from scratch, as a multiple of the work of all distinct steps.
        rates: the rates used, with their names; `sources` says of each whether it was given, measured, calibrated or
            assumed.
        uncertainty: in words; empty where all rates were given or nothing is to run.
    """

    core_seconds: float
    gpu_seconds: float
    wall_seconds: float | None
    bytes: int
    sample_matrix_bytes: int
    money: float | None
    currency: str
    seconds_by_kind: dict[str, float]
    seconds_by_step: dict[str, float]
    times_alone: float
    rates: dict[str, dict[str, Any]]
    sources: dict[str, str]
    uncertainty: str

    @property
    def basis(self) -> str:
        """Where the rates come from, in words."""
        found = set(self.sources.values())
        if len(found) < 2:
            return _WORDS[next(iter(found))] if found else "nothing to run"
        return "; ".join(
            f"{', '.join(sorted(name for name, own in self.sources.items() if own == source))}: {words}"
            for source, words in _WORDS.items()
            if source in found
        )


def cores_here() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_assumptions(path: str) -> Assumptions:
    """The rates and prices of a file.

    Raises:
        InputError: it cannot be read, or holds something else; one line per wrong key.
    """
    try:
        return validated(Assumptions, load_yaml(Path(path).read_text(encoding="utf-8")) or {})
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}", key="--rates") from None
    except YamlError as error:
        raise InputError(f"{path} is not YAML: {error}", key="--rates") from None
    except InputError as error:
        raise error.read_from(f"--rates: {path}") from None


def estimate(
    plan: Plan,
    storage: Storage,
    assumptions: Assumptions | None = None,
    capacity: Capacity | None = None,
    *,
    device: Device | None = None,
) -> Estimate:
    """Estimate the pending steps of a plan; `capacity` is what the cluster file promises.

    Without a `device` it is the one of the experiment, else the one that steps of the kind ran on here.
    """
    assumptions = assumptions or Assumptions()
    ledger = Ledger(storage)
    pending = plan.pending
    costs = _Costs.of(plan, assumptions.rates, ledger, device)
    left = {step.key: images for step, images in _images_left(pending, ledger)}
    sharing = Counter(costs.shared(step) for step in pending)
    spent = {step.key: costs.of_step(step, left[step.key], sharing[costs.shared(step)]) for step in pending}
    by_kind: dict[str, float] = defaultdict(float)
    for step in pending:
        by_kind[step.kind] += spent[step.key].seconds
    sources = {step.rate_name(step.meaning): spent[step.key].source for step in pending}
    cores, gpus = sum(each.cores for each in spent.values()), sum(each.gpus for each in spent.values())
    prices = assumptions.prices
    return Estimate(
        core_seconds=round(cores, 2),
        gpu_seconds=round(gpus, 2),
        wall_seconds=_at_least(cores, gpus, capacity) if capacity else None,
        bytes=int(sum(each.bytes for each in spent.values())),
        sample_matrix_bytes=max((step.memory_bytes(costs.rate) for step in pending), default=0),
        money=round(cores / 3600 * prices.core_hour + gpus / 3600 * prices.gpu_hour, 2) if prices else None,
        currency=prices.currency if prices else "",
        seconds_by_kind={kind: round(value, 2) for kind, value in by_kind.items()},
        seconds_by_step={key: round(each.seconds, 3) for key, each in spent.items()},
        times_alone=round(_times_alone(plan, costs), 3),
        rates={step.rate_name(step.meaning): costs.rate(step).model_dump() for step in pending},
        sources=sources,
        uncertainty=_uncertainty(spent.values()),
    )


class _Spent(NamedTuple):
    """What a step takes, and where that is known from."""

    cores: float
    gpus: float
    bytes: float
    source: str

    @property
    def seconds(self) -> float:
        """On the device that matters."""
        return self.gpus or self.cores


@dataclass
class _Costs:
    """What steps take, from the best source there is."""

    given: Mapping[str, Rate]
    sizes: ImageSizes
    counts: Mapping[NetworkPass, PassCost]
    speeds: Mapping[Device, Speeds]
    devices: Mapping[str, Device]
    corrections: dict[str, "_Correction"] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, given: Mapping[str, Rate], ledger: Ledger, device: Device | None) -> "_Costs":
        """All that is needed for the steps of a plan."""
        sizes = ImageSizes.of(plan)
        names = {step.rate_name(step.meaning) for step in plan.steps.values()} - given.keys()
        done = [_Done.of(one, sizes) for one in ledger.manifests()] if names else []
        measured = [one for one in done if one is not None and one.name in names]
        reckoned = [step for step in plan.steps.values() if step.rate_name(step.meaning) in names]
        works = [step.work(sizes.of_step(step), 1) for step in reckoned]
        works += [one.work for one in measured]
        counts = counted(one for work in works if work is not None for one in work.all_passes())
        wanted = device or ("cuda" if plan.compute.device == "cuda" else None)
        devices = {name: wanted or _device_of(name, measured) for name in names}
        costs = cls(given, sizes, counts, {each: read_speeds(each) for each in ("cpu", "cuda")}, devices)
        for name in names:
            same = [one for one in measured if one.name == name and one.device == devices[name]]
            if same:
                costs.corrections[name] = costs.correction(same)
        return costs

    def shared(self, step: Step) -> str:
        """What is done once for all steps that say this; of a step alone, what nobody else says."""
        work = step.work(self.sizes.of_step(step), 1)
        return (work.shared if work is not None else "") or step.key

    def of_step(self, step: Step, images: int, sharing: int) -> _Spent:
        """What so many images take, where so many steps have in common what they can."""
        name = step.rate_name(step.meaning)
        passes = step.image_passes * images / max(step.images.count, 1)
        if name in self.given:
            rate = self.given[name]
            seconds = passes * rate.seconds
            beside = passes * rate.core_seconds
            on_gpu = rate.device == "cuda"
            return _Spent(beside if on_gpu else seconds, seconds if on_gpu else 0.0, images * rate.bytes, "given")
        size = self.sizes.of_step(step)
        correction = self.corrections.get(name, _Correction())
        size_bytes = images * (step.bytes_per_image(size) if correction.bytes is None else correction.bytes)
        device = self.device(step)
        cores, gpus = self.seconds(step.work(size, images), device, sharing, self.sizes.decoding(step))
        if math.isnan(cores + gpus):
            # What it does is not known; what an image took is.
            seconds = passes * (correction.per_pass or step.assumed_rate.seconds)
            cores, gpus = (0.0, seconds) if device == "cuda" else (seconds, 0.0)
            return _Spent(cores, gpus, size_bytes, "measured" if correction.per_pass else "assumed")
        source = "measured" if correction.factor else "calibrated" if self._calibrated(device) else "assumed"
        factor = correction.factor or 1.0
        return _Spent(cores * factor, gpus * factor, size_bytes, source)

    def rate(self, step: Step) -> Rate:
        """What one pass of an image costs a step that does everything by itself."""
        images, passes = max(step.images.count, 1), max(step.image_passes, 1)
        spent = self.of_step(step, images, 1)
        if not spent.gpus:
            return Rate(seconds=spent.cores / passes, bytes=spent.bytes / images)
        return Rate(
            seconds=spent.gpus / passes,
            bytes=spent.bytes / images,
            device="cuda",
            core_seconds=spent.cores / passes,
        )

    def device(self, step: Step) -> Device:
        """Where a step runs; what makes tables and superpixels stays on a core."""
        return "cpu" if step.pool is Pool.PROCESS else self.devices.get(step.rate_name(step.meaning), "cpu")

    def seconds(
        self, work: Work | None, device: Device, sharing: int, decoding: float | None = None
    ) -> tuple[float, float]:
        """Seconds of cores and of GPUs; not a number where they are not known.

        `decoding` is what a million pixels of this data set were seen to take.
        """
        if work is None or any(one not in self.counts for one in work.all_passes()):
            return math.nan, math.nan
        beside = self.speeds["cpu"].operations
        operations = dict(beside if decoding is None else {**beside, "decode": decoding})
        cores = sum(operations[name] * amount for name, amount in work.amounts.items() if name not in _ON_GPU)
        moved = sum(operations[name] * amount for name, amount in work.amounts.items() if name in _ON_GPU)
        passes = sum(self.speeds[device].of_pass(one, self.counts[one]) * times for one, times in work.passes)
        if work.in_common is not None:
            common = self.seconds(work.in_common, device, 1, decoding)
            cores, passes = (
                (cores + common[0] / sharing, passes + common[1] / sharing)
                if device == "cuda"
                else (cores + common[0] / sharing, passes)
            )
        return (cores, passes + moved / _GPU_GAIN) if device == "cuda" else (cores + moved + passes, 0.0)

    def correction(self, done: list["_Done"]) -> "_Correction":
        """What steps of one rate took, over what they should have taken."""
        sharing = Counter(one.shared for one in done)
        expected = [self.seconds(one.work, one.device, sharing[one.shared], one.decoding) for one in done]
        modelled = sum(gpus or cores for cores, gpus in expected)
        spent = sum(one.seconds for one in done)
        images, passes = sum(one.images for one in done), sum(one.passes for one in done)
        known = not math.isnan(modelled) and modelled > 0
        return _Correction(spent / modelled if known else None, spent / passes, sum(one.bytes for one in done) / images)

    def _calibrated(self, device: Device) -> bool:
        return bool(self.speeds[device].host) and bool(self.speeds["cpu"].host)


@dataclass(frozen=True)
class _Correction:
    """By what the model is to be multiplied, seconds of a pass of an image, bytes of an image; None: not measured."""

    factor: float | None = None
    per_pass: float | None = None
    bytes: float | None = None


@dataclass(frozen=True)
class _Done:
    """A step that was done on this storage, as far as its time is known."""

    name: str
    work: Work | None
    device: Device
    seconds: float
    images: int
    passes: int
    bytes: int
    shared: str
    decoding: float | None

    @classmethod
    def of(cls, manifest: Manifest, sizes: ImageSizes) -> "_Done | None":
        """None where it says nothing about what others will take."""
        kind = BY_NAME.get(manifest.kind)
        images = manifest.provenance.get("images", {}).get("used", 0)
        passes = manifest.results.get("images_trained") or images
        seconds = manifest.provenance.get("work_seconds") or manifest.provenance.get("wall_seconds", 0.0)
        if kind is None or not kind.timed or not images or not seconds:
            return None
        # A step that reads no images has no size to depend on.
        size, decoding = sizes.of_dataset(manifest.meaning.get("dataset")) or (None, None)
        try:
            name = kind.rate_name(manifest.meaning)
            # Of another data set nobody knows how large its images were: only what an image took is known.
            work = kind.work_of(manifest.meaning, Extent(images, passes, size)) if size else None
        except (InputError, ValueError, KeyError, TypeError):
            return None
        device: Device = "cuda" if str(manifest.provenance.get("device", "")).startswith("cuda") else "cpu"
        # Labels of one pool that were made in one go shared what they could.
        shared = canonical_json([work.shared, images]) if work is not None and work.shared else manifest.key
        return cls(name, work, device, seconds, images, passes, manifest.size, shared, decoding)


def _device_of(name: str, done: list[_Done]) -> Device:
    """Where both were used the GPU is what counts: a run takes one where it can."""
    return "cuda" if any(one.name == name and one.device == "cuda" for one in done) else "cpu"


def _images_left(steps: list[Step], ledger: Ledger) -> Iterable[tuple[Step, int]]:
    """The images that each step has to do; of several image counts of one stream only the longest costs."""
    seen: set[tuple[str, str]] = set()
    for step in steps:
        images = step.images.count - step.finished_images(ledger)
        if step.stream:
            fresh = {(step.stream, shard.digest) for shard in step.images.shards} - seen
            images = min(
                images,
                sum(shard.stop - shard.start for shard in step.images.shards if (step.stream, shard.digest) in fresh),
            )
            seen |= fresh
        yield step, images


def _uncertainty(spent: Iterable[_Spent]) -> str:
    """A guess where enough of the work on either device is one."""
    seconds: dict[tuple[str, bool], float] = defaultdict(float)
    for one in spent:
        for device, amount in (("cores", one.cores), ("gpus", one.gpus)):
            seconds[device, one.source == "assumed"] += amount if one.source != "given" else 0.0
    if not sum(seconds.values()):
        return ""
    guessed = any(
        seconds[device, True] > _SMALL_SHARE * (seconds[device, True] + seconds[device, False])
        for device in ("cores", "gpus")
    )
    return GUESS if guessed else f"within a factor of {_FACTOR}"


def _at_least(cores: float, gpus: float, capacity: Capacity) -> float | None:
    """Seconds on the clock if all cores and GPUs were busy all the time; None where there is no GPU for GPU work."""
    if gpus and not capacity.most_gpus:
        return None
    return round(max(cores / max(capacity.most_cores, 1), gpus / capacity.most_gpus if gpus else 0.0), 2)


def _times_alone(plan: Plan, costs: _Costs) -> float:
    """Work of all cells one by one over that of all distinct steps, whatever is done already."""
    sharing = Counter(costs.shared(step) for step in plan.steps.values())
    alone = {key: costs.of_step(step, step.images.count, 1).seconds for key, step in plan.steps.items()}
    shared = {
        key: costs.of_step(step, step.images.count, sharing[costs.shared(step)]).seconds
        for key, step in plan.steps.items()
    }
    together: dict[str, float] = {}
    for key, step in plan.steps.items():
        # Of several image counts of one stream the longest holds the shards of all.
        name = step.stream or key
        together[name] = max(together.get(name, 0.0), shared[key])
    every = sum(alone[key] for cell in plan.cells for key in {step.key for step in cell.roles.values()})
    once = sum(together.values())
    return every / once if once else 1.0
