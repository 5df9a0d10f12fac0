"""Values that stand for others: ``weights: $moco``, and ``recipe: dataset``.

The model: an experiment file names the places of weights once, in its `weights`, and every row says `$name`; so one
option puts a file into all rows that need it. A recipe of ``dataset`` is the recipe of the data set's own name. Both
are filled in before a cell is validated. A name whose place is null stays as it is, and only a cell that needs it
cannot be run. The failure this guards against: a table that cannot be planned because one file of one row is missing.
"""

import difflib
from collections.abc import Mapping
from typing import Any

import workloads.networks.weight_identity
from workloads.configs.recipes import RECIPES
from workloads.errors import InputError

_MARK = "$"
_OWN_RECIPE = "dataset"


def resolved(document: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's document with everything filled in that stands for something else.

    Raises:
        InputError: a name that `weights` does not have, or a data set without a recipe of its own.
    """
    weights = document.get("weights")
    dataset = document.get("dataset")
    names = weights if isinstance(weights, Mapping) else {}
    name = dataset.get("name") if isinstance(dataset, Mapping) else None
    parts = {
        part: _filled(document[part], part, names, name) for part in document if part not in ("weights", "dataset")
    }
    return {**document, **parts}


def weights_identity(arch: str, weights: str | None) -> str:
    """See `workloads.networks.weight_identity.weights_identity`; a name without its place is refused by that name.

    Raises:
        InputError: as there, and for a name without a place.
    """
    if weights is not None and weights.startswith(_MARK):
        raise InputError(
            f"{weights} is not at hand",
            key="weights",
            value=weights,
            allowed=f"give weights.{weights.removeprefix(_MARK)}=FILE, the path or URL of a checkpoint",
        )
    return workloads.networks.weight_identity.weights_identity(arch, weights)


def _filled(value: Any, place: str, weights: Mapping[str, Any], dataset: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    filled = {}
    for key, inner in value.items():
        match key, inner:
            case "weights", str() if inner.startswith(_MARK):
                filled[key] = _place(inner, f"{place}.{key}", weights)
            case "recipe", str() if inner == _OWN_RECIPE:
                filled[key] = _recipe(dataset, f"{place}.{key}")
            case _:
                filled[key] = _filled(inner, f"{place}.{key}", weights, dataset)
    return filled


def _place(reference: str, key: str, weights: Mapping[str, Any]) -> str:
    name = reference.removeprefix(_MARK)
    if name not in weights:
        near = difflib.get_close_matches(name, weights, n=1, cutoff=0.6)
        known = f"did you mean ${near[0]}?" if near else f"weights names {', '.join(weights) or 'nothing'}"
        raise InputError(key=key, value=reference, allowed=known)
    place = weights[name]
    # What is no place is reported once, where it is written.
    return place if isinstance(place, str) else reference


def _recipe(dataset: Any, key: str) -> str:
    if dataset not in RECIPES:
        allowed = f"data set {dataset} has no recipe of its own; allowed: {', '.join(RECIPES)}"
        raise InputError(key=key, value=_OWN_RECIPE, allowed=allowed)
    return str(dataset)
