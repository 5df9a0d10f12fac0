"""``python -m orchestrator`` is ``lookbeyond``."""

import sys

from orchestrator.cli import main

if __name__ == "__main__":
    sys.exit(main())
