"""One round of a run: the pending steps as items, and what their ends mean for the steps.

The model: a step is finished when its last item is; a step fails when one of its items fails for good, and with it
every step computed from it, while all others go on. Shards that several steps share are one item; labellings that
share an extractor are one item per shard, so that each image is passed through the network once. Nothing here knows
Ray.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.execution.provenance import Provenance
from orchestrator.execution.schedule import Item, Schedule
from orchestrator.ledger.image_sets import ShardRange
from orchestrator.ledger.keys import digest
from orchestrator.ledger.layout import short
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.ledger.shards import ShardRecord
from orchestrator.spec.experiment import Compute
from orchestrator.steps.steps import Step, StepKind
from orchestrator.storage.faults import kill_point

EXTRACT, PROCESS, CLUSTER, TRAIN = "extract", "process", "cluster", "train"


@dataclass(frozen=True)
class Task:
    """What an item does: one kind of work for one or more steps, over one shard (None: over the whole step)."""

    kind: StepKind
    steps: tuple[Step, ...]
    shard: ShardRange | None

    @property
    def images(self) -> int:
        """Images of the shard, or of all steps together when the task has no shard."""
        if self.shard is not None:
            return self.shard.stop - self.shard.start
        return sum(step.images.count for step in self.steps)


@dataclass
class Execution:
    """The items of a set of steps, and the state of the steps while the items are run.

    `on_step` is called once for every step that ends, with its manifest or None when it failed or was left.
    """

    ledger: Ledger
    compute: Compute
    done: dict[str, Manifest]
    on_step: Callable[[Step, Manifest | None], None]
    failed: dict[str, str] = field(default_factory=dict)
    input_errors: set[str] = field(default_factory=set)
    schedule: Schedule[Task] = field(default_factory=Schedule)
    _steps: dict[str, Step] = field(default_factory=dict)
    _outstanding: dict[str, set[str]] = field(default_factory=dict)
    _records: dict[tuple[str, str], ShardRecord] = field(default_factory=dict)
    _files: dict[str, list[ShardRecord]] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)
    _devices: dict[str, str] = field(default_factory=dict)

    def begin(self, steps: Iterable[Step], score_groups: int) -> None:
        """Make the schedule of the steps; those whose shards are all there are finished at once."""
        self._steps = {step.key: step for step in steps}
        items: dict[str, Item[Task]] = {}
        trainings = [step for step in self._steps.values() if step.kind in (StepKind.PRETRAIN, StepKind.FINETUNE)]
        for step in trainings:
            # Named first: features wait for the network that extracts them, which may itself be trained here.
            self._outstanding[step.key] = {self._item_name(step.kind, step.key)}
        for step in self._steps.values():
            if step.kind in (StepKind.SAMPLE, StepKind.SUPERPIXELS):
                self._add_shards(items, step)
        for step in self._steps.values():
            if step.kind is StepKind.CLUSTER:
                self._add(items, CLUSTER, Task(step.kind, (step,), None), self._behind(step.inputs["sample"]))
        self._add_labels(items)
        self._add_scores(items, score_groups)
        for step in trainings:
            after = {name for key in step.inputs.values() for name in self._behind(key)}
            self._add(items, TRAIN, Task(step.kind, (step,), None), after)
        self.schedule = Schedule.of(items.values())
        for step in self._steps.values():
            # Finishing one step may fail it (too many broken images) and all that are computed from it.
            if not self._outstanding[step.key] and step.key not in self.failed:
                self._finish(step, {})

    def live_steps(self, task: Task) -> tuple[Step, ...]:
        """The steps of a task that are still worth working for: neither failed nor without what they need."""
        return tuple(step for step in task.steps if step.key not in self.failed and step.key not in self.done)

    def started(self, steps: Iterable[Step]) -> None:
        """Work for the steps is about to be handed out."""
        for step in steps:
            self._started.setdefault(step.key, time.time())

    def completed(
        self,
        item: Item[Task],
        steps: Iterable[Step],
        records: Iterable[ShardRecord],
        device: str,
        results: dict[str, Any],
    ) -> None:
        """An item is done for the given steps. `results` maps a step's key to its results (steps without shards)."""
        kill_point("driver.kill", item.name)
        shard = item.payload.shard
        if shard is None:
            # A step that is one piece of work: its files (a model, predictions) are its own; scores have none.
            self._files |= {step.key: list(records) for step in steps}
        else:
            self._records |= {(step.stream, shard.digest): record for step, record in zip(steps, records, strict=False)}
        for step in item.payload.steps:
            self._devices.setdefault(step.key, device)
            self._outstanding[step.key].discard(item.name)
            if not self._outstanding[step.key] and step.key not in self.failed and step.key not in self.done:
                self._finish(step, results.get(step.key, {}))
        self.schedule.settle(item.name)

    def fail(self, item: Item[Task], steps: Iterable[Step], error: BaseException | str, *, user: bool) -> None:
        """An item failed for good for the given steps."""
        for step in steps:
            self._fail(step.key, str(error), user=user)
        for step in item.payload.steps:
            self._outstanding[step.key].discard(item.name)
        self.schedule.settle(item.name)

    def leave(self, item: Item[Task]) -> None:
        """An item was given up, which is no failure; nothing else may wait for its steps."""
        for step in item.payload.steps:
            self.on_step(step, None)
        self.schedule.settle(item.name)

    def skip(self, item: Item[Task]) -> None:
        """All steps of an item have failed already; it is not run."""
        self.schedule.settle(item.name)

    def _add_shards(self, items: dict[str, Item[Task]], step: Step) -> None:
        finished = self.ledger.finished_shards(step.stream)
        outstanding = self._outstanding.setdefault(step.key, set())
        pool = EXTRACT if step.kind is StepKind.SAMPLE else PROCESS
        after = frozenset(self._behind(step.inputs.get("network", "")))
        for shard in step.images.shards:
            if short(shard.digest) in finished:
                continue
            name = _shard_item(step, shard)
            outstanding.add(name)
            known = items.get(name)
            sharing = (*known.payload.steps, step) if known else (step,)
            items[name] = Item(name, pool, after, Task(step.kind, sharing, shard))

    def _add_labels(self, items: dict[str, Item[Task]]) -> None:
        # A shard with its place in the listing: two pools may hold images of the same names at other places.
        groups: dict[tuple[str, ShardRange], list[Step]] = defaultdict(list)
        finished: dict[str, set[str]] = {}
        for step in self._steps.values():
            if step.kind is not StepKind.LABEL:
                continue
            self._outstanding[step.key] = set()
            if step.stream not in finished:
                finished[step.stream] = self.ledger.finished_shards(step.stream)
            same = {name: step.meaning[name] for name in ("dataset", "pool", "extractor", "weights")}
            extractor = digest(same | {"network": step.inputs.get("network", "")})
            for shard in step.images.shards:
                if short(shard.digest) not in finished[step.stream]:
                    groups[extractor, shard].append(step)
        for (extractor, shard), steps in groups.items():
            after = {self._item_name(StepKind.CLUSTER, step.inputs["cluster"]) for step in steps}
            for step in steps:
                segments = self._steps.get(step.inputs.get("superpixels", ""))
                if segments is not None:
                    after.add(_shard_item(segments, shard))
            name = f"label/{extractor[:16]}/{short(shard.digest)}"
            items[name] = Item(name, EXTRACT, frozenset(after), Task(StepKind.LABEL, tuple(steps), shard))
            for step in steps:
                self._outstanding[step.key].add(name)

    def _add_scores(self, items: dict[str, Item[Task]], groups: int) -> None:
        """Scores against one ground truth are computed together, in as many tasks as there are cores to run them."""
        by_truth: dict[str, list[Step]] = defaultdict(list)
        for step in self._steps.values():
            if step.kind is StepKind.SCORE:
                # Images of the same names are not the same images: generated scenes are numbered for every seed.
                truth = {"images": step.images.digest} | {name: step.meaning[name] for name in ("dataset", "pool")}
                by_truth[digest(truth)].append(step)
        for steps in by_truth.values():
            size = math.ceil(len(steps) / max(groups, 1))
            for first in range(0, len(steps), size):
                chunk = tuple(steps[first : first + size])
                after = {name for step in chunk for name in self._behind(step.inputs.get("labels", ""))}
                self._add(items, PROCESS, Task(StepKind.SCORE, chunk, None), after)

    def _add(self, items: dict[str, Item[Task]], pool: str, task: Task, after: Iterable[str]) -> None:
        name = self._item_name(task.kind, task.steps[0].key)
        items[name] = Item(name, pool, frozenset(after), task)
        for step in task.steps:
            self._outstanding[step.key] = {name}

    def _behind(self, key: str) -> set[str]:
        """The items that a step waits for; none when it is done or not part of this round."""
        return self._outstanding.get(key, set())

    @staticmethod
    def _item_name(kind: StepKind, key: str) -> str:
        return f"{kind}/{key}"

    def _finish(self, step: Step, results: dict[str, Any]) -> None:
        if step.stream:
            records = [self._record(step.stream, shard.digest) for shard in step.images.shards]
        else:
            records = self._files.get(step.key, [])
        broken = [item for record in records for item in record.quarantined]
        allowed = math.ceil(self.compute.quarantine_limit * step.images.count)
        if len(broken) > allowed or (broken and len(broken) == step.images.count):
            # What is mended may keep its size and so its name: nothing of what was quarantined may stand.
            for shard, record in zip(step.images.shards, records, strict=False):
                if record.quarantined and step.stream:
                    self.ledger.forget_shard(step.stream, shard.digest)
            named = "; ".join(f"{item.image}: {item.reason}" for item in broken[:5])
            more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
            self._fail(
                step.key,
                f"{len(broken)} of {step.images.count} images of pool {step.images.pool} are broken, "
                f"allowed are {allowed} (compute.quarantine_limit={self.compute.quarantine_limit:g}): {named}{more}",
                user=True,
            )
            return
        manifest = self.ledger.commit(
            Manifest(
                kind=step.kind.value,
                key=step.key,
                meaning=step.meaning,
                inputs=step.inputs,
                shards=records,
                results=results,
                provenance=self._provenance(step, records),
            )
        )
        self.done[step.key] = manifest
        self.on_step(step, manifest)

    def _record(self, stream: str, shard_digest: str) -> ShardRecord:
        known = self._records.get((stream, shard_digest))
        record = known or self.ledger.shard(stream, shard_digest)
        assert record is not None, "a finished shard has a record"
        return record

    def _fail(self, key: str, error: str, *, user: bool) -> None:
        if key in self.failed:
            return
        self.failed[key] = error
        if user:
            self.input_errors.add(key)
        if key in self._steps:
            self.on_step(self._steps[key], None)
        for step in self._steps.values():
            if key in step.inputs.values():
                self._fail(step.key, error, user=user)

    def _provenance(self, step: Step, records: list[ShardRecord]) -> dict[str, Any]:
        started = self._started.get(step.key, time.time())
        process = Provenance.capture()
        return {
            "images": {
                "pool": step.images.pool,
                "requested": step.images.requested,
                "available": step.images.available,
                "used": step.images.count,
            },
            "started": started,
            "wall_seconds": round(time.time() - started, 3),
            "work_seconds": round(sum(record.seconds for record in records), 3),
            "host": process.host,
            "device": self._devices.get(step.key, ""),
            "versions": process.versions,
        }


def _shard_item(step: Step, shard: ShardRange) -> str:
    return f"{step.kind}/{step.stream[:16]}/{short(shard.digest)}"
