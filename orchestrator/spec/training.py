"""The `pretrain` and `finetune` parts of an experiment file: a named recipe, with any of its values overridden.

The model: ``recipe: small`` is a complete configuration; every other key is laid over it, so a file says only what
differs. The failure this guards against: a number that nobody can reproduce because half of its settings were defaults
of code.
"""

from typing import Any, Self

from pydantic import Field, model_validator

from orchestrator.spec.merging import laid_over
from orchestrator.spec.runtime_config import RuntimeConfig
from workloads.configs.networks import Initialisation
from workloads.configs.recipes import RECIPES, Recipe, finetuning_recipe, pretraining_recipe
from workloads.configs.training import FinetuneConfig, PretrainConfig

_RECIPE = "named configuration that the other keys are laid over; 'dataset' stands for the one of the data set's name"


class PretrainEntry(RuntimeConfig):
    """Contrastive pre-training: its configuration (hashed), and where the first weights are (their content is hashed).

    Positives follow `labels.source`; `contrast.positives` need not be given.
    """

    recipe: Recipe | None = Field(None, description=_RECIPE)
    config: PretrainConfig
    weights: str | None = Field(None, description="first weights for init imagenet, moco, pixpro or file")

    @model_validator(mode="before")
    @classmethod
    def _lay_over(cls, data: Any) -> Any:
        return _over_recipe(data, ("recipe", "weights"), pretraining_recipe)


class FinetuneEntry(RuntimeConfig):
    """Fine-tuning on a fraction or a number of the labelled images, from pre-training or from `init`."""

    recipe: Recipe | None = Field(None, description=_RECIPE)
    config: FinetuneConfig
    init: Initialisation = Field("random", description="first weights of the backbone where nothing is pre-trained")
    weights: str | None = Field(None, description="first weights for init imagenet, moco, pixpro or file")
    pool: str | None = Field(None, description="pool of the labelled images; null: dataset.pool")
    fraction: float | None = Field(None, gt=0, le=1, description="share of the labelled images; this or number")
    number: int | None = Field(None, ge=1, description="number of labelled images; neither: all of them")

    @model_validator(mode="before")
    @classmethod
    def _lay_over(cls, data: Any) -> Any:
        return _over_recipe(data, ("recipe", "init", "weights", "pool", "fraction", "number"), finetuning_recipe)

    @model_validator(mode="after")
    def _one_count(self) -> Self:
        if self.fraction is not None and self.number is not None:
            raise ValueError(f"fraction {self.fraction} and number {self.number} are both given; one is allowed")
        return self


def _over_recipe(data: Any, own: tuple[str, ...], recipe: Any) -> Any:
    if not isinstance(data, dict) or "config" in data:
        return data
    given = {name: value for name, value in data.items() if name not in own}
    kept = {name: data[name] for name in own if name in data}
    # An unknown recipe is reported by the field itself.
    base: dict[str, Any] = {}
    if data.get("recipe") in RECIPES:
        base = recipe(data["recipe"]).model_dump()
    if given.get("steps") is not None:
        base["epochs"] = None
    if given.get("epochs") is not None:
        base["steps"] = None
    return kept | {"config": laid_over(base, given)}
