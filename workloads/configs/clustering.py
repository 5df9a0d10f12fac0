"""Options of clustering."""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from workloads.configs.base import HashedConfig
from workloads.errors import InputError

MAX_CLUSTERS = 65535
"""Label maps are uint16 and 65535 means ignored, so labels run from 0 to 65534."""


def number_of_clusters(k_per_class: float, num_classes: int) -> int:
    """K = k_per_class x M rounded half up (1.5 x 19 = 28.5 gives 29), at least 1.

    Raises
    ------
    InputError
        When K does not fit the label maps.
    """
    num_clusters = max(1, int(np.floor(k_per_class * num_classes + 0.5)))
    if num_clusters > MAX_CLUSTERS:
        raise InputError(
            f"k_per_class {k_per_class} with M = {num_classes} gives K = {num_clusters}; at most "
            f"{MAX_CLUSTERS} fit 16-bit label maps"
        )
    return num_clusters


class KMeansConfig(HashedConfig, tag="KMeansConfig"):
    """K-means; the number of clusters is either `k_per_class` times the number of classes or `k` itself."""

    method: Literal["kmeans"] = Field("kmeans", description="K-means")
    k_per_class: float | None = Field(
        default=None,
        gt=0,
        description="clusters per class, K = this x M rounded half up; 1.5 when k is not given either",
    )
    k: int | None = Field(default=None, ge=1, le=MAX_CLUSTERS, description="number of clusters, instead of k_per_class")
    init: Literal["k-means++", "random"] = Field(
        default="k-means++", description="first centres: greedy k-means++ or distinct random samples"
    )
    max_iterations: int = Field(default=100, ge=1, description="limit on Lloyd iterations")
    tolerance: float = Field(
        default=1e-4,
        ge=0,
        description="stop when the summed squared shift of the centres is at most this x the mean variance",
    )
    max_pixels: int = Field(default=200_000, ge=1, description="largest number of sampled pixels to fit on")
    num_restarts: int = Field(
        default=1, ge=1, description="fits from different first centres; the lowest inertia is kept"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_way_to_say_k(cls, values: object) -> object:
        if isinstance(values, dict):
            if values.get("k") is None and values.get("k_per_class") is None:
                return {**values, "k_per_class": 1.5}
            if values.get("k") is not None and values.get("k_per_class") is not None:
                raise InputError(
                    f"{{key}} {values['k']} and k_per_class {values['k_per_class']} are both given",
                    key="k",
                    value=values["k"],
                    allowed="one is allowed",
                )
        return values

    def num_clusters(self, num_classes: int) -> int:
        """K for a data set of `num_classes` classes."""
        if self.k is not None:
            return self.k
        assert self.k_per_class is not None
        return number_of_clusters(self.k_per_class, num_classes)


class DbscanConfig(HashedConfig, tag="DbscanConfig"):
    """DBSCAN; `eps` is a distance between features, or a rule that finds one."""

    method: Literal["dbscan"] = Field("dbscan", description="DBSCAN")
    eps: float | Literal["knee", "target_k"] = Field(
        default="target_k",
        description="radius; 'knee': the knee of the sorted core distances; 'target_k': the radius whose number "
        "of clusters is nearest to k_per_class x M, of several the one with the most even clusters",
    )
    min_samples: int = Field(
        default=10, ge=1, description="samples within eps, itself included, that make a core sample"
    )
    noise: Literal["nearest", "strict"] = Field(
        default="nearest",
        description="a pixel beyond eps of all core samples takes the nearest one's cluster, or is noise",
    )
    k_per_class: float = Field(default=1.5, gt=0, description="clusters per class that eps 'target_k' aims at")
    max_pixels: int = Field(default=20_000, ge=2, description="largest number of sampled pixels to fit on (footnote 1)")

    def num_clusters(self, num_classes: int) -> int:
        """The number of clusters that `eps="target_k"` aims at for a data set of `num_classes` classes."""
        return number_of_clusters(self.k_per_class, num_classes)
