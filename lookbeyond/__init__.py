"""The public face of the project. What is computed is in `workloads`, where and when in `orchestrator`."""

from orchestrator import __version__

__all__ = ["__version__"]
