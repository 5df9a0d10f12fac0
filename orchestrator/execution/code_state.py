"""Which code a run was made with: its commit, and what was changed since.

The model: a checkout knows it itself. A job on a cluster gets the files without `.git`; there `lookbeyond submit` has
left what it found where it sent them from, in one environment variable. The failure this guards against: numbers that
name no code, or a commit that is not what ran.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

VARIABLE = "LOOKBEYOND_GIT"

_CODE = Path(__file__).parent
# More than this many changed files are counted, not named.
_NAMED = 20


def code_state(folder: Path = _CODE) -> dict[str, Any] | None:
    """Commit of the code in a folder, whether it has uncommitted changes, and the first of the changed files.

    None where the folder is no checkout and nothing was handed down either.
    """
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain").splitlines()
    except (OSError, subprocess.CalledProcessError):
        return _handed_down()
    state: dict[str, Any] = {"commit": commit, "changed": bool(changes)}
    if changes:
        # A line is two letters of status, a space and the path.
        names = [line[3:] for line in changes]
        more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
        state["changes"] = names[:_NAMED] + more
    return state


def handing_down(state: dict[str, Any] | None) -> dict[str, str]:
    """The environment that tells a job which code it is made of."""
    return {VARIABLE: json.dumps(state)} if state else {}


def _handed_down() -> dict[str, Any] | None:
    try:
        state = json.loads(os.environ.get(VARIABLE, "null"))
    except ValueError:
        return None
    return state if isinstance(state, dict) else None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.rstrip()
