"""The plan: the cells of an experiment, the distinct steps behind them, and which of them are done.

The model: every cell expands into steps; equal steps are one. A cell that cannot be planned (weights missing for one
row) carries its error and leaves the others alone. The plan reads listings and the ledger, and starts nothing.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from orchestrator.ledger.inputs import InputFiles
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.ledger.stop_marks import Stop, is_among, marked, read_mark
from orchestrator.planning.cells import CellPlanner, PlannedCell
from orchestrator.planning.imagined import Imagined
from orchestrator.spec.experiment import Compute, EarlyStopping
from orchestrator.spec.grid import expand
from orchestrator.steps.kinds import KINDS
from orchestrator.steps.step import Stage, Step
from orchestrator.storage.store import Storage
from workloads.errors import GroupedInputError, InputError


@dataclass(frozen=True)
class Skipped:
    """A step that is neither run nor failed: the status that its cells get, and why."""

    status: Literal["not trained", "stopped"]
    reason: str


@dataclass
class Plan:
    """All cells and all distinct steps in an order in which they can be run, with the manifests of those done.

    `skipped` holds the steps that this run leaves alone, `changed` the files that hold something else than was read,
    `parts` the plans that it joins.
    """

    name: str
    document: dict[str, Any]
    compute: Compute
    cells: list[PlannedCell]
    steps: dict[str, Step]
    done: dict[str, Manifest]
    skipped: dict[str, Skipped] = field(default_factory=dict)
    changed: dict[str, list[str]] = field(default_factory=dict)
    imagined: Imagined | None = None
    parts: tuple["Plan", ...] = ()

    @property
    def experiments(self) -> tuple["Plan", ...]:
        """The plans of single experiments that this one is made of: itself, unless it was joined."""
        return self.parts or (self,)

    def experiment_of(self, key: str) -> "Plan":
        """The first experiment that has a step."""
        return next(plan for plan in self.experiments if key in plan.steps)

    def alone(self) -> "Plan":
        """The plan with what is done of its own steps, where it was joined with others."""
        return replace(self, done={key: manifest for key, manifest in self.done.items() if key in self.steps})

    @property
    def pending(self) -> list[Step]:
        """Steps that have no manifest yet and are not skipped."""
        return [step for step in self.steps.values() if step.key not in self.done and step.key not in self.skipped]

    @property
    def warnings(self) -> list[str]:
        """What is likely to be a mistake in the steps that are to be run, each once."""
        return list(dict.fromkeys(line for step in self.pending for line in step.warnings))

    def users(self, key: str) -> list[PlannedCell]:
        """The cells that need a step."""
        return [cell for cell in self.cells if any(step.key == key for step in cell.roles.values())]

    def counts(self) -> dict[str, dict[str, int]]:
        """Per kind of step: how many the cells name, how many are distinct, cached and to run."""
        named = Counter(step.kind for cell in self.cells for step in cell.roles.values())
        distinct = Counter(step.kind for step in self.steps.values())
        pending = Counter(step.kind for step in self.pending)
        return {
            kind: {
                "named": named[kind],
                "distinct": distinct[kind],
                "cached": distinct[kind] - pending[kind],
                "to_run": pending[kind],
            }
            for kind in (each.kind for each in KINDS)
            if named[kind]
        }


def make_plan(
    document: dict[str, Any],
    storage: Storage,
    *,
    write_listings: bool,
    until: Stage = "finetune",
    imagined: Imagined | None = None,
) -> Plan:
    """Expand an experiment document, up to a stage of the method, and look up what is done.

    An imagined data set stands for those that the document names; such a plan cannot be run.

    Raises:
        InputError: the document is wrong, or no cell at all can be planned.
    """
    cells = expand(document)
    inputs = InputFiles(storage, write_listings)
    planner = CellPlanner(storage if write_listings else None, until, inputs, imagined)
    planned = [planner.plan(cell) for cell in cells]
    errors = [cell.error for cell in planned if cell.error]
    if errors and len(errors) == len(planned):
        raise GroupedInputError(sorted(errors, key=str))
    ledger = Ledger(storage)
    steps = {step.key: step for cell in planned for step in cell.roles.values()}
    done = ledger.manifests_of((step.kind, key) for key, step in steps.items())
    for key in _outdated(steps.values(), done):
        manifest = done.pop(key)
        if write_listings:
            ledger.forget(manifest.kind, key)
    entry = cells[0].entry
    plan = Plan(entry.name, document, entry.compute, planned, steps, done, changed=inputs.changed, imagined=imagined)
    skip_stopped(plan, storage)
    return plan


def _outdated(steps: Iterable[Step], done: Mapping[str, Manifest]) -> set[str]:
    """The done steps that were made of something else than their inputs are now, which were done again since."""
    outdated: set[str] = set()
    # Inputs come before what needs them, so that one pass reaches the last of them.
    for step in steps:
        if step.key not in done:
            continue
        made_of = done[step.key].made_of
        for role, key in step.input_keys.items():
            other = key in done and role in made_of and made_of[role] != done[key].content
            if other or key in outdated:
                outdated.add(step.key)
    return outdated


def joined(plans: Sequence[Plan]) -> Plan:
    """One plan of several experiments: steps that they share are one. What is done or skipped is so in all of them.

    Raises:
        InputError: two have the same name, or ask for different ways to run.
    """
    if len(plans) == 1:
        return plans[0]
    first = plans[0]
    for number, plan in enumerate(plans):
        if plan.name in {other.name for other in plans[:number]}:
            raise InputError(f"two of the experiments are called {plan.name!r}", key="name", value=plan.name)
        asked, theirs = (each.compute.model_dump(exclude={"shard_images"}) for each in (first, plan))
        for key, value in theirs.items():
            if value != asked[key]:
                raise InputError(
                    f"{{key}} is {value!r} in {plan.name} and {asked[key]!r} in {first.name}, and they run together",
                    key=f"compute.{key}",
                    value=value,
                    allowed=f"one for all, as by compute.{key}=... after the files",
                )
    done = {key: manifest for plan in plans for key, manifest in plan.done.items()}
    skipped = {key: one for plan in plans for key, one in plan.skipped.items()}
    # What one of them needs is run.
    needed = {step.key for plan in plans for step in plan.pending}
    skipped = {key: one for key, one in skipped.items() if key not in needed or one.status == "stopped"}
    parts = tuple(replace(plan, done=done, skipped=skipped) for plan in plans)
    return Plan(
        name=" + ".join(plan.name for plan in plans),
        document=first.document,
        compute=first.compute,
        cells=[cell for plan in plans for cell in plan.cells],
        steps={key: step for plan in plans for key, step in plan.steps.items()},
        done=done,
        skipped=skipped,
        changed={files: names for plan in plans for files, names in plan.changed.items()},
        parts=parts,
    )


def skip_stopped(plan: Plan, storage: Storage) -> None:
    """Skip the fine-tunings that were given up, where the plan asks for early stopping."""
    rule = plan.compute.early_stopping
    if rule is None:
        return
    pending = (step for step in may_be_stopped(plan.steps.values()) if step.key not in plan.done)
    stopped = stopped_before(pending, rule, storage)
    plan.skipped |= {key: Skipped("stopped", stop.reason) for key, stop in stopped.items()}


def may_be_stopped(steps: Collection[Step]) -> list[Step]:
    """The steps that early stopping may end, and that nothing else is computed from."""
    needed = {key for step in steps for key in step.input_keys.values()}
    return [step for step in steps if step.may_be_given_up and step.key not in needed]


def stopped_before(steps: Iterable[Step], rule: EarlyStopping, storage: Storage) -> dict[str, Stop]:
    """The given steps that were given up under this rule, by key."""
    marks = marked(storage)
    found = {step.key: read_mark(storage, step.key) for step in steps if is_among(marks, step.key)}
    same = (rule.reduction_factor, rule.grace)
    return {
        key: stop for key, stop in found.items() if stop is not None and (stop.reduction_factor, stop.grace) == same
    }
