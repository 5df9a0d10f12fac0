"""Auxiliary labels: clusters, superpixels, voting."""
