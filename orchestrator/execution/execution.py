"""One round of a run: the pending steps as items, and what their ends mean for the steps.

A step is finished when its last item is; a step fails when one of its items fails for good, and with it every step
computed from it, while all others go on. What several steps share is one item. Nothing here knows Ray, nor the kinds of
steps.
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
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import ShardRecord
from orchestrator.planning.quarantine import too_many_broken
from orchestrator.spec.experiment import Compute
from orchestrator.steps.step import Need, Piece, Step
from orchestrator.storage.faults import kill_point


@dataclass(frozen=True)
class Task:
    """What an item does: the work for one or more steps of a kind, over one shard (None: over the whole step)."""

    steps: tuple[Step, ...]
    shard: ShardRange | None

    @property
    def kind(self) -> str:
        """The kind of the steps."""
        return self.steps[0].kind

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
    # By step and item: the shard that the item makes of the step.
    _outstanding: dict[str, dict[str, ShardRange | None]] = field(default_factory=dict)
    _records: dict[tuple[str, str], ShardRecord] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)
    _devices: dict[str, str] = field(default_factory=dict)

    def begin(self, steps: Iterable[Step], groups: int) -> None:
        """Make the schedule of the steps; those whose shards are all there are finished at once.

        What can be divided is, into as many parts as `groups`.
        """
        self._steps = {step.key: step for step in steps}
        shared: dict[str, list[tuple[Step, Piece]]] = defaultdict(list)
        for step in self._steps.values():
            for piece in step.pieces(self.ledger):
                shared[piece.name].append((step, piece))
        tasks: dict[str, list[tuple[Step, Piece]]] = {}
        for name, sharing in shared.items():
            size = math.ceil(len(sharing) / max(groups, 1)) if sharing[0][1].divisible else len(sharing)
            for first in range(0, len(sharing), size):
                tasks[f"{name}/{first}" if size < len(sharing) else name] = sharing[first : first + size]
        self._outstanding = {key: {} for key in self._steps}
        for name, sharing in tasks.items():
            for step, piece in sharing:
                self._outstanding[step.key][name] = piece.shard
        self.schedule = Schedule.of(self._item(name, sharing) for name, sharing in tasks.items())
        for step in self._steps.values():
            # Finishing one step may fail it (too many broken images) and all that are computed from it.
            if not self._outstanding[step.key] and step.key not in self.failed:
                self._finish(step, Outcome())

    def _item(self, name: str, sharing: list[tuple[Step, Piece]]) -> Item[Task]:
        after = {other for _, piece in sharing for need in piece.needs for other in self._behind(need)}
        steps = tuple(step for step, _ in sharing)
        return Item(name, steps[0].pool, frozenset(after), Task(steps, sharing[0][1].shard))

    def _behind(self, need: Need) -> list[str]:
        """The items that make what is needed; none when it is done or not part of this round."""
        items = self._outstanding.get(need.step, {})
        return [name for name, shard in items.items() if need.shard is None or shard == need.shard]

    def live_steps(self, task: Task) -> tuple[Step, ...]:
        """The steps of a task that are still worth working for: neither failed nor without what they need."""
        return tuple(step for step in task.steps if step.key not in self.failed and step.key not in self.done)

    def started(self, steps: Iterable[Step]) -> None:
        """Work for the steps is about to be handed out."""
        for step in steps:
            self._started.setdefault(step.key, time.time())

    def completed(self, item: Item[Task], outcome: Outcome) -> None:
        """An item is done."""
        kill_point("driver.kill", item.name)
        shard = item.payload.shard
        if shard is not None:
            self._records |= {(stream, shard.digest): record for stream, record in outcome.shards.items()}
        for step in item.payload.steps:
            self._devices.setdefault(step.key, outcome.device)
            self._outstanding[step.key].pop(item.name, None)
            if not self._outstanding[step.key] and step.key not in self.failed and step.key not in self.done:
                self._finish(step, outcome)
        self.schedule.settle(item.name)

    def fail(self, item: Item[Task], steps: Iterable[Step], error: BaseException | str, *, user: bool) -> None:
        """An item failed for good for the given steps."""
        for step in steps:
            self._fail(step.key, str(error), user=user)
        for step in item.payload.steps:
            self._outstanding[step.key].pop(item.name, None)
        self.schedule.settle(item.name)

    def leave(self, item: Item[Task]) -> None:
        """An item was given up, which is no failure; nothing else may wait for its steps."""
        for step in item.payload.steps:
            self.on_step(step, None)
        self.schedule.settle(item.name)

    def skip(self, item: Item[Task]) -> None:
        """All steps of an item have failed already; it is not run."""
        self.schedule.settle(item.name)

    def _finish(self, step: Step, outcome: Outcome) -> None:
        records = self._shards(step) if step.stream else []
        broken = [item for record in records for item in record.quarantined]
        images = step.images
        too_many = too_many_broken(len(broken), images.count, images.pool, self.compute.quarantine_limit)
        if too_many:
            # What is mended may keep its size and so its name: nothing of what was set aside may stand.
            for shard, record in zip(step.images.shards, records, strict=True) if step.stream else ():
                if record.quarantined:
                    self.ledger.forget_shard(step.stream, shard.digest)
            named = "; ".join(f"{item.image}: {item.reason}" for item in broken[:5])
            more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
            self._fail(step.key, f"{too_many}: {named}{more}", user=True)
            return
        manifest = self.ledger.commit(
            Manifest(
                kind=step.kind,
                key=step.key,
                meaning=step.meaning,
                inputs=step.input_keys,
                shards=records,
                results=outcome.results.get(step.key, {}),
                provenance=self._provenance(step, [*records, *outcome.files.values()]),
                files=outcome.files,
            )
        )
        self.done[step.key] = manifest
        self.on_step(step, manifest)

    def _shards(self, step: Step) -> list[ShardRecord]:
        """The records of a step all of whose shards are finished; those that other runs have made are read."""
        digests = [shard.digest for shard in step.images.shards]
        made = {one: self._records[step.stream, one] for one in digests if (step.stream, one) in self._records}
        made |= self.ledger.shards(step.stream, [one for one in digests if one not in made])
        return [made[one] for one in digests]

    def _fail(self, key: str, error: str, *, user: bool) -> None:
        if key in self.failed:
            return
        self.failed[key] = error
        if user:
            self.input_errors.add(key)
        if key in self._steps:
            self.on_step(self._steps[key], None)
        for step in self._steps.values():
            if key in step.input_keys.values():
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
