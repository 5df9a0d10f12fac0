"""The steps of a cell, and what makes two of them one.

The model: a step's key is the digest of its kind, its code version, its meaning, its images and the keys of the steps
it is computed from. A step over images also belongs to a stream (the same without the images), whose shards are
shared by all image counts. The failure this guards against: doing equal work twice because two cells came to it by
different roads.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from orchestrator.ledger.image_sets import ImageSet
from orchestrator.ledger.keys import canonical, digest
from orchestrator.spec.experiment import ExtractorEntry, SamplingConfig
from orchestrator.steps.jobs import Source
from orchestrator.steps.superpixels import SuperpixelWork
from workloads.configs.clustering import DbscanConfig, KMeansConfig
from workloads.configs.networks import Initialisation
from workloads.configs.superpixels import SuperpixelConfig
from workloads.configs.training import FinetuneConfig, PretrainConfig
from workloads.datasets import Dataset
from workloads.datasets.fractions import LabelledList


class StepKind(StrEnum):
    """The kinds of steps, in the order in which a cell needs them."""

    SAMPLE = "sample"
    SUPERPIXELS = "superpixels"
    CLUSTER = "cluster"
    LABEL = "label"
    SCORE = "score"
    PRETRAIN = "pretrain"
    FINETUNE = "finetune"


# Bumped by hand when a step computes something else from the same meaning; every key after it changes with it.
CODE_VERSIONS = {
    StepKind.SAMPLE: 3,
    StepKind.SUPERPIXELS: 1,
    StepKind.CLUSTER: 1,
    StepKind.LABEL: 3,
    StepKind.SCORE: 1,
    StepKind.PRETRAIN: 1,
    StepKind.FINETUNE: 2,
}


@dataclass(frozen=True)
class SampleStep:
    """Sampled features of an image set."""

    source: Source
    extractor: ExtractorEntry
    sampling: SamplingConfig
    seed: int


@dataclass(frozen=True)
class ClusterStep:
    """A cluster model fitted on a sample."""

    config: KMeansConfig | DbscanConfig
    clusters: int
    seed: int


@dataclass(frozen=True)
class LabelStep:
    """Auxiliary labels of an image set; `judged` where a score step reads them."""

    source: Source
    extractor: ExtractorEntry
    outliers: float
    judged: bool


@dataclass(frozen=True)
class ScoreStep:
    """PmIoU of labels against the ground truth of an image set."""

    source: Source
    num_classes: int
    condition: str


@dataclass(frozen=True)
class PretrainStep:
    """Pre-training on an image set; `num_labels` is None where the number of clusters is not known beforehand."""

    source: Source
    config: PretrainConfig
    weights: str | None
    num_labels: int | None


@dataclass(frozen=True)
class FinetuneStep:
    """Fine-tuning on a list of labelled images (a file of the storage), judged on the step's image set."""

    source: Source
    labelled: str
    num_labelled: int
    judged: Source
    num_classes: int
    config: FinetuneConfig
    init: Initialisation
    weights: str | None


Work = SampleStep | SuperpixelWork | ClusterStep | LabelStep | ScoreStep | PretrainStep | FinetuneStep


@dataclass(frozen=True)
class Step:
    """A distinct piece of work. `inputs` names the steps it needs by role; `stream` is empty for steps without shards.

    `segment_stream` is the stream of the superpixels that labels are voted with, None for a step that does not vote.
    """

    kind: StepKind
    key: str
    meaning: dict[str, Any]
    inputs: dict[str, str]
    images: ImageSet
    stream: str
    work: Work
    segment_stream: str | None = None


class StepFactory:
    """Makes the steps of one data set's cells, with their keys."""

    def __init__(self, dataset: Dataset, order_seed: int) -> None:
        self._dataset_meaning = {"identity": dataset.identity(), "order_seed": order_seed}
        self._num_classes = len(dataset.classes)

    def sample(self, work: SampleStep, images: ImageSet, weights: str, network: Step | None) -> Step:
        """Features sampled with an extractor whose weights have the given identity, or are what `network` trains."""
        meaning = {
            "pool": work.source.pool,
            "extractor": work.extractor.config,
            "weights": weights,
            "sampling": work.sampling,
            "seed": work.seed,
        }
        return self._over_images(StepKind.SAMPLE, meaning, _network_input(network), images, work)

    def superpixels(self, source: Source, config: SuperpixelConfig, images: ImageSet) -> Step:
        """Superpixels do not depend on the experiment's seed."""
        meaning = {"pool": source.pool, "superpixels": config}
        return self._over_images(StepKind.SUPERPIXELS, meaning, {}, images, SuperpixelWork(source, config))

    def cluster(self, work: ClusterStep, sample: Step) -> Step:
        """A model of `clusters` clusters: 1.5 x M written as a factor or as a count is the same step."""
        config = work.config.model_dump()
        for name in ("k", "k_per_class"):
            config.pop(name, None)
        meaning = {"clustering": config, "clusters": work.clusters, "seed": work.seed}
        inputs = {"sample": sample.key}
        key = _step_key(StepKind.CLUSTER, meaning, inputs, sample.images)
        return Step(StepKind.CLUSTER, key, canonical(meaning), inputs, sample.images, "", work)

    def label(
        self,
        work: LabelStep,
        images: ImageSet,
        weights: str,
        network: Step | None,
        cluster: Step,
        segments: Step | None,
    ) -> Step:
        """Labels of any images by a fitted model. A prefix of other images shares the shards: see `_over_images`."""
        meaning = {
            "pool": work.source.pool,
            "extractor": work.extractor.config,
            "weights": weights,
            "outliers": work.outliers,
            "judged": work.judged,
        }
        needs = _network_input(network) | {"cluster": cluster.key}
        inputs = needs | ({"superpixels": segments.stream} if segments else {})
        step = self._over_images(StepKind.LABEL, meaning, inputs, images, work)
        if segments is None:
            return step
        return replace(step, inputs=needs | {"superpixels": segments.key}, segment_stream=segments.stream)

    def score(self, work: ScoreStep, images: ImageSet, truth: str, labels: Step | None) -> Step:
        """PmIoU against the ground truth of a digest; condition #1 (a label per pixel) needs no labels."""
        meaning = {
            "dataset": self._dataset_meaning,
            "pool": work.source.pool,
            "truth": truth,
            "num_classes": work.num_classes,
            "condition": work.condition,
        }
        inputs = {"labels": labels.key} if labels else {}
        key = _step_key(StepKind.SCORE, meaning, inputs, images)
        return Step(StepKind.SCORE, key, canonical(meaning), inputs, images, "", work)

    def pretrain(self, work: PretrainStep, images: ImageSet, weights: str, labels: Step | None) -> Step:
        """A pre-trained network, from first weights of the given identity; condition #1 needs no labels."""
        meaning = {
            "dataset": self._dataset_meaning,
            "pool": work.source.pool,
            "config": work.config,
            "weights": weights,
        }
        inputs = {"labels": labels.key} if labels else {}
        key = _step_key(StepKind.PRETRAIN, meaning, inputs, images)
        return Step(StepKind.PRETRAIN, key, canonical(meaning), inputs, images, "", work)

    def finetune(
        self,
        work: FinetuneStep,
        images: ImageSet,
        labelled: LabelledList,
        truth: tuple[str, str],
        weights: str,
        pretrained: Step | None,
    ) -> Step:
        """A fine-tuned network and its mIoU; `weights` counts only where nothing was pre-trained.

        `truth` identifies the ground truth that is trained on and that is judged against.
        """
        meaning = {
            "dataset": self._dataset_meaning,
            "pools": [work.source.pool, work.judged.pool],
            "labelled": labelled.sha256,
            "truth": truth,
            "num_classes": work.num_classes,
            "config": work.config,
            "init": None if pretrained else [work.init, weights],
        }
        inputs = {"pretrain": pretrained.key} if pretrained else {}
        key = _step_key(StepKind.FINETUNE, meaning, inputs, images)
        return Step(StepKind.FINETUNE, key, canonical(meaning), inputs, images, "", work)

    def _over_images(
        self, kind: StepKind, meaning: dict[str, Any], inputs: dict[str, str], images: ImageSet, work: Work
    ) -> Step:
        whole = {"dataset": self._dataset_meaning} | meaning
        stream = digest({"kind": kind, "version": CODE_VERSIONS[kind], "meaning": whole, "inputs": inputs})
        key = _step_key(kind, whole, inputs, images)
        return Step(kind, key, canonical(whole), inputs, images, stream, work)


def _network_input(network: Step | None) -> dict[str, str]:
    return {"network": network.key} if network else {}


def _step_key(kind: StepKind, meaning: dict[str, Any], inputs: dict[str, str], images: ImageSet) -> str:
    return digest(
        {
            "kind": kind,
            "version": CODE_VERSIONS[kind],
            "meaning": meaning,
            "inputs": inputs,
            "images": images.digest,
        }
    )
