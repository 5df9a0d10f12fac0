"""What `lookbeyond report` is asked for, and what it answers."""

import json
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from orchestrator.report.writing import Written
from orchestrator.storage.store import Storage
from workloads.errors import InputError


def named_storage(what: str, overrides: list[str]) -> Storage | None:
    """The storage that a word names, a folder or a URI; None where it names an experiment.

    Raises:
        InputError: the word names neither, or keys of an experiment are given with a storage.
    """
    path = Path(what)
    if "://" in what or path.is_dir():
        if overrides:
            raise InputError(
                f"override {overrides[0]!r} belongs to an experiment, and {what} is a storage; "
                "give an experiment file to set its keys"
            )
        return Storage(what)
    if what != "demo" and not path.exists() and path.suffix not in (".yaml", ".yml"):
        raise InputError(f"{what} is neither a storage (a folder or a URI) nor an experiment file (YAML)")
    return None


def announce(written: Written, options: Namespace) -> int:
    """Say where the reports lie, and what kept others from being written; the exit code."""
    if options.json:
        print(json.dumps(asdict(written), indent=1))
    else:
        for name, places in written.reports.items():
            print(f"{name}: {places['html']}  (also .csv and .md)")
        if written.index:
            print(f"index: {written.index}")
    for line in written.problems:
        print(f"lookbeyond: {line}", file=sys.stderr)
    return 2 if written.problems else 0
