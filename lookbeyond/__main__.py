"""``python -m lookbeyond`` is the command ``lookbeyond``."""

import sys

from orchestrator.cli.parser import main

if __name__ == "__main__":
    sys.exit(main())
