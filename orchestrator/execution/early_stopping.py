"""Fine-tunings that are given up early: which of them may be compared.

The model: a fine-tuning is compared only with those of its column, which differ from it in their row or seed and in
nothing that decides how far they are or what they are measured on. How it is remembered is in
`ledger.stop_marks`. The failure this guards against: a training given up since it has another network, fewer labelled
images or fewer steps than those it is compared with.
"""

from dataclasses import dataclass

from orchestrator.ledger.keys import digest
from orchestrator.steps.finetune import FinetuneStep
from orchestrator.steps.step import Step


@dataclass(frozen=True)
class Column:
    """What fine-tunings that may be compared have in common, as a digest, and their number of steps."""

    common: str
    total_steps: int


def column(step: Step) -> Column:
    """The column of a fine-tuning."""
    assert isinstance(step, FinetuneStep)
    measured = {name: step.meaning[name] for name in ("dataset", "pools", "labelled", "truth", "num_classes")}
    trained = {name: step.meaning["config"][name] for name in ("segmentor", "evaluation")}
    return Column(digest(measured | trained | {"images": step.images.digest}), step.total_steps)
