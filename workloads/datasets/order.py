"""One seeded order of a pool, so that "n images" means the same images everywhere.

The model: entries are sorted by the hash of (seed, id), and "n images" are the first n. Prefixes are nested:
500 is inside 2000 is inside 5000. The failure this guards against: subsets that change with the order of a
directory listing, or larger subsets that do not contain the smaller ones, so that no work can be shared
between the rows of a table.
"""

from collections.abc import Iterable

from workloads.datasets.base import ImageEntry
from workloads.seeding import stable_hash


def seeded_order(entries: Iterable[ImageEntry], seed: int) -> list[ImageEntry]:
    """The entries in the order given by ``seed``; independent of the order they come in.

    An entry's place depends on its own id and the seed alone, so adding images to a pool keeps the order of
    the others.
    """
    return sorted(entries, key=lambda entry: (stable_hash(seed, "image order", entry.id), entry.id))
