"""The training loop that pre-training and fine-tuning share, a function of its configuration and of the step.

Everything a step needs is drawn from (seed, step): which images, their augmentation, the learning rate, the dropout.
The state is therefore the step, the network (with all its buffers) and the optimiser; a run that was killed and
continues from a state ends with the same bits as one that was not. Images come from a stream of seeded permutations,
one per epoch, cut into batches; workers take equal, consecutive shares of each batch and nothing else depends on their
number.
"""

import copy
import logging
import os
import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from workloads.configs.training import TrainingConfig
from workloads.configs.views import ViewsConfig
from workloads.errors import InputError
from workloads.formats import counted
from workloads.networks.segmentors import Segmentor
from workloads.seeding import generator, stable_hash
from workloads.training.batches import (
    Batch,
    Batches,
    LoaderThreads,
    Order,
    Prefetcher,
    Sample,
    Slot,
    Source,
    stacked,
)
from workloads.training.collectives import SingleProcess, Workers, share_batch_norm
from workloads.training.optimisation import build_optimiser, learning_rate_factor
from workloads.training.views import crop_of_batch
from workloads.training.waiting import WaitWatch

logger = logging.getLogger(__name__)

# A training is warned of when so many steps on end had less than this share of what they can learn from.
WATCHED_STEPS = 50
LITTLE = 0.1
_MORE_TO_LEARN = "Larger superpixels, a smaller output stride or views that are scaled down less give more"

Wrap = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Machine:
    """How a run is executed; none of it decides what is computed beyond the last bits and the dropout masks.

    Masks are drawn in the order of memory, so the layout changes which activations are dropped. `prefetch` is in
    batches; `loader_threads` decode and augment.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    channels_last: bool = True
    prefetch: int = 3
    loader_threads: int = 1

    @classmethod
    def of(cls, device: torch.device, cores: int) -> "Machine":
        """The machine of a worker with so many cores: beside a GPU all but one of them load, on a CPU they compute."""
        return cls(device=device, loader_threads=1 if device.type == "cpu" else max(1, cores - 1))


class Objective(nn.Module, ABC):
    """A network with its loss, and how its inputs are made.

    `forward` maps a batch to a loss whose mean over workers is the loss of the whole batch, and leaves detached scalars
    for the log in `shown`. Parameters named `segmentor.backbone.*` get the learning rate of the backbone.
    """

    segmentor: Segmentor
    views: ViewsConfig
    shown: dict[str, Tensor]
    # Of the last step, the share of what it could have learnt from that held something to learn; None: not watched.
    filled: Tensor | None = None
    learns_from = ""
    # Names of the segmentor's state that did not begin at random values.
    loaded: Collection[str] = ()

    @abstractmethod
    def inputs(self, sample: Sample, slot: Slot) -> Batch:
        """The tensors of one slot, without the batch dimension; called in a background thread."""

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step; `progress` is the share of the run done, for momentum networks."""


class LossNotFiniteError(InputError):
    """The loss of a step is not finite; the weights are those from before it."""

    def __init__(self, step: int, loss: float, image_ids: Sequence[str]) -> None:
        super().__init__(
            f"the loss is {loss} at step {step}; images of the batch: {', '.join(image_ids)}. The last checkpoint is "
            "from before it; a smaller learning rate or clip_norm may help"
        )
        self.step = step
        self.loss = loss
        self.image_ids = tuple(image_ids)

    def __reduce__(self) -> tuple[type["LossNotFiniteError"], tuple[int, float, tuple[str, ...]]]:
        return type(self), (self.step, self.loss, self.image_ids)


@dataclass(frozen=True)
class StepReport:
    """The state of a run after `step` steps; loss, speed, wait and what is shown are means since the last report."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    images_per_second: float
    wait_share: float
    shown: dict[str, float]


class Loop:
    """One worker's part of a training run.

    `wrap` turns the objective into what is called (DistributedDataParallel); the objective itself keeps the state. The
    images, the configuration and the initial weights must be equal on all workers.
    """

    def __init__(
        self,
        objective: Objective,
        source: Source,
        config: TrainingConfig,
        *,
        machine: Machine | None = None,
        workers: Workers | None = None,
        wrap: Wrap | None = None,
    ) -> None:
        self.machine = machine or Machine()
        self.workers = workers or SingleProcess()
        self.config = config
        self.source = source
        if not source.ids:
            raise InputError("there is no image to train on; allowed: 1 or more")
        if config.batch_size % self.workers.size:
            raise InputError(
                f"batch_size is {config.batch_size} with {counted(self.workers.size, 'worker')}; allowed: a multiple "
                "of that"
            )
        self.order = Order(source.ids, config.batch_size, config.seed)
        self.total_steps = config.total_steps(len(source.ids))
        self.step = 0
        objective = objective.to(self.machine.device)
        if config.precision == "float64":
            objective = objective.double()
        if self.machine.channels_last:
            objective = objective.to(memory_format=torch.channels_last)
        shared = share_batch_norm(objective, self.workers, self.machine.device)
        assert isinstance(shared, Objective)
        self.objective = shared.train()
        self.optimiser = build_optimiser(config.optimiser, self.objective, self.objective.loaded)
        if config.compile:
            _require_compiler(self.machine.device)
            # What earlier trainings of the process compiled counts towards a limit beyond which nothing is compiled.
            torch.compiler.reset()
            # In place: names in the state stay. The loss stays outside, since its collectives would break the graph.
            self.objective.segmentor.backbone.compile()
        self._forward: nn.Module = wrap(self.objective) if wrap else self.objective
        self._unchecked: tuple[int, Tensor] | None = None
        # Of every step since the last report.
        self._losses: list[Tensor] = []
        self._shown: list[dict[str, Tensor]] = []
        self._filled: list[Tensor] = []
        self._warned = False

    # State

    def state_dict(self) -> dict[str, Any]:
        """Everything a run needs to continue with the same bits, as a copy on the CPU; loadable with `weights_only`."""
        self._check()
        return {
            "format": "lookbeyond training 1",
            "config": self.config.model_dump_json(),
            "step": self.step,
            "objective": _copied(self.objective.state_dict()),
            "optimiser": _copied(self.optimiser.state_dict()),
            "since_report": {"losses": _copied(self._losses), "shown": _copied(self._shown)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`; an `InputError` refuses the state of another run or architecture."""
        if state.get("format") != "lookbeyond training 1":
            raise InputError(f"not a training state: format is {state.get('format')!r}")
        if state["config"] != self.config.model_dump_json():
            raise InputError("the training state is of a run with another configuration")
        try:
            self.objective.load_state_dict(state["objective"])
        except RuntimeError as error:
            raise InputError(f"the training state is of another architecture: {str(error)[:300]}") from error
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = int(state["step"])
        # Those of an earlier version were taken at reports only.
        since = state.get("since_report", {"losses": [], "shown": []})
        device = self.machine.device
        self._losses = [loss.to(device) for loss in since["losses"]]
        self._shown = [{name: value.to(device) for name, value in one.items()} for one in since["shown"]]
        self._unchecked = None

    # Batches

    def image_ids(self, step: int) -> list[str]:
        """Ids of the images of a step's whole batch, in order."""
        return [image_id for image_id, _ in self.order.batch(step)]

    def _sample(self, asked: tuple[int, int]) -> Batch:
        """The inputs for (step, place): a place of this worker's share of the step's batch."""
        step, place = asked
        first = self.workers.rank * self._share
        image_id, epoch = self.order.batch(step)[first + place]
        crop = crop_of_batch(self.objective.views, generator(self.config.seed, "crop", step))
        slot = Slot(image_id, epoch, crop, step * self.config.batch_size + first + place)
        return self.objective.inputs(self.source.load(image_id), slot)

    def batches(self, steps: range) -> Batches:
        """Batches of the steps, of this worker's share, made ahead of time; whoever asks for them closes them."""
        if self.machine.loader_threads == 1:
            return Prefetcher(
                lambda step: self._pinned(stacked([self._sample((step, place)) for place in range(self._share)])),
                steps,
                self.machine.prefetch,
            )
        threads = LoaderThreads(
            self._sample, steps, self._share, threads=self.machine.loader_threads, ahead=self.machine.prefetch
        )
        # Stacked and pinned by a thread of its own, beside the steps.
        return Prefetcher(lambda _: self._pinned(threads.next()), steps, self.machine.prefetch, threads.close)

    def _pinned(self, batch: Batch) -> Batch:
        return {name: tensor.pin_memory() for name, tensor in batch.items()} if self._on_gpu else batch

    @property
    def _share(self) -> int:
        return self.config.batch_size // self.workers.size

    @property
    def _on_gpu(self) -> bool:
        return self.machine.device.type == "cuda"

    # Steps

    def run(
        self, until: int | None = None, report_every: int = 1, between: Callable[[], None] | None = None
    ) -> Iterator[StepReport]:
        """Train up to step `until` (the end by default), reporting every few steps and at the last.

        After a report, and in `between`, which is called after all other steps, the caller may take `state_dict()`.
        Raises `LossNotFiniteError`, and whatever the source raises.
        """
        stop = min(until if until is not None else self.total_steps, self.total_steps)
        if self.step >= stop:
            return
        batches = self.batches(range(self.step, stop))
        try:
            yield from self._steps(batches, stop, report_every, between)
        finally:
            batches.close()

    def _steps(
        self, batches: Batches, stop: int, report_every: int, between: Callable[[], None] | None
    ) -> Iterator[StepReport]:
        began, waited, first = time.perf_counter(), 0.0, self.step
        watch = WaitWatch(self.machine.loader_threads)
        while self.step < stop:
            asked = time.perf_counter()
            batch = batches.next()
            waiting = time.perf_counter() - asked
            waited += waiting
            self._losses.append(self._one_step(batch))
            self._shown.append(self.objective.shown)
            self._watch()
            # A processor computes while it waits, and a thread of its own loads.
            if self.machine.device.type != "cpu":
                watch.note(waiting, time.perf_counter() - asked)
            if self.step == stop or self.step % report_every == 0:
                losses, shown = self._losses, self._shown
                self._losses, self._shown = [], []
                loss = float(torch.stack(losses).mean())
                self._check()
                seconds = time.perf_counter() - began
                images = (self.step - first) * self.config.batch_size
                yield StepReport(
                    step=self.step,
                    total_steps=self.total_steps,
                    epoch=self.step * self.config.batch_size / len(self.source.ids),
                    loss=loss,
                    learning_rate=self.optimiser.param_groups[0]["lr"],
                    images_per_second=images / seconds,
                    wait_share=waited / seconds,
                    shown={name: float(torch.stack([one[name] for one in shown]).mean()) for name in shown[-1]},
                )
                began, waited, first = time.perf_counter(), 0.0, self.step
            elif between is not None:
                between()

    def _one_step(self, batch: Batch) -> Tensor:
        """One optimiser step; the loss of the whole batch, a detached scalar on the device."""
        optimiser, device = self.config.optimiser, self.machine.device
        factor = learning_rate_factor(optimiser, self.step, self.total_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = optimiser.learning_rate * group["factor"] * factor
        # Dropout is the only thing drawn here; a function of the step, it needs no place in the state.
        torch.manual_seed(stable_hash(self.config.seed, "step", self.step, self.workers.rank) % 2**63)
        tensors = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        if self.config.precision == "float64":
            tensors = {
                name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
            }
        half = self.config.precision == "bfloat16"
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            loss = self._forward(tensors)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        whole = self.workers.sum(loss.detach()) / self.workers.size
        # On a GPU the check waits one step, so that the host need not wait for the device; states are always checked.
        self._check()
        self._unchecked = (self.step, whole)
        if not self._on_gpu:
            self._check()
        if optimiser.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.objective.parameters(), optimiser.clip_norm)
        self.optimiser.step()
        self.step += 1
        self.objective.after_step(self.step / self.total_steps)
        return whole

    def _watch(self) -> None:
        """Refuse a training whose last steps had nothing to learn from; warn, once, where they had little."""
        if self.objective.filled is None:
            return
        self._filled.append(self.objective.filled.detach())
        if len(self._filled) < WATCHED_STEPS:
            return
        share = float(self.workers.sum(torch.stack(self._filled).mean())) / self.workers.size
        self._filled.clear()
        found = (
            f"{100 * share:.2g} % of {self.objective.learns_from} in steps {self.step - WATCHED_STEPS} to {self.step}"
        )
        if share == 0:
            raise InputError(f"the training learns nothing: {found}; allowed: more than none. {_MORE_TO_LEARN}")
        if share < LITTLE and not self._warned:
            self._warned = True
            logger.warning("the training learns from little: %s. %s", found, _MORE_TO_LEARN)

    def _check(self) -> None:
        if self._unchecked is None:
            return
        step, loss = self._unchecked
        if not bool(torch.isfinite(loss)):
            # All workers see the same sum and stop at the same step.
            raise LossNotFiniteError(step, float(loss), self.image_ids(step))
        self._unchecked = None


def _require_compiler(device: torch.device) -> None:
    """Say so before the first step where torch.compile would find no compiler for the CPU."""
    # The same choice as torch's own, which names neither the option nor what to do.
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise InputError(
            f"compile is true, but this machine has no C++ compiler ({compiler}); allowed: false, or true with one "
            "installed (CXX names another)"
        )


def _copied(state: Any) -> Any:
    """A nested state with every tensor copied to the CPU."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_copied(value) for value in state)
    return copy.deepcopy(state)
