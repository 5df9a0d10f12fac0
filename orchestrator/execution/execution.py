"""A run: the pending steps as items, and what their ends mean for the steps.

A step is finished when its last item is; a step fails when one of its items fails for good, and with it every step
computed from it, while all others go on. What several steps share is one item. A step that another run works on has no
items here until that run is done with it, or dead. Nothing here knows Ray, nor the kinds of steps.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
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
from orchestrator.steps.step import Need, Piece, ShardedStep, Step
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

    def __str__(self) -> str:
        step = self.steps[0]
        of = f", images {self.shard.start} to {self.shard.stop - 1} of pool {step.images.pool}" if self.shard else ""
        return f"{step.title} ({step.kind} {step.key[:12]}{of})"

    @property
    def images(self) -> int:
        """Images of the shard, or of all steps together when the task has no shard."""
        if self.shard is not None:
            return self.shard.stop - self.shard.start
        return sum(step.images.count for step in self.steps)


@dataclass
class Execution:
    """The items of a set of steps, and the state of the steps while the items are run.

    `done` is written here and nowhere else. `on_step` is called once for every step that ends here, with its manifest
    or None when it failed or was left.
    """

    ledger: Ledger
    compute: Compute
    done: dict[str, Manifest]
    on_step: Callable[[Step, Manifest | None], None]
    failed: dict[str, str] = field(default_factory=dict)
    input_errors: set[str] = field(default_factory=set)
    schedule: Schedule[Task] = field(default_factory=Schedule)
    _groups: int = 1
    _priorities: dict[str, float] = field(default_factory=dict)
    # The steps that have not ended, and those among them that another run works on.
    _open: dict[str, Step] = field(default_factory=dict)
    _elsewhere: set[str] = field(default_factory=set)
    # By step and item: the shard that the item makes of the step.
    _outstanding: dict[str, dict[str, ShardRange | None]] = field(default_factory=dict)
    _records: dict[tuple[str, str], ShardRecord] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)
    _devices: dict[str, str] = field(default_factory=dict)
    _made: int = 0

    def begin(self, steps: Iterable[Step], groups: int, priorities: Mapping[str, float] | None = None) -> None:
        """Make items of the steps; those whose shards are all there are finished at once.

        What can be divided is, into as many parts as `groups`. `priorities` are by key, the highest first.
        """
        self._groups = max(groups, 1)
        self._priorities |= priorities or {}
        new = [step for step in steps if step.key not in self._open]
        self._open |= {step.key: step for step in new}
        self._make_items(new)

    @property
    def steps(self) -> list[Step]:
        """The steps that have not ended."""
        return list(self._open.values())

    @property
    def elsewhere(self) -> list[Step]:
        """The steps that another run works on."""
        return [step for key, step in self._open.items() if key in self._elsewhere]

    def live_steps(self, item: Item[Task]) -> tuple[Step, ...]:
        """The steps of an item that are worth working for here: not ended, and not another run's."""
        return tuple(step for step in item.payload.steps if item.name in self._outstanding.get(step.key, ()))

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
        for step in self.live_steps(item):
            self._devices.setdefault(step.key, outcome.device)
            del self._outstanding[step.key][item.name]
            if shard is not None:
                self.schedule.reach(Need(step.key, shard))
            if not self._outstanding[step.key]:
                self._finish(step, outcome)
        self.schedule.settle(item.name)

    def fail(self, item: Item[Task], steps: Iterable[Step], error: BaseException | str, *, user: bool) -> None:
        """An item failed for good for the given steps."""
        for step in steps:
            self._fail(step.key, str(error), user=user)
        self.schedule.settle(item.name)

    def leave(self, item: Item[Task]) -> None:
        """An item was given up, which is no failure; nothing else may wait for its steps."""
        for step in self.live_steps(item):
            self._end(step)
            self.on_step(step, None)
        self.schedule.settle(item.name)

    def skip(self, item: Item[Task]) -> None:
        """No step of an item is worth working for here; it is not run."""
        self.schedule.settle(item.name)

    def hand_over(self, step: Step) -> None:
        """Another run works on a step: nothing more of it is handed out here."""
        if step.key in self._open:
            self._elsewhere.add(step.key)
            self._outstanding[step.key] = {}

    def take_back(self, step: Step) -> None:
        """Nobody works on a step that another run did: what is left of it is made here after all."""
        self._elsewhere.discard(step.key)
        self._make_items([step])
        if step.stream:
            missing = {shard.digest for shard in self._outstanding.get(step.key, {}).values() if shard is not None}
            for shard in step.images.shards:
                if shard.digest not in missing:
                    self.schedule.reach(Need(step.key, shard))

    def is_behind(self, step: Step) -> bool:
        """Whether shards of a step were finished by another run since its items were made."""
        if not isinstance(step, ShardedStep):
            return False
        left = {shard.digest for shard in step.unfinished(self.ledger)}
        return any(shard is not None and shard.digest not in left for shard in self._outstanding[step.key].values())

    def found(self, step: Step, manifest: Manifest) -> None:
        """Another run has finished a step."""
        if step.key in self._open:
            self.done[step.key] = manifest
            self._end(step)

    def left_elsewhere(self, step: Step) -> None:
        """Another run gave up a step that nothing else waits for."""
        self._end(step)

    def _make_items(self, steps: list[Step]) -> None:
        shared: dict[str, list[tuple[Step, Piece]]] = defaultdict(list)
        for step in steps:
            for piece in step.pieces(self.ledger):
                shared[piece.name].append((step, piece))
        tasks: dict[str, list[tuple[Step, Piece]]] = {}
        # Pieces that were made before, for another run, keep their name.
        self._made += 1
        mark = f"/{self._made}" if self._made > 1 else ""
        for name, sharing in shared.items():
            size = math.ceil(len(sharing) / self._groups) if sharing[0][1].divisible else len(sharing)
            for first in range(0, len(sharing), size):
                part = f"/{first}" if size < len(sharing) else ""
                tasks[f"{name}{part}{mark}"] = sharing[first : first + size]
        for step in steps:
            self._outstanding[step.key] = {}
        for name, sharing in tasks.items():
            for step, piece in sharing:
                self._outstanding[step.key][name] = piece.shard
        missing = {key: {shard for shard in items.values() if shard} for key, items in self._outstanding.items()}
        self.schedule.add([self._item(name, sharing, missing) for name, sharing in tasks.items()])
        for step in steps:
            # Finishing one step may fail it (too many broken images) and all that are computed from it.
            if step.key not in self._open or self._outstanding[step.key]:
                continue
            manifest = self.ledger.manifest(step.kind, step.key)
            if manifest is not None:
                self.found(step, manifest)
            else:
                self._finish(step, Outcome())

    def _item(
        self, name: str, sharing: list[tuple[Step, Piece]], missing: Mapping[str, Collection[ShardRange]]
    ) -> Item[Task]:
        after = {need for _, piece in sharing for need in piece.needs if self._is_ahead(need, missing)}
        steps = tuple(step for step, _ in sharing)
        priority = max(self._priorities.get(step.key, 0.0) for step in steps)
        return Item(name, steps[0].pool, frozenset(after), Task(steps, sharing[0][1].shard), priority)

    def _is_ahead(self, need: Need, missing: Mapping[str, Collection[ShardRange]]) -> bool:
        """Whether what is needed is yet to be made, here or by another run."""
        if need.step not in self._open:
            return False
        if need.shard is None or need.step in self._elsewhere:
            return True
        return need.shard in missing.get(need.step, ())

    def _end(self, step: Step) -> None:
        """A step is over, and whatever waits for it or for a part of it may be looked at."""
        del self._open[step.key]
        self._elsewhere.discard(step.key)
        self._outstanding.pop(step.key, None)
        for shard in step.images.shards if step.stream else ():
            self.schedule.reach(Need(step.key, shard))
        self.schedule.reach(Need(step.key))

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
                made_of={role: self.done[key].content for role, key in step.input_keys.items() if key in self.done},
                shards=records,
                results=outcome.results.get(step.key, {}),
                provenance=self._provenance(step, [*records, *outcome.files.values()]),
                files=outcome.files,
            )
        )
        self.done[step.key] = manifest
        self._end(step)
        self.on_step(step, manifest)

    def _shards(self, step: Step) -> list[ShardRecord]:
        """The records of a step all of whose shards are finished; those that other runs have made are read."""
        digests = [shard.digest for shard in step.images.shards]
        made = {one: self._records[step.stream, one] for one in digests if (step.stream, one) in self._records}
        made |= self.ledger.shards(step.stream, [one for one in digests if one not in made])
        return [made[one] for one in digests]

    def _fail(self, key: str, error: str, *, user: bool) -> None:
        if key not in self._open:
            return
        self.failed[key] = error
        if user:
            self.input_errors.add(key)
        step = self._open[key]
        self._end(step)
        self.on_step(step, None)
        for follower in list(self._open.values()):
            if key in follower.input_keys.values():
                self._fail(follower.key, error, user=user)

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
