"""The extractor of a step, as it travels to a worker."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.ledger.manifests import Ledger
from orchestrator.spec.experiment import ExtractorEntry
from orchestrator.steps.rates import Extent, config_of
from orchestrator.steps.step import Step
from orchestrator.storage.store import Storage
from workloads.configs.extraction import ExtractorConfig
from workloads.costs.work import Work, extraction
from workloads.networks.weight_identity import travelling_name


@dataclass(frozen=True)
class ExtractorSource:
    """A feature extractor, where its weights are, and the device it runs on (see `torch_device`).

    `stored` is the place on a storage of a network that this project trained; it stands in for `weights`, and its
    `sha256` tells it from others that the same step may have ended in.
    """

    config: ExtractorConfig
    weights: str | None
    device: str
    stored: tuple[Storage, str] | None = None
    sha256: str = ""

    @staticmethod
    def of(storage: Storage, entry: ExtractorEntry, network: Step | None, device: str) -> "ExtractorSource":
        """The extractor that an experiment names, or the one that a step of it trains."""
        if network is None:
            return ExtractorSource(entry.config, travelling_name(entry.config.arch, entry.weights), device)
        record = Ledger(storage).finished(network.kind, network.key).file("network")
        return ExtractorSource(entry.config, None, device, (storage, record.path), record.sha256)


def extractor_rate(kind: str, meaning: Mapping[str, Any]) -> str:
    """The name of the rate of a step that extracts: kind/network/output stride."""
    extractor = meaning["extractor"]
    own = extractor.get("network")
    network = f"{own['head']}_{own['backbone']}" if own else extractor["arch"]
    return "/".join(str(part) for part in (kind, network, extractor["output_stride"]) if part is not None)


def extraction_work(meaning: Mapping[str, Any], extent: Extent) -> Work:
    """Decoding the images and extracting their features."""
    return extraction(config_of(ExtractorConfig, meaning["extractor"]), extent.size, extent.images)
