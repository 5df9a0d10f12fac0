"""A cluster model fitted on a sample of features."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.ledger.layout import cluster_state_path, model_path
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import ShardRecord, read_arrays, read_samples, write_arrays
from orchestrator.steps.jobs import WorkerCache
from orchestrator.steps.steps import ClusterStep, StepKind
from orchestrator.storage.store import Storage, StorageFullError
from workloads.configs.clustering import DbscanConfig, KMeansConfig
from workloads.errors import InputError

if TYPE_CHECKING:
    import torch

    from workloads.labels.cluster_model import ClusterModel
    from workloads.labels.kmeans import KMeansState


@dataclass(frozen=True)
class ClusterJob:
    """Fit one cluster model on a sample. Several jobs on one sample find its matrix still loaded."""

    storage: Storage
    key: str
    sample: str
    work: ClusterStep
    device: str

    @property
    def name(self) -> str:
        """The job's name on Ray's dashboard, which groups by it."""
        return f"ClusterJob K={self.work.clusters}"

    @property
    def title(self) -> str:
        """The job's name."""
        return self.name

    def run(self, cache: WorkerCache) -> Outcome:
        """Fit, continuing from the checkpoint a killed attempt left, and write the model."""
        # Here and below: the driver, which makes this job, is spared torch.
        import torch

        from workloads.devices import torch_device

        config = self.work.config
        limit = config.max_pixels
        name = (self.storage, self.sample, limit)
        matrix = cache.keep("matrix", name, lambda: load_matrix(self.storage, self.sample, limit))
        try:
            model = self._fit(config, torch.from_numpy(matrix))
        except StorageFullError:
            raise
        except InputError as error:
            raise InputError(f"labels.clustering: {error}") from None
        arrays = model.to_arrays()
        path = model_path(self.key, "arrow")
        data = write_arrays(arrays)
        self.storage.replace(path, data)
        record = ShardRecord.of(path, data, rows=len(model.points), columns=sorted(arrays), images=0)
        self.storage.delete(self._checkpoint)
        results = {
            "clusters": int(model.num_clusters),
            "pixels": len(matrix),
            "channels": int(matrix.shape[1]),
            "inertia": float(model.inertia),
            "iterations": int(model.iterations),
            "converged": bool(model.converged),
            "emptied": int(model.emptied),
        }
        return Outcome([record], {self.key: results}, torch_device(self.device).type)

    @property
    def _checkpoint(self) -> str:
        return cluster_state_path(self.key)

    def _fit(self, config: KMeansConfig | DbscanConfig, features: "torch.Tensor") -> "ClusterModel":
        if isinstance(config, KMeansConfig):
            return self._fit_kmeans(config, features)
        from workloads.devices import torch_device
        from workloads.labels.dbscan import fit_dbscan

        return fit_dbscan(features, config, self.work.seed, self.work.clusters, torch_device(self.device))

    def _fit_kmeans(self, config: KMeansConfig, features: "torch.Tensor") -> "ClusterModel":
        from workloads.devices import torch_device
        from workloads.labels.kmeans import KMeansState, fit_kmeans

        resume = None
        if self.storage.exists(self._checkpoint):
            try:
                resume = KMeansState.from_arrays(read_arrays(self.storage, self._checkpoint))
            except InputError:
                # A checkpoint only saves time: a damaged one is as good as none.
                self.storage.delete(self._checkpoint)

        def keep(state: "KMeansState") -> None:
            self.storage.replace(self._checkpoint, write_arrays(state.to_arrays()))

        return fit_kmeans(
            features,
            self.work.clusters,
            config,
            self.work.seed,
            torch_device(self.device),
            resume=resume,
            on_iteration=keep,
        )


def load_matrix(storage: Storage, sample: str, limit: int) -> np.ndarray:
    """The sampled features (n, d) float32 of a finished sample step, at most `limit` rows.

    Every image gives the same number of its first sampled pixels (at least one), so that a limit thins the pixels and
    not the images; with more images than the limit, the first `limit` images give one each.
    """
    manifest = Ledger(storage).manifest(StepKind.SAMPLE, sample)
    assert manifest is not None, "clusters wait for their sample"
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
