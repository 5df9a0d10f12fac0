"""Options of pre-training, fine-tuning and evaluation."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from workloads.configs.base import LATER, HashedConfig
from workloads.configs.networks import Initialisation, SegmentorConfig
from workloads.configs.objectives import ContrastConfig, MocoConfig, PixproConfig
from workloads.configs.views import ViewsConfig
from workloads.errors import InputError

AUGMENTATION = ViewsConfig(
    crop_mode="fixed",
    crop=(713, 713),
    scale=(0.5, 2.0),
    rotation=(-10.0, 10.0),
    rotation_probability=0.5,
    jitter=(0.0, 0.0, 0.0, 0.0),
    grayscale=0.0,
    blur_probability=0.5,
    cutout=(0, 0),
)


class OptimiserConfig(HashedConfig, tag="OptimiserConfig"):
    """The optimiser and its schedule over the steps of the run."""

    kind: Literal["sgd", "adamw", "lars"] = Field("sgd", description="optimiser; lars is PixPro's")
    learning_rate: float = Field(0.01, gt=0, description="learning rate of the backbone after warm-up")
    head_factor: float = Field(
        1.0,
        gt=0,
        description="factor of the learning rate for new layers: all but the backbone and what was pre-trained",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd and lars")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay")
    schedule: Literal["poly", "cosine", "constant"] = Field("poly", description="decay of the learning rate")
    power: float = Field(0.9, gt=0, description="power of the poly schedule")
    final_share: float = Field(0.0, ge=0, le=1, description="share of the learning rate left at the end")
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient; null: any")


class TrainingConfig(HashedConfig, tag="TrainingConfig"):
    """What every training run has: how long, how large a batch, which optimiser, which seed."""

    epochs: float | None = Field(None, gt=0, description="passes over the images; this or steps")
    steps: int | None = Field(None, ge=1, description="optimiser steps; this or epochs")
    batch_size: int = Field(8, ge=1, description="images of a batch, over all workers")
    optimiser: OptimiserConfig = Field(OptimiserConfig(), description="optimiser and schedule")
    precision: Literal["float32", "bfloat16", "float64"] = Field(
        "float32", description="bfloat16: by autocast; float64: to tell rounding from mistakes"
    )
    compile: bool = Field(
        False, description="compile the backbone by torch.compile: other last bits; on a CPU it takes a compiler"
    )
    seed: int = Field(0, ge=0, description="decides weights, order, augmentation and dropout")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise InputError(
                f"{{key}} is {self.epochs} and steps is {self.steps}",
                key="epochs",
                value=self.epochs,
                allowed="allowed: exactly one of them",
            )
        return self

    def total_steps(self, num_images: int) -> int:
        """Optimiser steps of the run: the last batch may reach into one more epoch."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, int(-(-self.epochs * num_images // self.batch_size)))


class PretrainConfig(TrainingConfig, tag="PretrainConfig"):
    """A pre-training run; `workloads.configs.recipes` has named presets. Weights for `init` are given apart."""

    objective: Literal["contrast", "moco", "pixpro"] = Field("contrast", description="what is optimised")
    segmentor: SegmentorConfig = Field(SegmentorConfig(), description="the network")
    scope: Literal["segmentor", "backbone"] = Field(
        "segmentor", description="contrast: train all below the last 1x1 convolution, or the backbone alone"
    )
    init: Initialisation = Field("random", description="first weights of the backbone")
    views: ViewsConfig = Field(ViewsConfig(), description="augmentation")
    view_overlap: float = Field(
        0.5,
        ge=0,
        le=1,
        description="where positives come of views (moco, pixpro, positives 'pixel'): least share of the smaller of "
        "an image's two windows that lies in the other",
    )
    contrast: ContrastConfig = Field(ContrastConfig(), description="options of objective 'contrast'")
    moco: MocoConfig = Field(MocoConfig(), description="options of objective 'moco'")
    pixpro: PixproConfig = Field(PixproConfig(), description="options of objective 'pixpro'")

    @property
    def least_overlap(self) -> float | None:
        """The least overlap of both views where positives come of them, else None."""
        of_views = self.objective != "contrast" or self.contrast.positives == "pixel"
        return self.view_overlap if of_views else None


class EvaluationConfig(HashedConfig, tag="EvaluationConfig"):
    """How a trained network is scored; the prediction always has the size of the ground truth."""

    image_size: tuple[int, int] | None = Field(None, description="height and width of the input at scale 1; null: own")
    base_size: int | None = Field(None, ge=1, description="longer side of the input at scale 1, in place of image_size")
    scales: tuple[float, ...] = Field((1.0,), min_length=1, description="factors of that size, averaged in softmax")
    flip: bool = Field(False, description="average with the mirrored image, too")
    window: tuple[int, int] | None = Field(None, description="height and width of a sliding window; null: whole images")
    window_stride: float = Field(2 / 3, gt=0, le=1, description="step of the window as a share of its size")
    batch_size: int = Field(1, ge=1, description="images of equal size per forward pass")

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.image_size is not None and self.base_size is not None:
            raise InputError(
                f"{{key}} is {list(self.image_size)} and base_size is {self.base_size}",
                key="image_size",
                value=self.image_size,
                allowed="allowed: one of them",
            )
        return self


class FinetuneConfig(TrainingConfig, tag="FinetuneConfig"):
    """A fine-tuning run; `workloads.configs.recipes` has named presets."""

    segmentor: SegmentorConfig = Field(SegmentorConfig(), description="the network")
    augmentation: ViewsConfig = Field(AUGMENTATION, description="how training images are changed")
    auxiliary_weight: float = Field(0.4, ge=0, description="weight of the auxiliary head's loss")
    class_balance: Literal["log_inverse"] | None = Field(
        None,
        description="weight of a pixel's loss by the share p of its class in the labelled images: 1 / ln(1.02 + p); "
        "null: all alike",
    )
    optimiser: OptimiserConfig = Field(OptimiserConfig(head_factor=10.0), description="optimiser and schedule")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="single-scale evaluation")
    evaluation_multi_scale: EvaluationConfig | None = Field(None, description="second evaluation; null: none")
    scores_at: Annotated[tuple[float, ...], LATER] = Field(
        (),
        description="shares of the steps after which all validation images are scored, at single scale, too: mIoU at "
        "0.2 is `miou_at_0.2` in the results",
    )

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if not all(0 < share < 1 for share in self.scores_at):
            allowed = "give shares above 0 and below 1"
            raise InputError(key="scores_at", value=list(self.scores_at), allowed=allowed)
        return self


class JointConfig(HashedConfig, tag="JointConfig"):
    """The contrast of unlabelled images beside the cross-entropy of labelled ones, in every step of a fine-tuning."""

    weight: float = Field(0.1, gt=0, description="factor of the contrastive loss beside the cross-entropy")
    scope: Literal["segmentor", "backbone"] = Field(
        "segmentor", description="the contrast is of all below the last 1x1 convolution, or of the backbone alone"
    )
    views: ViewsConfig | None = Field(None, description="augmentation of the views; null: finetune.augmentation")
    contrast: ContrastConfig = Field(ContrastConfig(), description="options of the contrast")
