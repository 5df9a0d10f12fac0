"""Places on this machine: home folders written as ``~``, and a folder for files that are fetched once."""

import contextlib
import os
import tempfile
from pathlib import Path

from workloads.errors import InputError


def expanded(path: str | os.PathLike[str], key: str) -> Path:
    """The path with ``~`` and ``~name`` filled in.

    Raises
    ------
    InputError
        There is no such user, or nobody knows the home folder of this one.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(
            f"the home folder in {os.fspath(path)!r} is not known", key=key, allowed="write the whole path"
        ) from None


def cache_folder() -> Path:
    """Torch's folder of checkpoints, or one of this user's below the temporary folder where that cannot be written."""
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    # Without a home folder torch's is a relative one, below a folder that is called "~".
    with contextlib.suppress(OSError):
        if folder.is_absolute():
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    own = Path(tempfile.gettempdir()) / f"lookbeyond-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    if own.stat().st_uid != os.getuid() or own.is_symlink():
        raise InputError(f"{folder} cannot be written, and {own} is somebody else's; set TORCH_HOME")
    return own
