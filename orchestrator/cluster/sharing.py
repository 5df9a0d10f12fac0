"""How the runs on one storage share a plan: each step is worked on by one of them.

The model: a step is leased when its first piece finds a slot. What another run holds is left to it, and looked at
again and again: it is finished, or its run gives it back or dies, and then it is made here. The failures this guards
against: two runs doing one step twice, or waiting for each other; a run that takes all there is and leaves a second
one nothing.
"""

from dataclasses import dataclass, field

from orchestrator.execution.execution import Execution, Task
from orchestrator.execution.progress import Progress
from orchestrator.execution.schedule import Item
from orchestrator.ledger.leases import Leases
from orchestrator.ledger.manifests import Ledger
from orchestrator.planning.plan import stopped_before
from orchestrator.spec.experiment import EarlyStopping
from orchestrator.steps.step import Step


@dataclass
class Sharing:
    """What one run holds of a plan, and what it leaves to others. `rule` is that of early stopping, if any."""

    leases: Leases
    ledger: Ledger
    progress: Progress
    rule: EarlyStopping | None = None
    _waited_for: set[str] = field(default_factory=set)

    def lease(self, execution: Execution, item: Item[Task]) -> tuple[Step, ...]:
        """The steps of an item that are this run's; an item that is left with none stays on the schedule."""
        for step in execution.live_steps(item):
            if not self.leases.holds(step.key):
                self._try(execution, step)
        return execution.live_steps(item)

    def _try(self, execution: Execution, step: Step) -> None:
        if not self.leases.acquire(step.key):
            execution.hand_over(step)
            return
        # Another run may have finished the step, or a part of it, between our plan and our lease.
        manifest = self.ledger.manifest(step.kind, step.key)
        if manifest is not None:
            execution.found(step, manifest)
        elif self._is_stopped(step):
            execution.left_elsewhere(step)
        elif execution.is_behind(step):
            execution.take_back(step)
            return
        else:
            return
        self.leases.release(step.key)

    def _is_stopped(self, step: Step) -> bool:
        if self.rule is None or not step.may_be_given_up:
            return False
        return step.key in stopped_before([step], self.rule, self.ledger.storage)

    def look(self, execution: Execution) -> None:
        """See what has become of the steps that other runs hold."""
        theirs = execution.elsewhere
        if not theirs:
            return
        done = self.ledger.manifests_of((step.kind, step.key) for step in theirs)
        for step in theirs:
            if step.key in done:
                execution.found(step, done[step.key])
            elif self.leases.is_free(step.key):
                execution.take_back(step)
        # The dead are silent on all their steps at once: measured from now on, not from when each is ready.
        self.leases.watch([step.key for step in execution.steps])

    def reasons(self, execution: Execution) -> dict[str, str]:
        """The steps that are waited for because other runs hold them."""
        return {f"{step.kind} {step.key[:12]}": "another run works on it" for step in execution.elsewhere}

    def announce(self, execution: Execution) -> None:
        """Say once of each step what is waited for, where there is nothing else to do."""
        for step in execution.elsewhere:
            if step.key not in self._waited_for:
                holder = self.leases.holder_of(step.key)
                if holder is not None:
                    self._waited_for.add(step.key)
                    self.progress.note(f"waiting for {step.kind} {step.key[:12]}, which {holder} is working on")
