"""Auxiliary labels of an image set by a fitted cluster model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from orchestrator.ledger.image_sets import ShardRange
from orchestrator.ledger.keys import digest
from orchestrator.ledger.layout import shard_path, short
from orchestrator.ledger.manifests import Ledger, OutdatedError
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import ShardRecord, origin_of
from orchestrator.spec.experiment import ExtractorEntry
from orchestrator.steps.cluster import ClusterStep
from orchestrator.steps.extraction import ExtractorSource, extraction_work, extractor_rate
from orchestrator.steps.jobs import ImageSlice, Job, Source, WorkerCache
from orchestrator.steps.rates import ASSUMED_MEGAPIXELS, Extent, Rate
from orchestrator.steps.step import CellSteps, Need, Pool, ShardedStep, Step
from orchestrator.steps.superpixels import SuperpixelStep
from orchestrator.storage.store import Storage
from workloads.costs.work import Size, Work, megapixels
from workloads.devices import torch_device

# What decides the features that an image has.
_EXTRACTED = ("dataset", "pool", "extractor", "weights")


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelStep(ShardedStep):
    """Auxiliary labels of any images by a fitted model; `judged` where a score step reads them."""

    kind: ClassVar[str] = "label"
    code_version: ClassVar[int] = 4
    title: ClassVar[str] = "label images"
    pool: ClassVar[Pool] = Pool.EXTRACT
    roles: ClassVar[tuple[str, ...]] = ("label", "label_val")
    assumed_rate: ClassVar[Rate] = Rate(seconds=0.03, bytes=8_000)
    shows_images: ClassVar[bool] = True

    extractor: ExtractorEntry
    weights_identity: str
    network: Step | None
    cluster: ClusterStep
    superpixels: SuperpixelStep | None
    outliers: float
    judged: bool

    @classmethod
    def plan(cls, role: str, cell: CellSteps) -> Self | None:
        """Labels of what pre-training sees, and of what is scored, where the cell clusters."""
        cluster = cell.step("cluster")
        val = role == "label_val"
        if cluster is None or (val and not cell.scores_labels):
            return None
        assert isinstance(cluster, ClusterStep)
        labels = cell.entry.labels
        source = cell.val if val else cell.train
        superpixels = cell.step("superpixels_val" if val else "superpixels")
        assert isinstance(superpixels, SuperpixelStep | None)
        return cls(
            images=cell.image_set(source, None) if val else cell.labelled_images,
            dataset=cell.image_identity,
            source=source,
            extractor=labels.extractor,
            weights_identity=cluster.sample.weights_identity,
            network=cluster.sample.network,
            cluster=cluster,
            superpixels=superpixels,
            outliers=labels.outliers,
            judged=val,
        )

    @property
    def inputs(self) -> dict[str, Step]:
        """The clusters, the superpixels that vote, and the network where it is trained here."""
        inputs: dict[str, Step | None] = {
            "network": self.network,
            "cluster": self.cluster,
            "superpixels": self.superpixels,
        }
        return {role: step for role, step in inputs.items() if step is not None}

    def _input_identities(self) -> dict[str, str]:
        # By their stream: labels of a prefix of the images are those of the prefix of the superpixels.
        streams = {"superpixels": self.superpixels.stream} if self.superpixels else {}
        return self.input_keys | streams

    def made_by(self) -> tuple[tuple[Step, str], ...]:
        """The clusters, and the network where it is trained here."""
        network = ((self.network, "network"),) if self.network else ()
        return ((self.cluster, "clusters"), *network)

    def own_meaning(self) -> Mapping[str, Any]:
        """The extractor, its weights, and which pixels cast no vote."""
        return {
            "dataset": self.dataset,
            "pool": self.source.pool,
            "extractor": self.extractor.config,
            "weights": self.weights_identity,
            "outliers": self.outliers,
            "judged": self.judged,
        }

    def piece_name(self, shard: ShardRange) -> str:
        """Labellings that share an extractor are done together: an image passes through the network once.

        The shard is named with its place in the listing, since two pools may hold images of the same names elsewhere.
        """
        same = {name: self.meaning[name] for name in _EXTRACTED}
        extractor = digest(same | {"network": self.input_keys.get("network", "")})
        return f"{self.kind}/{extractor[:16]}/{shard.start}-{short(shard.digest)}"

    def needs(self, shard: ShardRange) -> tuple[Need, ...]:
        """The whole model, but of the superpixels no more than the shard's own."""
        superpixels = (Need(self.superpixels.key, shard),) if self.superpixels else ()
        return (Need(self.cluster.key), *superpixels)

    @classmethod
    def rate_name(cls, meaning: Mapping[str, Any]) -> str:
        """Steps of one name cost about the same per image."""
        return extractor_rate(cls.kind, meaning)

    @classmethod
    def work_of(cls, meaning: Mapping[str, Any], extent: Extent) -> Work | None:
        """Extraction, once for all labellings that share it, and per labelling the assignment and the vote."""
        pixels = megapixels(extent.size, extent.images)
        return Work(
            amounts={"assign": pixels * extent.num_clusters, "vote": 2 * pixels},
            in_common=extraction_work(meaning, extent),
            shared=digest({name: meaning[name] for name in _EXTRACTED}),
        )

    def work(self, size: Size, images: int) -> Work | None:
        """As `work_of`, with the number of clusters."""
        return self.work_of(self.meaning, Extent(images, images, size, self.cluster.num_clusters))

    def bytes_per_image(self, size: Size) -> float:
        """A map of the image's size."""
        return self.assumed_rate.bytes * megapixels(size) / ASSUMED_MEGAPIXELS

    @classmethod
    def job(cls, storage: Storage, steps: tuple[Self, ...], shard: ShardRange | None, device: str) -> Job:
        """One shard for several labellings."""
        assert shard is not None
        step = steps[0]
        extractor = ExtractorSource.of(storage, step.extractor, step.network, device)
        targets = tuple({each.stream: _target(each) for each in steps}.values())
        return LabelJob(storage, ImageSlice.of(step.images, shard), step.source, extractor, targets)


@dataclass(frozen=True)
class LabelTarget:
    """One labelling of a shard: where it goes and what it is made from.

    `cluster` is the model's step (kind, key); of `superpixels` (if any) the stream, kind and key.
    """

    stream: str
    cluster: tuple[str, str]
    outliers: float
    judged: bool
    superpixels: tuple[str, str, str] | None


def _target(step: LabelStep) -> LabelTarget:
    segments = step.superpixels
    return LabelTarget(
        step.stream,
        (step.cluster.kind, step.cluster.key),
        step.outliers,
        step.judged,
        (segments.stream, segments.kind, segments.key) if segments else None,
    )


@dataclass(frozen=True)
class LabelJob:
    """Label one shard of images for several labellings, from one forward pass."""

    storage: Storage
    images: ImageSlice
    source: Source
    extractor: ExtractorSource
    targets: tuple[LabelTarget, ...]

    @property
    def name(self) -> str:
        """The job's name on Ray's dashboard, which groups by it."""
        return f"LabelJob x {len(self.targets)}"

    @property
    def title(self) -> str:
        """The job's name and its images."""
        return f"{self.name} {self.images}"

    def run(self, cache: WorkerCache) -> Outcome:
        """Compute and commit the shards that are not there yet."""
        ledger = Ledger(self.storage)
        digest = self.images.digest
        models = {target.stream: self._model(ledger, target) for target in self.targets}
        origins = {stream: origin_of(model.sha256, self.extractor.sha256) for stream, model in models.items()}
        found = {stream: ledger.shard(stream, digest, origin) for stream, origin in origins.items()}
        records = {stream: record for stream, record in found.items() if record is not None}
        missing = [target for target in self.targets if target.stream not in records]
        if missing:
            # What computes is imported by workers alone; the driver is spared torch.
            from orchestrator.steps.feature_shards import Labelling, label_shard, load_extractor

            fresh = label_shard(
                self.storage,
                self.images,
                self.source,
                [
                    Labelling(
                        path=shard_path(target.stream, digest),
                        model_path=models[target.stream].path,
                        outliers=target.outliers,
                        superpixel_paths=self._superpixel_paths(ledger, *target.superpixels or ()),
                        judged=target.judged,
                        origin=origins[target.stream],
                    )
                    for target in missing
                ],
                cache.keep("extractor", self.extractor, lambda: load_extractor(self.extractor)),
                cache.helpers,
            )
            for target, made in zip(missing, fresh, strict=True):
                records[target.stream] = ledger.commit_shard(target.stream, digest, made)
        return Outcome(records, device=torch_device(self.extractor.device).type)

    def _model(self, ledger: Ledger, target: LabelTarget) -> ShardRecord:
        """The file of the clusters.

        Raises
        ------
        OutdatedError
            They were fitted on features of another network than the one that labels.
        """
        model = ledger.finished(*target.cluster).file("clusters")
        if model.origin not in ("", origin_of(self.extractor.sha256)):
            raise OutdatedError(
                f"cluster {target.cluster[1][:12]} was fitted on features of a network that has been trained again "
                "since, and came out otherwise; the same command again fits it anew"
            )
        return model

    def _superpixel_paths(self, ledger: Ledger, stream: str = "", kind: str = "", key: str = "") -> tuple[str, ...]:
        """The shards that hold the superpixels of the job's images; none where labels are not voted."""
        if not stream:
            return ()
        record = ledger.shard(stream, self.images.digest)
        if record is not None:
            return (record.path,)
        # A run with another compute.shard_images has cut the same images at other places.
        paths, start = [], 0
        for other in ledger.finished(kind, key).shards:
            stop = start + other.images + len(other.quarantined)
            if start < self.images.stop and stop > self.images.start:
                paths.append(other.path)
            start = stop
        return tuple(paths)
