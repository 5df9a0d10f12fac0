"""Which labelled images a run may use: seeded, nested lists.

The model: images are sorted by the hash of (seed, id) and a list is a prefix, so the 10 % list is inside
the 20 % list, which is inside the whole; a list knows what was asked for, what there was, and the hash of
its ids. On disk it is one id a line.

The failure this guards against: a network that saw labels its row of the table denies it. The list that
trains the feature extractor of a column is the very list that fine-tunes it, and the hash shows that it is.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from workloads.errors import InputError
from workloads.seeding import stable_hash

HEADER = "# labelled images"


@dataclass(frozen=True)
class LabelledList:
    """Ids in seeded order. `sha256` is of the ids, one a line; it identifies the list whatever asked for
    it."""

    ids: tuple[str, ...]
    requested: str
    available: int
    seed: int

    @property
    def sha256(self) -> str:
        """Hexadecimal hash of the ids."""
        return hashlib.sha256("".join(f"{image_id}\n" for image_id in self.ids).encode()).hexdigest()

    def to_text(self) -> str:
        """The list as a file: a header with its origin and hash, then one id a line."""
        head = f"{HEADER} requested={self.requested} available={self.available} seed={self.seed} sha256={self.sha256}"
        return "\n".join([head, *self.ids]) + "\n"


def labelled_list(
    ids: Sequence[str], *, fraction: float | None = None, number: int | None = None, seed: int = 0
) -> LabelledList:
    """The first images of the seeded order: a fraction in (0, 1] of them, rounded half up, or a number.

    A number above what there is gives all; `requested` and `available` tell. Raises `InputError` for an
    empty list, for both or neither of `fraction` and `number`, for ids that repeat, and for values out of
    range.
    """
    if (fraction is None) == (number is None):
        raise InputError(f"fraction is {fraction} and number is {number}; allowed: exactly one of them")
    if len(set(ids)) != len(ids):
        raise InputError("ids of labelled images repeat; allowed: each once")
    for image_id in ids:
        if image_id != image_id.strip() or "\n" in image_id or image_id.startswith("#"):
            raise InputError(f"image id {image_id!r} cannot stand on a line of a list")
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise InputError(f"fraction is {fraction}; allowed: above 0, at most 1")
        # The tolerance keeps 0.15 x 10 at one and a half, which floating point puts just below or above.
        wanted = math.floor(fraction * len(ids) + 0.5 + 1e-9)
        requested = f"{100 * fraction:g}%"
    else:
        assert number is not None
        if number < 1:
            raise InputError(f"number of labelled images is {number}; allowed: 1 or more")
        wanted, requested = number, str(number)
    if not ids or wanted == 0:
        raise InputError(f"no labelled image in {requested} of {len(ids)}; allowed: a fraction that holds at least one")
    order = sorted(ids, key=lambda image_id: (stable_hash(seed, "labelled", image_id), image_id))
    return LabelledList(tuple(order[:wanted]), requested, len(ids), seed)


def parse_labelled_list(text: str) -> LabelledList:
    """Read `to_text` again. Raises `InputError` when the header is missing or the ids do not give its
    hash."""
    first, *ids = text.splitlines() or [""]
    fields = dict(part.split("=", 1) for part in first.removeprefix(HEADER).split() if "=" in part)
    if not first.startswith(HEADER) or set(fields) != {"requested", "available", "seed", "sha256"}:
        raise InputError(f"not a list of labelled images: the first line is {first[:80]!r}")
    try:
        listed = LabelledList(tuple(ids), fields["requested"], int(fields["available"]), int(fields["seed"]))
    except ValueError:
        raise InputError(f"not a list of labelled images: the first line is {first[:80]!r}") from None
    if listed.sha256 != fields["sha256"]:
        raise InputError(
            f"the list of labelled images was changed: sha256 {listed.sha256}, the header says {fields['sha256']}"
        )
    return listed
