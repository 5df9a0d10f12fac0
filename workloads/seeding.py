"""Random numbers that depend on what is computed, never on who computes it or in which order.

A generator is made from the hash of (seed, purpose, names...), so any worker that holds an image's id draws the same
numbers for it.
"""

import hashlib

import numpy as np


def stable_hash(*parts: str | int) -> int:
    """A 256-bit integer from the parts, the same on every machine and in every process."""
    digest = hashlib.sha256()
    for part in parts:
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return int.from_bytes(digest.digest(), "little")


def generator(*parts: str | int) -> np.random.Generator:
    """A NumPy generator seeded by the hash of the parts, e.g. ``generator(seed, "sample", image_id)``."""
    return np.random.default_rng(stable_hash(*parts))
