"""The `pretrain` and `finetune` parts of an experiment file: a named recipe, with any of its values overridden.

The model: ``recipe: small`` is a complete configuration; every other key is merged into it, so a file says only what
differs. The failure this guards against: a number that nobody can reproduce because half of its settings were defaults
of code.
"""

from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from orchestrator.spec.entries import Entry, Hashed, Inline, Place
from orchestrator.spec.merging import merged
from workloads.configs.base import HashedConfig
from workloads.configs.networks import Initialisation
from workloads.configs.recipes import RECIPES, Recipe, finetuning_recipe, pretraining_recipe
from workloads.configs.training import FinetuneConfig, PretrainConfig
from workloads.errors import InputError

_RECIPE = "named configuration that the other keys are merged into; 'dataset' stands for the one of the data set's name"


class PretrainEntry(Entry):
    """Contrastive pre-training, and where its first weights are. Positives follow `labels.source`."""

    recipe: Hashed[Recipe | None] = Field(None, description=_RECIPE)
    config: Inline[PretrainConfig]
    images: Hashed[int | None] = Field(
        None,
        ge=1,
        description="labels are made for, and training sees, the first n images of the pool's seeded order; null: all, "
        "however many are clustered",
    )
    weights: Place[str | None] = Field(None, description="first weights for init imagenet, moco, pixpro or file")

    @model_validator(mode="before")
    @classmethod
    def _lay_over(cls, data: Any) -> Any:
        return _over_recipe(data, pretraining_recipe)


class FinetuneEntry(Entry):
    """Fine-tuning on a fraction or a number of the labelled images, from pre-training or from `init`."""

    recipe: Hashed[Recipe | None] = Field(None, description=_RECIPE)
    config: Inline[FinetuneConfig]
    init: Hashed[Initialisation] = Field(
        "random", description="first weights of the backbone where nothing is pre-trained"
    )
    weights: Place[str | None] = Field(None, description="first weights for init imagenet, moco, pixpro or file")
    pool: Hashed[str | None] = Field(None, description="pool of the labelled images; null: dataset.pool")
    fraction: Hashed[float | None] = Field(None, gt=0, le=1, description="share of the labelled images; this or number")
    number: Hashed[int | None] = Field(None, ge=1, description="number of labelled images; neither: all of them")
    among: Hashed[int | None] = Field(
        None,
        ge=1,
        description="labelled images are taken from the first n images of the pool's seeded order, so that they lie "
        "inside `pretrain.images: n`; null: from all",
    )
    epochs_of: Hashed[Literal["labelled", "pool"]] = Field(
        "labelled",
        description="what an epoch passes over: the labelled images, or as many as the pool has, which is as many "
        "steps for every fraction",
    )

    @model_validator(mode="before")
    @classmethod
    def _lay_over(cls, data: Any) -> Any:
        return _over_recipe(data, finetuning_recipe)

    def config_over(self, num_available: int) -> FinetuneConfig:
        """The configuration of a training on some of so many images, whose epochs are of the labelled ones."""
        if self.epochs_of == "labelled":
            return self.config
        return self.config.model_copy(update={"epochs": None, "steps": self.config.total_steps(num_available)})

    @model_validator(mode="after")
    def _one_count(self) -> Self:
        if self.fraction is not None and self.number is not None:
            raise InputError(
                f"{{key}} {self.fraction} and number {self.number} are both given",
                key="fraction",
                value=self.fraction,
                allowed="one is allowed",
            )
        return self


def _over_recipe(data: Any, recipe: Callable[[Recipe], HashedConfig]) -> Any:
    # An unknown recipe is reported by the field itself.
    if not isinstance(data, dict) or data.get("recipe") not in RECIPES:
        return data
    base = recipe(data["recipe"]).model_dump()
    if data.get("steps") is not None:
        base["epochs"] = None
    if data.get("epochs") is not None:
        base["steps"] = None
    return merged(base, data)
