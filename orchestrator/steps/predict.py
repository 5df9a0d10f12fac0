"""Classes of images that a fine-tuned network never saw."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from orchestrator.ledger.image_sets import ShardRange, read_listing
from orchestrator.ledger.layout import shard_path
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.outcomes import Outcome
from orchestrator.ledger.shards import MAP_COMPRESSION, MAP_SCHEMA, ShardRecord, ShardWriter, map_batch, origin_of
from orchestrator.steps.finetune import FinetuneStep
from orchestrator.steps.jobs import ImageSlice, Job, Source, WorkerCache
from orchestrator.steps.rates import ASSUMED_MEGAPIXELS, Rate
from orchestrator.steps.step import CellSteps, Pool, ShardedStep, Step
from orchestrator.storage.store import Storage
from workloads.configs.networks import SegmentorConfig
from workloads.configs.training import EvaluationConfig
from workloads.costs.work import Size, Work, evaluation, megapixels
from workloads.errors import BrokenImageError

if TYPE_CHECKING:
    from workloads.networks.segmentors import Segmentor

_SHARES = 255


@dataclass(frozen=True, eq=False, kw_only=True)
class PredictStep(ShardedStep):
    """The predictions of a fine-tuned network, as it is evaluated; no cell needs them, `lookbeyond predict` does."""

    kind: ClassVar[str] = "predict"
    code_version: ClassVar[int] = 1
    title: ClassVar[str] = "predict"
    pool: ClassVar[Pool] = Pool.EXTRACT
    roles: ClassVar[tuple[str, ...]] = ()
    assumed_rate: ClassVar[Rate] = Rate(seconds=0.1, bytes=30_000)

    network: FinetuneStep

    @classmethod
    def plan(cls, role: str, cell: CellSteps) -> Self | None:
        """None: an experiment asks for no predictions."""
        return None

    @property
    def inputs(self) -> dict[str, Step]:
        """The network."""
        return {"network": self.network}

    def made_by(self) -> tuple[tuple[Step, str], ...]:
        """The network."""
        return ((self.network, "network"),)

    def own_meaning(self) -> Mapping[str, Any]:
        """The pool and how images are predicted."""
        return {"dataset": self.dataset, "pool": self.source.pool, "evaluation": self.network.config.evaluation}

    def work(self, size: Size, images: int) -> Work | None:
        """Evaluation, without ground truth."""
        network = self.network
        return evaluation(network.config.segmentor, network.num_classes, network.config.evaluation, size, images)

    def bytes_per_image(self, size: Size) -> float:
        """A map of the image's size."""
        return self.assumed_rate.bytes * megapixels(size) / ASSUMED_MEGAPIXELS

    @classmethod
    def job(cls, storage: Storage, steps: tuple[Self, ...], shard: ShardRange | None, device: str) -> Job:
        """One shard, the same for all the steps."""
        assert shard is not None
        step = steps[0]
        network = step.network
        return PredictJob(
            storage,
            ImageSlice.of(step.images, shard),
            step.stream,
            step.source,
            (network.kind, network.key),
            network.config.segmentor,
            network.num_classes,
            network.config.evaluation,
            device,
        )


@dataclass(frozen=True)
class PredictJob:
    """Predict one shard of images; `network` is the step (kind, key) that trained it."""

    storage: Storage
    images: ImageSlice
    stream: str
    source: Source
    network: tuple[str, str]
    segmentor: SegmentorConfig
    num_classes: int
    evaluation: EvaluationConfig
    device: str

    name: ClassVar[str] = "PredictJob"

    @property
    def title(self) -> str:
        """The job's name and its images."""
        return f"{self.name} {self.images}"

    def run(self, cache: WorkerCache) -> Outcome:
        """Compute and commit the shard."""
        # Here and below: what computes is imported by workers alone; the driver is spared torch.
        from workloads.devices import torch_device

        ledger = Ledger(self.storage)
        trained = ledger.finished(*self.network).file("network")
        origin = origin_of(trained.sha256)
        record = ledger.shard(self.stream, self.images.digest, origin)
        if record is None:
            network = cache.keep("segmentor", (self.storage, trained.path), lambda: self._load(trained.path))
            record = ledger.commit_shard(self.stream, self.images.digest, self._predict(network, origin))
        return Outcome({self.stream: record}, device=torch_device(self.device).type)

    def _load(self, place: str) -> "Segmentor":
        from orchestrator.steps.tensors import read_tensors
        from workloads.devices import torch_device
        from workloads.networks.segmentors import build_segmentor

        network = build_segmentor(self.segmentor, self.num_classes)
        network.load_state_dict(read_tensors(self.storage, place))
        return network.eval().to(torch_device(self.device))

    def _predict(self, network: "Segmentor", origin: str) -> ShardRecord:
        import torch

        from workloads.devices import torch_device
        from workloads.scoring.evaluation import class_scores

        begun = time.perf_counter()
        # The last bits depend on the number of threads, and no result may.
        torch.set_num_threads(1)
        writer = ShardWriter(MAP_SCHEMA, compression=MAP_COMPRESSION)
        dataset = self.source.open()
        for image_id in read_listing(self.storage, self.images.listing, self.images.start, self.images.stop):
            try:
                image = dataset.read_image(self.source.pool, image_id)
            except BrokenImageError as error:
                writer.quarantine(image_id, error.reason)
                continue
            pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(torch_device(self.device))
            with torch.inference_mode():
                probabilities, classes = class_scores(network, pixels, self.evaluation)[0].max(dim=0)
            writer.add(map_batch(image_id, packed(classes.cpu().numpy(), probabilities.cpu().numpy())))
        self.source.leave_contents(self.storage)
        path = shard_path(self.stream, self.images.digest)
        return writer.write(self.storage, path, time.perf_counter() - begun, origin)


def packed(classes: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Classes (below 256) in the low byte and their probabilities in 255ths in the high byte: uint16 (H, W)."""
    shares = np.rint(probabilities * _SHARES).astype(np.uint16)
    packed_map: np.ndarray = classes.astype(np.uint16) | shares << 8
    return packed_map


def unpacked(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `packed` put together: classes uint8 (H, W), and their probabilities in 255ths, uint8 (H, W)."""
    return (values & 0xFF).astype(np.uint8), (values >> 8).astype(np.uint8)
