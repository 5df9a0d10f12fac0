"""Fine-tunings that are given up early: which of them may be compared, and how it is remembered.

The model: a fine-tuning is compared only with those of its column, which differ from it in their row or seed and in
nothing that decides how far they are or what they are measured on. Giving one up is a mark on the storage beside its
state; the training looks for it and ends itself. While early stopping is on under the same rule, a marked step is set
aside. Whoever runs the step after all takes the mark away and goes on from the state. The failures this guards against:
a training given up since it has another network, fewer labelled images or fewer steps than those it is compared with;
one that was given up and passes for failed, or for done.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass

from orchestrator.keys import digest
from orchestrator.spec import EarlyStopping
from orchestrator.steps import FinetuneStep, Step, StepKind
from orchestrator.storage import Storage
from workloads.fractions import parse_labelled_list

_MARK = ".stopped.json"


@dataclass(frozen=True)
class Column:
    """What fine-tunings that may be compared have in common, as a digest, and their number of steps."""

    common: str
    total_steps: int


@dataclass(frozen=True)
class Stop:
    """Why a fine-tuning was given up: after which step, at which mIoU, and below which limit, both in percent."""

    step: int
    total_steps: int
    miou: float
    limit: float
    reduction_factor: float
    grace: float

    @property
    def reason(self) -> str:
        """One sentence with the numbers."""
        return (
            f"mIoU {self.miou:.2f} on the first judged images after step {self.step} of {self.total_steps} is below "
            f"{self.limit:.2f}, where the best 1/{self.reduction_factor:g} of its column begin (compute.early_stopping)"
        )


def may_be_stopped(steps: Collection[Step]) -> list[Step]:
    """The fine-tunings among all steps of a plan that nothing else is computed from."""
    needed = {key for step in steps for key in step.inputs.values()}
    return [step for step in steps if step.kind is StepKind.FINETUNE and step.key not in needed]


def column(step: Step, storage: Storage) -> Column:
    """The column of a fine-tuning whose list of labelled images is on the storage."""
    work = step.work
    assert isinstance(work, FinetuneStep)
    measured = {name: step.meaning[name] for name in ("dataset", "pools", "labelled", "truth", "num_classes")}
    trained = {name: step.meaning["config"][name] for name in ("segmentor", "evaluation")}
    images = len(parse_labelled_list(storage.read(work.labelled).decode()).ids)
    return Column(digest(measured | trained | {"images": step.images.digest}), work.config.total_steps(images))


def mark_stopped(storage: Storage, key: str, stop: Stop) -> None:
    """Have a training end at its next report, and remember why."""
    storage.replace(_mark_path(key), json.dumps(asdict(stop)).encode())


def is_marked(storage: Storage, key: str) -> bool:
    """Whether a training is to end."""
    return storage.exists(_mark_path(key))


def read_mark(storage: Storage, key: str) -> Stop | None:
    """Why a training was given up; None where it was not, or what was written is not readable."""
    try:
        return Stop(**json.loads(storage.read(_mark_path(key))))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def forget_mark(storage: Storage, key: str) -> None:
    """The training is run after all."""
    storage.delete(_mark_path(key))


def stopped_before(steps: Iterable[Step], rule: EarlyStopping, storage: Storage) -> dict[str, Stop]:
    """The given steps that were given up under this rule, by key."""
    marked = {file.path for file in storage.files("checkpoints") if file.path.endswith(_MARK)}
    found = {step.key: read_mark(storage, step.key) for step in steps if _mark_path(step.key) in marked}
    same = (rule.reduction_factor, rule.grace)
    return {
        key: stop for key, stop in found.items() if stop is not None and (stop.reduction_factor, stop.grace) == same
    }


def _mark_path(key: str) -> str:
    return f"checkpoints/{key[:32]}{_MARK}"
