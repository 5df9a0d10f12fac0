"""The kinds of steps, in the order in which a cell needs them. A new kind is a module and a line here."""

from orchestrator.steps.cluster import ClusterStep
from orchestrator.steps.finetune import FinetuneStep
from orchestrator.steps.label import LabelStep
from orchestrator.steps.predict import PredictStep
from orchestrator.steps.pretrain import PretrainStep
from orchestrator.steps.sample import SampleStep
from orchestrator.steps.score import ScoreStep
from orchestrator.steps.step import Step
from orchestrator.steps.superpixels import SuperpixelStep

KINDS: tuple[type[Step], ...] = (
    SampleStep,
    SuperpixelStep,
    ClusterStep,
    LabelStep,
    ScoreStep,
    PretrainStep,
    FinetuneStep,
    PredictStep,
)

BY_NAME = {kind.kind: kind for kind in KINDS}
BY_ROLE = {role: kind for kind in KINDS for role in kind.roles}
