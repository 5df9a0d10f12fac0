"""The two values that mean "counts for nothing", which are never mixed up."""

IGNORE_CLASS = 255
"""In ground truth, uint8: no class."""

IGNORE_LABEL = 65535
"""In label maps, uint16: no auxiliary label."""
