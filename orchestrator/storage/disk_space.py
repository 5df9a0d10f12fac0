"""How much room is left on this machine's disks.

A disk that is full shows itself in many ways: a library that cannot write its own file of three bytes raises what it
would raise for a file that somebody cut off. The failure this guards against: such an error taken for what is wrong.
"""

import os
from collections.abc import Iterable
from pathlib import Path

# Less than this, and what cannot be written is taken to have found no room.
LEAST_BYTES = 32_000_000


def free_bytes(folder: str | os.PathLike[str]) -> int | None:
    """Bytes that this user may still write in a folder, or where it would be made; None where nobody says."""
    place = Path(folder).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        found = os.statvfs(place)
    except OSError:
        return None
    # Some file systems count no files.
    if found.f_files and not found.f_favail:
        return 0
    return found.f_bavail * found.f_frsize


def full_disks(folders: Iterable[str | os.PathLike[str]], least: int = LEAST_BYTES) -> dict[str, int]:
    """Those of the folders on whose disks fewer bytes are left, with these."""
    room = {os.fspath(folder): free_bytes(folder) for folder in folders}
    return {folder: left for folder, left in room.items() if left is not None and left < least}
