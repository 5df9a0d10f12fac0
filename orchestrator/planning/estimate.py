"""How long the pending steps will take, how many bytes they will write and what they cost, before they do.

The model: seconds and bytes per image, per kind of step and network. A rate is taken from the file that the user gives,
else from the steps already done on this storage, else from a stated assumption; the estimate says which. A rate belongs
to a device: seconds on a GPU are GPU-hours, others core-hours. Rates are of one image size and one kind of machine:
those measured on thumbnails say nothing about photographs.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.planning.capacity import Capacity
from orchestrator.planning.plan import Plan
from orchestrator.spec.entries import RuntimeConfig
from orchestrator.spec.strict_yaml import YamlError, load_yaml
from orchestrator.spec.validation import validated
from orchestrator.steps.kinds import BY_NAME
from orchestrator.steps.rates import Rate
from orchestrator.steps.step import Step
from orchestrator.storage.store import Storage
from workloads.errors import InputError


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
        times_alone: the work of all cells, each from scratch, as a multiple of the work of all distinct steps.
        rates: the rates used, with their names; `sources` says of each whether it was given, measured or assumed.
    """

    core_seconds: float
    gpu_seconds: float
    wall_seconds: float | None
    bytes: int
    sample_matrix_bytes: int
    money: float | None
    currency: str
    seconds_by_kind: dict[str, float]
    times_alone: float
    rates: dict[str, dict[str, Any]]
    sources: dict[str, str]

    @property
    def basis(self) -> str:
        """Where the rates come from, in words."""
        words = {
            "given": "rates given",
            "measured": "rates measured on this storage",
            "assumed": "assumed rates: nothing comparable was done here yet",
        }
        found = set(self.sources.values())
        if len(found) < 2:
            return words[next(iter(found))] if found else "nothing to run"
        return "; ".join(
            f"{source} rates of {', '.join(sorted(name for name, own in self.sources.items() if own == source))}"
            for source in words
            if source in found
        )


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
    plan: Plan, storage: Storage, assumptions: Assumptions | None = None, capacity: Capacity | None = None
) -> Estimate:
    """Estimate the pending steps of a plan; `capacity` is what the cluster file promises."""
    assumptions = assumptions or Assumptions()
    ledger = Ledger(storage)
    rates = _Rates(assumptions.rates, _measured_rates(ledger.manifests()))
    by_device = {"cpu": 0.0, "cuda": 0.0}
    by_kind: dict[str, float] = defaultdict(float)
    total_bytes = 0.0
    counted: set[tuple[str, str]] = set()
    for step in plan.pending:
        # Two image counts of one stream share their shards: only the longest costs.
        images = step.image_passes - step.finished_images(ledger)
        if step.stream:
            fresh = {(step.stream, shard.digest) for shard in step.images.shards} - counted
            images = min(
                images,
                sum(shard.stop - shard.start for shard in step.images.shards if (step.stream, shard.digest) in fresh),
            )
            counted |= fresh
        rate = rates.of(step)
        by_device[rate.device] += images * rate.seconds
        by_kind[step.kind] += images * rate.seconds
        total_bytes += images * rate.bytes
    sources = dict(rates.sources)
    prices = assumptions.prices
    hours = {device: seconds / 3600 for device, seconds in by_device.items()}
    return Estimate(
        core_seconds=round(by_device["cpu"], 2),
        gpu_seconds=round(by_device["cuda"], 2),
        wall_seconds=_at_least(by_device, capacity) if capacity else None,
        bytes=int(total_bytes),
        sample_matrix_bytes=max((step.memory_bytes(rates.of) for step in plan.pending), default=0),
        money=round(hours["cpu"] * prices.core_hour + hours["cuda"] * prices.gpu_hour, 2) if prices else None,
        currency=prices.currency if prices else "",
        seconds_by_kind={kind: round(value, 2) for kind, value in by_kind.items()},
        times_alone=round(_times_alone(plan, rates), 3),
        rates={name: rate.model_dump() for name, rate in rates.used.items() if name in sources},
        sources=sources,
    )


class _Rates:
    """The rate of a step from the best source there is; remembers what was used."""

    def __init__(self, given: Mapping[str, Rate], measured: Mapping[str, Rate]) -> None:
        self._given, self._measured = given, measured
        self.used: dict[str, Rate] = {}
        self.sources: dict[str, str] = {}

    def of(self, step: Step) -> Rate:
        """Given, else measured, else assumed."""
        name = step.rate_name(step.meaning)
        for source, rates in (("given", self._given), ("measured", self._measured)):
            if name in rates:
                self.sources[name] = source
                return self.used.setdefault(name, rates[name])
        self.sources[name] = "assumed"
        return self.used.setdefault(name, step.assumed_rate)


def _at_least(by_device: dict[str, float], capacity: Capacity) -> float | None:
    """Seconds on the clock if all cores and GPUs were busy all the time; None where there is no GPU for GPU work."""
    if by_device["cuda"] and not capacity.most_gpus:
        return None
    gpus = by_device["cuda"] / capacity.most_gpus if capacity.most_gpus else 0.0
    return round(max(by_device["cpu"] / max(capacity.most_cores, 1), gpus), 2)


def _times_alone(plan: Plan, rates: _Rates) -> float:
    """Work of all cells one by one over that of all distinct steps, whatever is done already."""
    seconds = {key: step.image_passes * rates.of(step).seconds for key, step in plan.steps.items()}
    together: dict[str, tuple[Step, float]] = {}
    for key, step in plan.steps.items():
        # Of several image counts of one stream the longest holds the shards of all.
        name = step.stream or key
        if name not in together or seconds[key] > together[name][1]:
            together[name] = step, seconds[key]
    alone = sum(seconds[key] for cell in plan.cells for key in {step.key for step in cell.roles.values()})
    once = sum(value for _, value in together.values())
    return alone / once if once else 1.0


def _measured_rates(manifests: Iterable[Manifest]) -> dict[str, Rate]:
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for manifest in manifests:
        images = manifest.results.get("images_trained") or manifest.provenance.get("images", {}).get("used", 0)
        spent = manifest.provenance.get("work_seconds") or manifest.provenance.get("wall_seconds", 0.0)
        device = "cuda" if str(manifest.provenance.get("device", "")).startswith("cuda") else "cpu"
        kind = BY_NAME.get(manifest.kind)
        if images and kind is not None:
            entry = sums[kind.rate_name(manifest.meaning), device]
            entry[0] += images
            entry[1] += spent
            entry[2] += manifest.size
    # Where both were used the GPU is what counts: a run takes one where it can.
    return {
        name: Rate(seconds=spent / images, bytes=size / images, device="cuda" if device == "cuda" else "cpu")
        for (name, device), (images, spent, size) in sorted(sums.items())
    }
