"""The pictures of the README, from the sheets that `make demo` leaves on its storage, made small enough for a document.

    make demo
    python -m benchmarks.studies.readme_picture storage

writes docs/images/demo.png (images, superpixels and labels) and docs/images/demo-predictions.png (images, ground truth,
and what a network predicts without and with pre-training).
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks.measuring import Aim, not_measured, verdict
from orchestrator.ledger.layout import figure_path
from orchestrator.storage.store import Storage

SMALL = Aim("kB of the larger picture", most=200)

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
_WIDTH = 800
_COLOURS = 128


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("storage", help="path or URI of the storage that the demo ran on")
    storage = Storage(parser.parse_args(arguments).storage)
    sizes = []
    for page in ("", "predictions"):
        path = figure_path("demo", page)
        data = storage.find(path)
        if data is None:
            not_measured(f"{storage.locate(path)} does not exist: run `make demo` first")
        written = IMAGES / Path(path).name
        written.write_bytes(small(data))
        sizes.append(written.stat().st_size / 1000)
        print(f"written  {written}: {sizes[-1]:.0f} kB")
    return verdict([(SMALL, max(sizes))])


def small(data: bytes) -> bytes:
    """A picture at the width of a document, in few colours."""
    sheet = Image.open(io.BytesIO(data)).convert("RGB")
    height = round(sheet.height * _WIDTH / sheet.width)
    shrunk = sheet.resize((_WIDTH, height), Image.Resampling.LANCZOS).quantize(_COLOURS, dither=Image.Dither.NONE)
    out = io.BytesIO()
    shrunk.save(out, "PNG", optimize=True)
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
