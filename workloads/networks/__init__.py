"""Segmentation networks, and the weights that they and extractors load."""
