"""Where, when and how often things are computed. Imports workloads, never the other way round; Ray only in `cluster`."""
