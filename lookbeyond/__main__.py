"""``python -m lookbeyond`` is the command ``lookbeyond``."""

import os
import sys
from pathlib import Path


def main() -> int:
    """The command, with files and names in UTF-8 whatever the locale, and no module from the current folder."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        # Only a new interpreter reads the names of files otherwise; the processes it starts do so, too.
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    here = os.path.realpath(os.curdir)
    if os.path.realpath(sys.path[0]) == here != str(Path(__file__).resolve().parents[1]):
        # `python -m` looks there first: a numpy.py beside somebody's pictures would be run.
        del sys.path[0]
    from orchestrator.cli.parser import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
