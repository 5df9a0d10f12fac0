"""What a piece of work consists of, as far as time depends on it; known without a network, an image or torch.

The model: passes through networks, whose operations are counted (`counting`), and a few operations on images, whose
seconds are proportional to their amount. Both are turned into seconds by the speeds of a machine (`speeds`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from workloads.configs.base import Config
from workloads.configs.extraction import ExtractorConfig
from workloads.configs.networks import SegmentorConfig
from workloads.configs.training import EvaluationConfig, FinetuneConfig, PretrainConfig
from workloads.configs.views import ViewsConfig
from workloads.scoring.windows import input_size, offsets

Size = tuple[int, int]
Precision = Literal["float32", "bfloat16"]

Operation = Literal["decode", "resize", "augment", "superpixels", "assign", "vote", "scores", "count", "cluster"]
"""Core-seconds per million pixels: decode an image file, resize (of the larger side), augment (of the view), ten
iterations of superpixels, assign to one of K clusters (times K), vote, probabilities of classes (times their number),
count in a table. Per thousand million multiplications: cluster."""
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

_MILLION = 1e6
_CHANNELS = {
    "filters": 41,
    "mobilenet_v2": 320,
    "resnet18": 512,
    "resnet50": 2048,
    "vgg19": 512,
    "deeplabv3_resnet50": 256,
}
_USUAL_CHANNELS = 768


class NetworkPass(Config):
    """One pass of a batch through an extractor or a segmentation network, forward or with gradients."""

    extractor: ExtractorConfig | None = None
    segmentor: SegmentorConfig | None = None
    image_size: Size
    batch: int = 1
    num_classes: int = 1
    training: bool = False
    precision: Precision = "float32"


@dataclass(frozen=True)
class Work:
    """Passes, each so many times, and amounts of operations.

    Parameters
    ----------
    passes : tuple[tuple[NetworkPass, float], ...]
        With how often each is done.
    amounts : Mapping[Operation, float]
        See `Operation`.
    in_common : Work | None
        What is done once for all pieces of work that say the same name in `shared`.
    shared : str
        Empty where nothing is.
    """

    passes: tuple[tuple[NetworkPass, float], ...] = ()
    amounts: Mapping[Operation, float] = field(default_factory=dict)
    in_common: "Work | None" = None
    shared: str = ""

    def all_passes(self) -> Iterator[NetworkPass]:
        """The passes, those in common included."""
        yield from (one for one, _ in self.passes)
        if self.in_common is not None:
            yield from self.in_common.all_passes()


def megapixels(size: Size, images: float = 1) -> float:
    """Millions of pixels of images of one size."""
    return size[0] * size[1] * images / _MILLION


def extraction(config: ExtractorConfig, size: Size, images: int) -> Work:
    """Decode images of one size and extract their features, one by one as a CPU does."""
    # On a CPU half precisions that it lacks are no faster than bfloat16.
    precision: Precision = "float32" if config.precision == "float32" else "bfloat16"
    one = NetworkPass(extractor=config, image_size=config.input_size or size, precision=precision)
    amounts: dict[Operation, float] = {"decode": megapixels(size, images)}
    if config.input_size not in (None, size):
        amounts["resize"] = megapixels(size, images)
    return Work(((one, images),), amounts)


def evaluation(segmentor: SegmentorConfig, num_classes: int, config: EvaluationConfig, size: Size, images: int) -> Work:
    """Decode images of one size and predict their classes, at all scales, windows and mirrored or not."""
    passes: dict[NetworkPass, float] = {}
    classes = 0.0
    for scale in config.scales:
        height, width = input_size(size, config, scale)
        window = config.window or (height, width)
        padded = max(height, window[0]), max(width, window[1])
        rows, columns = (len(offsets(padded[side], window[side], config.window_stride)) for side in (0, 1))
        one = NetworkPass(segmentor=segmentor, image_size=window, num_classes=num_classes)
        count = rows * columns * (2 if config.flip else 1)
        passes[one] = passes.get(one, 0.0) + count * images
        classes += megapixels(window, images) * count
    # Every pass ends in the scores of all classes at the size of its input, which are added up.
    amounts: dict[Operation, float] = {
        "decode": megapixels(size, images),
        "count": megapixels(size, images),
        "scores": (classes + megapixels(size, images) * len(config.scales)) * num_classes,
    }
    return Work(tuple(passes.items()), amounts)


def steps_of(
    config: FinetuneConfig | PretrainConfig,
    views: ViewsConfig,
    size: Size,
    images: float,
    *,
    views_per_image: int = 1,
    num_classes: int = 1,
    extractor: ExtractorConfig | None = None,
) -> Work:
    """Draw views of images of one size, and pass each batch of them with gradients.

    What passes is the network that is trained, or the `extractor` that stands for a part of it.
    """
    one = NetworkPass(
        extractor=extractor,
        segmentor=config.segmentor if extractor is None else None,
        image_size=crop_size(views),
        batch=views_per_image * config.batch_size,
        num_classes=num_classes,
        training=True,
        precision="bfloat16" if config.precision == "bfloat16" else "float32",
    )
    return Work(((one, images / config.batch_size),), augmentation(views, size, images, views_per_image))


def augmentation(views: ViewsConfig, size: Size, images: float, views_per_image: int) -> dict[Operation, float]:
    """Decode images of one size and draw views of them."""
    amounts: dict[Operation, float] = {
        "decode": megapixels(size, images),
        "augment": megapixels(crop_size(views), images * views_per_image),
    }
    if views.image_size is not None and views.image_size != size:
        amounts["resize"] = megapixels(size, images)
    return amounts


def channels_of(config: ExtractorConfig) -> int:
    """The length of a feature vector, where it is known without the network; else a usual one."""
    if config.network is not None:
        return config.network.channels
    return _CHANNELS.get(config.arch, _USUAL_CHANNELS)


def crop_size(views: ViewsConfig) -> Size:
    """The height and width of a view, the middle one of a range."""
    if views.crop_mode == "fixed":
        return views.crop
    side = sum(views.crop) // 2
    return side, side


def total(*parts: Work) -> Work:
    """All of them, none of it in common."""
    amounts: dict[Operation, float] = {}
    for part in parts:
        for name, amount in part.amounts.items():
            amounts[name] = amounts.get(name, 0.0) + amount
    return Work(tuple(one for part in parts for one in part.passes), amounts)
