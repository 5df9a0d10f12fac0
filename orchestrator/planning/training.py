"""The training steps of a cell: which labels a pre-training needs, which labelled images a fine-tuning may use.

The model: positives follow `labels.source`; objectives of the baselines need no labels at all; a cell that only
fine-tunes has neither labels nor pre-training. The list of labelled images is a file of the storage, named and keyed by
its hash.
"""

from dataclasses import replace

from orchestrator.ledger.image_sets import ImageSet, ground_truth_digest
from orchestrator.ledger.layout import labelled_list_path
from orchestrator.spec.experiment import ExperimentEntry
from orchestrator.spec.references import weights_identity
from orchestrator.spec.training import FinetuneEntry, PretrainEntry
from orchestrator.steps.jobs import Source
from orchestrator.steps.steps import ClusterStep, FinetuneStep, PretrainStep, Step, StepFactory
from orchestrator.storage.store import Storage
from workloads.configs.clustering import KMeansConfig
from workloads.configs.networks import IMAGENET_WEIGHTS, Initialisation
from workloads.configs.training import PretrainConfig
from workloads.datasets import Dataset
from workloads.datasets.fractions import LabelledList, labelled_list
from workloads.errors import InputError


def needs_labels(entry: ExperimentEntry) -> bool:
    """Whether the cell is about labels: it makes them for their own sake, or a contrastive pre-training reads them."""
    if entry.pretrain is not None:
        return entry.pretrain.config.objective == "contrast"
    return entry.finetune is None


def pretrain_config(entry: ExperimentEntry, pretrain: PretrainEntry) -> PretrainConfig:
    """The configuration with the positives that `labels.source` says, and a seed that follows the experiment's."""
    config = pretrain.config.model_copy(update={"seed": pretrain.config.seed + entry.seed})
    if config.objective != "contrast":
        return config
    contrast = config.contrast.model_copy(update={"positives": entry.labels.source})
    return config.model_copy(update={"contrast": contrast})


def plan_pretraining(
    entry: ExperimentEntry,
    pretrain: PretrainEntry,
    factory: StepFactory,
    train: Source,
    images: ImageSet,
    roles: dict[str, Step],
) -> Step:
    """The pre-training step of a cell whose label steps are planned."""
    config = pretrain_config(entry, pretrain)
    labels = None
    num_labels = None
    if config.objective == "contrast":
        labels = roles.get({"auxiliary": "label", "superpixel": "superpixels"}.get(entry.labels.source, ""))
        clusters = roles["cluster"].work if entry.labels.source == "auxiliary" else None
        if isinstance(clusters, ClusterStep) and isinstance(clusters.config, KMeansConfig):
            num_labels = clusters.clusters
    backbone = config.segmentor.backbone
    identity = _identity("pretrain", backbone, config.init, pretrain.weights)
    work = PretrainStep(train, config, pretrain.weights, num_labels)
    return factory.pretrain(work, images, identity, labels)


def plan_finetuning(
    entry: ExperimentEntry,
    finetune: FinetuneEntry,
    factory: StepFactory,
    dataset: Dataset,
    pools: tuple[Source, Source],
    judged_images: ImageSet,
    pretrained: Step | None,
    storage: Storage | None,
) -> Step:
    """The fine-tuning step of a cell.

    Raises:
        InputError: a pool without ground truth, no labelled image in the fraction, or networks that do not fit.
    """
    train, val = pools
    train = replace(train, pool=finetune.pool or train.pool)
    for source in (train, val):
        if not dataset.labelled(source.pool):
            raise InputError(f"finetune: pool {source.pool!r} of {dataset.name} has no ground truth")
    listed = _labelled(finetune, [image.id for image in dataset.entries(train.pool)], entry.dataset.order_seed)
    path = labelled_list_path(listed.sha256)
    if storage is not None:
        storage.create(path, listed.to_text().encode())
    config = finetune.config.model_copy(update={"seed": finetune.config.seed + entry.seed})
    if pretrained is not None:
        assert isinstance(pretrained.work, PretrainStep)
        if pretrained.work.config.segmentor != config.segmentor:
            raise InputError(
                f"finetune.segmentor: {config.segmentor} is not the network that was pre-trained, "
                f"{pretrained.work.config.segmentor}"
            )
    identity = "" if pretrained else _identity("finetune", config.segmentor.backbone, finetune.init, finetune.weights)
    work = FinetuneStep(
        train, path, len(listed.ids), val, len(dataset.classes), config, finetune.init, finetune.weights
    )
    truth = (
        ground_truth_digest(dataset, train.pool, listed.ids),
        ground_truth_digest(dataset, val.pool, (image.id for image in dataset.entries(val.pool))),
    )
    return factory.finetune(work, judged_images, listed, truth, identity, pretrained)


def _labelled(finetune: FinetuneEntry, ids: list[str], seed: int) -> LabelledList:
    if finetune.number is not None:
        return labelled_list(ids, number=finetune.number, seed=seed)
    return labelled_list(ids, fraction=finetune.fraction or 1.0, seed=seed)


def _identity(place: str, backbone: str, init: Initialisation, weights: str | None) -> str:
    """What the first weights are; the file itself is checked when it is loaded."""
    if init == "random":
        if weights is not None:
            raise InputError(f"{place}.weights: {weights!r} is given, but init is 'random'; name another init")
        return "random"
    if weights is None and init != "imagenet":
        raise InputError(f"{place}.weights is missing: init {init!r} needs a file or URL")
    try:
        return f"{init}:{weights_identity(backbone, weights or IMAGENET_WEIGHTS[backbone])}"
    except InputError as error:
        raise InputError(f"{place}.{error}") from None
