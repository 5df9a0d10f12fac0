"""Named presets of pre-training and fine-tuning.

A recipe is a complete configuration; whoever wants another value overrides that field and the key changes. Fine-tuning
follows hszhao/semseg's PSPNet-50, whose multi-scale numbers the paper's ImageNet rows repeat: SGD 0.01 with new layers
at ten times that, momentum 0.9, weight decay 1e-4, poly 0.9 to zero, auxiliary loss 0.4, scale 0.5-2, rotation +-10
degrees and blur with probability 0.5, crop with mean padding. Both its evaluations average mirrored images and sliding
windows, the second one scales 0.5-1.75, too; images of ADE20K are brought to 512 pixels on their longer side.

    recipe      crop   epochs  batch   origin
    cityscapes  713    200     16      semseg
    ade20k      473    100     16      semseg
    nyuv2       473    200     16      ours, after semseg; neither semseg nor mmsegmentation has one
    camvid      353    200     16      ours, after semseg, for images of 360x480
    small       177    600 steps 8     ours, for two cores: mobilenet_v2 at 177x241, output stride 8

`small` is what a plain script would do: AdamW with a smaller rate for the backbone, one 3x3 convolution as head, whole
images at 0.75 to 2 times their size, flips, brightness and contrast. Its pre-training sees milder views than Table 8's,
above all in scale, since in so few epochs the network is short of fitting its labels.
"""

from typing import Literal, get_args

from workloads.configs.networks import SegmentorConfig
from workloads.configs.objectives import ContrastConfig, MocoConfig, PixproConfig
from workloads.configs.training import AUGMENTATION, EvaluationConfig, FinetuneConfig, OptimiserConfig, PretrainConfig
from workloads.configs.views import ViewsConfig

Recipe = Literal["cityscapes", "ade20k", "nyuv2", "camvid", "small"]
RECIPES: tuple[str, ...] = get_args(Recipe)
MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
# Of the form 8 n + 1, as the crop: the last cells lie on the last pixels, none is stretched over a border.
SMALL_SIZE = (177, 241)
SMALL_CROP = (129, 177)
# Deliberately plain: DeepLabV3's head of 256 channels alone would cost as much as the backbone.
SMALL_NETWORK = SegmentorConfig(
    head="fcn", backbone="mobilenet_v2", output_stride=8, head_channels=128, auxiliary_head=False, dropout=0.0
)


def finetuning_recipe(name: Recipe) -> FinetuneConfig:
    """The fine-tuning configuration of that name."""
    match name:
        case "cityscapes":
            return _semseg(crop=713, epochs=200)
        case "ade20k":
            return _semseg(crop=473, epochs=100, base_size=512)
        case "nyuv2":
            return _semseg(crop=473, epochs=200)
        case "camvid":
            return _semseg(crop=353, epochs=200)
        case "small":
            return FinetuneConfig(
                steps=600,
                batch_size=8,
                segmentor=SMALL_NETWORK,
                augmentation=ViewsConfig(
                    image_size=SMALL_SIZE,
                    crop_mode="fixed",
                    crop=SMALL_SIZE,
                    scale=(0.75, 2.0),
                    rotation=(0.0, 0.0),
                    jitter=(0.3, 0.3, 0.0, 0.0),
                    grayscale=0.0,
                    cutout=(0, 0),
                ),
                optimiser=OptimiserConfig(kind="adamw", learning_rate=5e-4, head_factor=4.0),
                evaluation=EvaluationConfig(image_size=SMALL_SIZE, batch_size=8),
                evaluation_multi_scale=EvaluationConfig(
                    image_size=SMALL_SIZE, scales=(0.75, 1.0, 1.25), flip=True, batch_size=8
                ),
            )


def _semseg(crop: int, epochs: int, base_size: int | None = None) -> FinetuneConfig:
    window = (crop, crop)
    evaluation = EvaluationConfig(base_size=base_size, window=window, flip=True)
    return FinetuneConfig(
        epochs=epochs,
        batch_size=16,
        augmentation=AUGMENTATION.model_copy(update={"crop": window}),
        optimiser=OptimiserConfig(learning_rate=0.01, head_factor=10.0, momentum=0.9, weight_decay=1e-4, power=0.9),
        evaluation=evaluation,
        evaluation_multi_scale=evaluation.model_copy(update={"scales": MULTI_SCALE}),
    )


def pretraining_recipe(name: Recipe) -> PretrainConfig:
    """The pre-training configuration of that name; Table 8's views, all else ours."""
    if name == "small":
        return PretrainConfig(
            epochs=12,
            batch_size=8,
            segmentor=SMALL_NETWORK,
            views=ViewsConfig(
                image_size=SMALL_SIZE,
                crop_mode="fixed",
                crop=SMALL_CROP,
                scale=(0.9, 1.2),
                rotation=(0.0, 0.0),
                jitter=(0.1, 0.1, 0.1, 0.0),
                grayscale=0.0,
                cutout=(0, 0),
            ),
            optimiser=OptimiserConfig(
                kind="adamw", learning_rate=1e-3, weight_decay=0.01, schedule="cosine", warmup_steps=40
            ),
            contrast=ContrastConfig(anchors_per_image=200),
            moco=MocoConfig(queue=1024, momentum=0.99),
            pixpro=PixproConfig(hidden_channels=512, embedding_dim=128),
        )
    epochs = {"cityscapes": 100, "ade20k": 20, "nyuv2": 200, "camvid": 200}[name]
    views = ViewsConfig(crop=(257, 289)) if name == "camvid" else ViewsConfig()
    return PretrainConfig(
        epochs=epochs,
        batch_size=16,
        views=views,
        optimiser=OptimiserConfig(learning_rate=0.05, schedule="cosine", warmup_steps=200),
        moco=MocoConfig(queue=4096 if name == "camvid" else 65_536),
        precision="bfloat16",
    )
