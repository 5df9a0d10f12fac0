"""The public face of the project. What is computed is in `workloads`, where and when in `orchestrator`.

One module a function, each imported when it is first asked for: ``import lookbeyond`` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from orchestrator import __version__

if TYPE_CHECKING:
    from lookbeyond.experiments import IGNORED, Cell, ExperimentResults, label_maps, open_results, plan, run
    from lookbeyond.models import Model, load_model

__all__ = [
    "IGNORED",
    "Cell",
    "ExperimentResults",
    "Model",
    "__version__",
    "label_maps",
    "load_model",
    "open_results",
    "plan",
    "run",
]

_HOMES = {
    "Model": "models",
    "load_model": "models",
    **dict.fromkeys(
        ("IGNORED", "Cell", "ExperimentResults", "label_maps", "open_results", "plan", "run"), "experiments"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lookbeyond' has no attribute {name!r}")
    return getattr(importlib.import_module(f"lookbeyond.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
