"""A cluster model fitted on a sample of features."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from orchestrator.ledger.image_sets import ShardRange
from orchestrator.ledger.layout import cluster_state_path, model_path
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import ShardRecord, read_arrays, read_samples, write_arrays
from orchestrator.spec.experiment import LabelsEntry
from orchestrator.steps.jobs import Job, WorkerCache
from orchestrator.steps.rates import Rate
from orchestrator.steps.sample import SampleStep
from orchestrator.steps.step import CellSteps, Pool, Step
from orchestrator.storage.store import Storage, StorageFullError
from workloads.configs.clustering import DbscanConfig, KMeansConfig
from workloads.costs.memory import WITH_GPU, WITH_TORCH
from workloads.costs.work import Size, Work, channels_of
from workloads.errors import InputError
from workloads.formats import counted

# In the state of a fit: the SHA-256 of the features that it is of and of all else in it.
_CHECKED = "sha256"
_USUAL_ITERATIONS = 30

if TYPE_CHECKING:
    import torch

    from workloads.labels.cluster_model import ClusterModel
    from workloads.labels.kmeans import KMeansState


@dataclass(frozen=True, eq=False, kw_only=True)
class ClusterStep(Step):
    """A cluster model fitted on a sample."""

    kind: ClassVar[str] = "cluster"
    code_version: ClassVar[int] = 1
    title: ClassVar[str] = "fit clusters"
    pool: ClassVar[Pool] = Pool.CLUSTER
    roles: ClassVar[tuple[str, ...]] = ("cluster",)
    assumed_rate: ClassVar[Rate] = Rate(seconds=0.01)
    shown_results: ClassVar[tuple[str, ...] | None] = ("num_clusters", "inertia", "iterations", "emptied", "silhouette")

    sample: SampleStep
    config: KMeansConfig | DbscanConfig
    num_clusters: int
    seed: int

    @classmethod
    def plan(cls, role: str, cell: CellSteps) -> Self | None:
        """Clusters where the cell samples."""
        sample = cell.step("sample")
        if sample is None:
            return None
        assert isinstance(sample, SampleStep)
        labels = cell.entry.labels
        num_clusters = _num_clusters(labels, cell.dataset.num_classes, cell.entry.dataset.config.name)
        _require_samples(labels, num_clusters, sample.images.count)
        return cls(
            images=sample.images,
            sample=sample,
            config=labels.clustering,
            num_clusters=num_clusters,
            seed=cell.entry.seed,
        )

    @property
    def inputs(self) -> dict[str, Step]:
        """The sample."""
        return {"sample": self.sample}

    def own_meaning(self) -> Mapping[str, Any]:
        """1.5 x M clusters, written as a factor or as a count, are the same."""
        config = self.config.model_dump()
        for name in ("k", "k_per_class"):
            config.pop(name, None)
        # Keys know the number by the name that it had first.
        return {"clustering": config, "clusters": self.num_clusters, "seed": self.seed}

    @property
    def _pixels(self) -> int:
        """How many sampled pixels are clustered."""
        return min(self.images.count * self.sample.sampling.pixels_per_image, self.config.max_pixels)

    def memory_bytes(self, rate_of: Callable[[Step], Rate]) -> int:
        """Bytes of the feature matrix that the clustering worker holds."""
        return int(self._pixels * rate_of(self.sample).bytes / self.sample.sampling.pixels_per_image)

    def worker_bytes(self, size: Size, *, uses_gpu: bool) -> float:
        """The feature matrix, and as much again while it is read and worked on."""
        del size
        matrix = 4.0 * self._pixels * channels_of(self.sample.extractor.config)
        return (WITH_GPU if uses_gpu else WITH_TORCH) + 2 * matrix

    def work(self, size: Size, images: int) -> Work | None:
        """The iterations of K-means over the sample."""
        del size
        pixels = min(images * self.sample.sampling.pixels_per_image, self.config.max_pixels)
        products = pixels * channels_of(self.sample.extractor.config) * self.num_clusters * _USUAL_ITERATIONS
        return Work(amounts={"cluster": products / 1e9})

    @classmethod
    def job(cls, storage: Storage, steps: tuple[Self, ...], shard: ShardRange | None, device: str) -> Job:
        """The fit of one model."""
        del shard
        (step,) = steps
        sample = (step.sample.kind, step.sample.key)
        return ClusterJob(storage, step.key, sample, step.config, step.num_clusters, step.seed, device)


@dataclass(frozen=True)
class ClusterJob:
    """Fit one cluster model on a sample. Several jobs on one sample find its matrix still loaded."""

    storage: Storage
    key: str
    sample: tuple[str, str]
    config: KMeansConfig | DbscanConfig
    num_clusters: int
    seed: int
    device: str

    @property
    def name(self) -> str:
        """The job's name on Ray's dashboard, which groups by it."""
        return f"ClusterJob K={self.num_clusters}"

    @property
    def title(self) -> str:
        """The job's name."""
        return self.name

    def run(self, cache: WorkerCache) -> Outcome:
        """Fit, continuing from the checkpoint a killed attempt left, and write the model."""
        # Here and below: what computes is imported by workers alone; the driver is spared torch.
        import torch

        from workloads.devices import float64_device
        from workloads.scoring.unlabelled import silhouette

        sampled = Ledger(self.storage).finished(*self.sample)
        origin = sampled.content
        name = (self.storage, self.sample, self.config.max_pixels)
        matrix = cache.keep("matrix", (*name, origin), lambda: load_matrix(*name))
        try:
            model = self._fit(torch.from_numpy(matrix), origin)
        except StorageFullError:
            raise
        except InputError as error:
            raise error.below("labels.clustering") from None
        arrays = model.to_arrays()
        path = model_path(self.key, "arrow")
        data = write_arrays(arrays)
        self.storage.replace(path, data)
        record = ShardRecord.of(path, data, rows=len(model.points), columns=sorted(arrays), images=0)
        # Whose features these are: only the network that they are of may label by the clusters.
        record = replace(record, origin=sampled.shards[0].origin)
        self.storage.delete(self._checkpoint)
        results = {
            "num_clusters": int(model.num_clusters),
            "pixels": len(matrix),
            "channels": int(matrix.shape[1]),
            "inertia": float(model.inertia),
            "iterations": int(model.iterations),
            "converged": bool(model.converged),
            "emptied": int(model.emptied),
            "silhouette": silhouette(matrix, model.sample_label),
        }
        return Outcome(files={"clusters": record}, results={self.key: results}, device=float64_device(self.device).type)

    @property
    def _checkpoint(self) -> str:
        return cluster_state_path(self.key)

    def _fit(self, features: "torch.Tensor", origin: str) -> "ClusterModel":
        if isinstance(self.config, KMeansConfig):
            return self._fit_kmeans(self.config, features, origin)
        from workloads.devices import float64_device
        from workloads.labels.dbscan import fit_dbscan

        return fit_dbscan(features, self.config, self.seed, self.num_clusters, float64_device(self.device))

    def _fit_kmeans(self, config: KMeansConfig, features: "torch.Tensor", origin: str) -> "ClusterModel":
        from workloads.devices import float64_device
        from workloads.labels.kmeans import KMeansState, fit_kmeans

        resume = None
        if self.storage.exists(self._checkpoint):
            try:
                arrays = read_arrays(self.storage, self._checkpoint)
                given = bytes(arrays.get(_CHECKED, np.empty(0, np.uint8)))
                if given == _checked(origin, arrays):
                    resume = KMeansState.from_arrays(arrays)
            except (InputError, LookupError, ValueError, TypeError):
                # A checkpoint only saves time: a damaged one, or one of other features, is as good as none.
                self.storage.delete(self._checkpoint)

        def keep(state: "KMeansState") -> None:
            arrays = state.to_arrays()
            seal = {_CHECKED: np.frombuffer(_checked(origin, arrays), np.uint8)}
            self.storage.replace(self._checkpoint, write_arrays(arrays | seal))

        return fit_kmeans(
            features,
            self.num_clusters,
            config,
            self.seed,
            float64_device(self.device),
            resume=resume,
            on_iteration=keep,
        )


def _checked(origin: str, arrays: Mapping[str, np.ndarray]) -> bytes:
    found = hashlib.sha256(origin.encode())
    for name in sorted(arrays.keys() - {_CHECKED}):
        found.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return found.digest()


def load_matrix(storage: Storage, sample: tuple[str, str], limit: int) -> np.ndarray:
    """The sampled features (n, d) float32 of a finished sample step (kind and key), at most `limit` rows.

    Every image gives the same number of its first sampled pixels (at least one), so that a limit thins the pixels and
    not the images; with more images than the limit, the first `limit` images give one each.
    """
    manifest = Ledger(storage).finished(*sample)
    images = sum(record.images for record in manifest.shards)
    if not images:
        raise InputError("no image of the pool could be used, so there is nothing to cluster")
    each = max(1, limit // images)
    matrix: np.ndarray | None = None
    filled = 0
    for record in manifest.shards:
        for _, _, features in read_samples(storage, record.path):
            taken = features[: min(each, limit - filled)]
            if matrix is None:
                matrix = np.empty((min(limit, each * images), features.shape[1]), dtype=np.float32)
            matrix[filled : filled + len(taken)] = taken
            filled += len(taken)
    assert matrix is not None
    return matrix[:filled]


def _num_clusters(labels: LabelsEntry, num_classes: int | None, dataset: str) -> int:
    config = labels.clustering
    if num_classes is None:
        if isinstance(config, KMeansConfig) and config.k is not None:
            return config.k
        raise InputError(
            f"data set {dataset} has no classes, so K = k_per_class x M is not defined",
            key="labels.clustering.k_per_class",
            allowed="give labels.clustering.k instead, or dataset.num_classes",
        )
    return config.num_clusters(num_classes)


def _require_samples(labels: LabelsEntry, num_clusters: int, images: int) -> None:
    """Refuse more clusters than there can be samples, before anything is computed."""
    config = labels.clustering
    if not isinstance(config, KMeansConfig):
        return
    pixels = labels.sampling.pixels_per_image
    samples = min(images * pixels, config.max_pixels)
    if num_clusters > samples:
        key, value = ("k_per_class", config.k_per_class) if config.k is None else ("k", config.k)
        raise InputError(
            f"{value} gives K = {num_clusters}, larger than the sample of {counted(samples, 'pixel')} "
            f"({counted(images, 'image')}, labels.sampling.pixels_per_image={pixels}, "
            f"labels.clustering.max_pixels={config.max_pixels})",
            key=f"labels.clustering.{key}",
            value=value,
            allowed=f"allowed: K of 1 to {samples}",
        )
