"""Feature extractors: networks and filter banks."""
