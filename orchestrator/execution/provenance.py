"""By which code, with which packages and on which machine something was computed.

A checkout knows its commit itself. A job on a cluster gets the files without `.git`; there `lookbeyond submit` has left
what it found where it sent them from, in one environment variable. The failure this guards against: numbers that name
no code, or a commit that is not what ran.
"""

import json
import os
import platform
import socket
import subprocess
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

VARIABLE = "LOOKBEYOND_GIT"

_CODE = Path(__file__).parent
# More than this many changed files are counted, not named.
_NAMED = 20
# What numbers depend on.
_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "pyarrow",
    "pillow",
    "ray",
)


@dataclass(frozen=True)
class Code:
    """The commit that runs, whether files were changed since, and the first of them."""

    commit: str
    changed: bool = False
    changes: tuple[str, ...] = ()

    @staticmethod
    def of(folder: Path = _CODE) -> "Code | None":
        """The code in a folder; None where it is no checkout and nothing was handed down either."""
        try:
            commit = _git(folder, "rev-parse", "HEAD")
            lines = _git(folder, "status", "--porcelain").splitlines()
        except (OSError, subprocess.CalledProcessError):
            return _handed_down()
        # A line is two letters of status, a space and the path.
        more = [f"and {len(lines) - _NAMED} more"] if len(lines) > _NAMED else []
        return Code(commit, bool(lines), (*(line[3:] for line in lines[:_NAMED]), *more))

    def to_environment(self) -> dict[str, str]:
        """The environment that tells a job which code it is made of."""
        return {VARIABLE: json.dumps(asdict(self))}


@dataclass(frozen=True)
class Provenance:
    """Code, versions and machine of this process."""

    code: Code | None
    versions: dict[str, str]
    host: str

    @staticmethod
    @lru_cache(maxsize=1)
    def capture() -> "Provenance":
        """What this process is; asked once, as none of it changes while it runs."""
        versions = {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
        return Provenance(Code.of(), versions, socket.gethostname())


def _handed_down() -> Code | None:
    try:
        found: Any = json.loads(os.environ.get(VARIABLE, "null"))
        return Code(str(found["commit"]), bool(found["changed"]), tuple(found.get("changes", ())))
    except (ValueError, TypeError, KeyError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.rstrip()
