"""How many broken images a step may leave out."""

import math

from workloads.formats import counted


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
    are = "is" if broken == 1 else "are"
    found = f"{broken} of {counted(images, 'image')} of pool {pool} {are} broken"
    if broken == images:
        return f"{found}: none is left to use"
    # Rounded up, so that what is named is enough.
    enough = math.ceil(broken / images * 1000) / 1000
    return (
        f"{found}, allowed are {allowed} (compute.quarantine_limit={limit:g}); mend or remove them, or go on without "
        f"them with compute.quarantine_limit={enough:g}"
    )
