"""``lookbeyond report``: reports of a storage, or of one experiment on it."""

import json
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from orchestrator.report.writing import Written, write_all, write_one
from orchestrator.spec import load_document
from orchestrator.storage import Storage
from workloads.errors import InputError


def write_reports(options: Namespace) -> int:
    """Write what was asked for and say where it lies."""
    written = _write(options)
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


def _write(options: Namespace) -> Written:
    what = options.what
    path = Path(what)
    if "://" in what or path.is_dir():
        if options.overrides:
            raise InputError(
                f"override {options.overrides[0]!r} belongs to an experiment, and {what} is a storage; "
                "give an experiment file to set its keys"
            )
        return write_all(Storage(what), options.output)
    if what == "demo" and not path.exists():
        path = Path(__file__).parents[1] / "demo.yaml"
    elif not path.exists() and path.suffix not in (".yaml", ".yml"):
        raise InputError(f"{what} is neither a storage (a folder or a URI) nor an experiment file (YAML)")
    name = load_document(path, options.overrides)["name"]
    return write_one(Storage(options.storage), str(name), options.output)
