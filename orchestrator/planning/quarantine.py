"""How many broken images a step may leave out."""

import math


def too_many_broken(broken: int, images: int, pool: str, limit: float) -> str | None:
    """Why so many broken images are too many; None where they are not. All of them always are.

    Parameters
    ----------
    broken, images
        How many of the pool's images are broken, and how many there are.
    pool
        Its name.
    limit
        Share that may be left out (`compute.quarantine_limit`).
    """
    allowed = math.ceil(limit * images)
    if broken <= allowed and not 0 < broken == images:
        return None
    return (
        f"{broken} of {images} images of pool {pool} are broken, allowed are {min(allowed, images - 1)} "
        f"(compute.quarantine_limit={limit:g})"
    )
