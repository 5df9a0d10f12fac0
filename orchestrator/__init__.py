"""Where, when and how often things are computed. Imports workloads, never the reverse; Ray only in `cluster`."""

__version__ = "0.1.0"
