"""Peak resident memory of the driver and of the workers at few and at many generated scenes.

Everything that grows with the number of images must lie on the storage: the driver passes slices and records, workers
hold one shard. Peaks are read from outside, from the high-water mark (VmHWM) that Linux keeps of every process below
the command: every half second for workers, every 20 ms for the driver, which peaks while it draws the pictures just
before it ends. The images are small, so that 20 000 are made, cut, labelled and scored in minutes: it is their number
that could cost memory here, not their size.

    python -m benchmarks.performance.memory --scenes 500 20000
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.measuring import Aim, not_measured, put, table, verdict

AIMS = {role: Aim(f"growth of the {role}'s peak, %", most=10) for role in ("driver", "workers")}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, nargs="+", default=[500, 20_000], help="default: 500 20000")
    parser.add_argument("--image-size", type=int, nargs=2, default=[48, 64], help="height and width (default 48 64)")
    parser.add_argument("--val", type=int, default=100, help="scenes that are scored, the same in all runs")
    parser.add_argument("override", nargs="*", help="further key=value pairs, e.g. labels.clustering.max_pixels=10000")
    options = parser.parse_args(arguments)
    peaks: dict[int, dict[str, float]] = {}
    for scenes in options.scenes:
        with tempfile.TemporaryDirectory() as folder:
            peaks[scenes] = run(scenes, Path(folder), options)
        put({"scenes": scenes, "peak MB": peaks[scenes]})
    few, many = peaks[min(peaks)], peaks[max(peaks)]
    rows, growths = [], []
    for role in few:
        growth = 100 * (many[role] / few[role] - 1)
        put({"role": role, "growth %": growth})
        growths.append((AIMS[role], growth))
        rows.append([role, f"{few[role]:.0f}", f"{many[role]:.0f}", f"{growth:+.1f} %"])
    print()
    print(table(["peak resident MB", f"{min(peaks)} scenes", f"{max(peaks)} scenes", "growth"], rows))
    return verdict(growths)


def run(scenes: int, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Peak resident megabytes by role of process."""
    height, width = options.image_size
    document = {
        "name": "memory",
        "dataset": {"name": "scenes", "image_size": [height, width], "num_train": scenes, "num_val": options.val},
        "labels": {"images": scenes, "extractor": {"arch": "filters"}, "superpixels": {"n_segments": 30}},
    }
    experiment = folder / "experiment.yaml"
    experiment.write_text(json.dumps(document))
    command = [sys.executable, "-m", "lookbeyond", "run", str(experiment), *options.override]
    command += ["--storage", str(folder / "storage"), "--json"]
    begun = time.perf_counter()
    peaks: dict[str, dict[int, int]] = defaultdict(dict)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            note_workers(driver, peaks)
            next_look = time.monotonic() + 0.5
            while time.monotonic() < next_look and process.poll() is None:
                note(driver, "driver", peaks)
                time.sleep(0.02)
    if process.returncode:
        not_measured(f"`lookbeyond run` ended with code {process.returncode}")
    put({"scenes": scenes, "seconds": time.perf_counter() - begun, "processes": {k: len(v) for k, v in peaks.items()}})
    return {role: max(found.values()) / 1e6 for role, found in sorted(peaks.items())}


def note_workers(driver: psutil.Process, peaks: dict[str, dict[int, int]]) -> None:
    """Note the high-water mark of every worker that has run a job."""
    try:
        processes = driver.children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            title = process.cmdline()[0]
        except (psutil.Error, IndexError):
            continue
        # A worker is one process whatever it is called while it runs, waits or idles.
        if title.startswith("ray::"):
            note(process, "workers", peaks)


def note(process: psutil.Process, role: str, peaks: dict[str, dict[int, int]]) -> None:
    """Note the high-water mark of one process, in bytes, where it is still there."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return
    if "VmHWM" in status:
        peaks[role][process.pid] = 1024 * int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    sys.exit(main())
