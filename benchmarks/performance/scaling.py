"""What it costs to hand out work, with work that is empty: per image, on 1, 2 and 4 workers, and for a million images.

`--what overhead`: a real Ray of simulated machines with one core each runs the plan of a labelling (samples,
superpixels, clusters, labels, a score) whose jobs do nothing and return at once, so that all time that goes by is the
system's own. Printed per image: wall time between the first job and the last, processor time of the driver, tasks,
bytes of the messages between driver and workers, and bytes that were made in Ray's object store.

`--what plan`: a plan of a million images in 50 000 shards is made, its listing and the manifests of its steps are
written, and it is made again from what was written. Seconds and bytes of each.

    python -m benchmarks.performance.scaling --what overhead plan
"""

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster

from benchmarks.measuring import Aim, put, table, verdict
from benchmarks.performance.empty_work import Messages, empty_record, in_place_of_jobs
from orchestrator.cluster import run as running
from orchestrator.execution.progress import Progress
from orchestrator.ledger.image_sets import read_listing
from orchestrator.ledger.layout import shard_path
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.storage.store import Storage

OVERHEAD = Aim("wall time per image of empty work, ms, most of all numbers of workers", most=1.0)
PLAN = Aim("seconds of the longest part of a plan", most=60)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=("overhead", "plan"), default=["overhead", "plan"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="machines (default 1 2 4)")
    parser.add_argument("--images", type=int, default=50_000, help="of the overhead (default 50000)")
    parser.add_argument("--shard-images", type=int, default=16, help="of the overhead (default 16)")
    parser.add_argument("--planned", type=int, default=1_000_000, help="images of the plan (default 1000000)")
    parser.add_argument("--planned-shards", type=int, default=50_000, help="shards of the plan (default 50000)")
    options = parser.parse_args(arguments)
    seen = []
    if "overhead" in options.what:
        rows = [overhead(workers, options.images, options.shard_images) for workers in options.workers]
        print("", table(list(rows[0]), [list(row.values()) for row in rows]), sep="\n")
        seen.append((OVERHEAD, max(float(row["ms per image"]) for row in rows)))
    if "plan" in options.what:
        parts = million(options.planned, options.planned_shards)
        print("", table(["part", "seconds", "MB"], parts), sep="\n")
        seen.append((PLAN, max(float(seconds) for _, seconds, _ in parts)))
    return verdict(seen)


def document(images: int, shard_images: int) -> dict[str, Any]:
    """A labelling of so many images, with one number of clusters."""
    return {
        "name": "scaling",
        "dataset": {"name": "scenes", "image_size": [48, 64], "num_train": images, "num_val": 16},
        "labels": {"extractor": {"arch": "filters", "batch_size": 1}},
        "compute": {"shard_images": shard_images},
    }


def overhead(workers: int, images: int, shard_images: int) -> dict[str, Any]:
    """Figures per image of a run of empty work on so many machines of one core each."""
    with tempfile.TemporaryDirectory() as folder, machines(workers), Progress() as progress:
        storage = Storage(folder)
        plan = make_plan(document(images, shard_images), storage, write_listings=True, until="labels")
        messages = Messages()
        before, processor = store_bytes(), time.process_time()
        with in_place_of_jobs(messages.make):
            report = running.run_plan(plan, storage, progress, address=None, dashboard=False)
        seconds, processor = time.perf_counter() - messages.first, time.process_time() - processor
        assert not report.failed, report.failed
        assert not plan.pending
        figures = {
            "workers": workers,
            "images": images,
            "tasks": messages.count,
            "seconds": f"{seconds:.1f}",
            "ms per image": f"{1000 * seconds / images:.3f}",
            "driver CPU ms per image": f"{1000 * processor / images:.3f}",
            "tasks per image": f"{messages.count / images:.3f}",
            "message bytes per image": f"{messages.mean * messages.count / images:.0f}",
            "largest message": messages.largest,
            "object store bytes per image": f"{(store_bytes() - before) / images:.2f}",
        }
    put(figures)
    return figures


@contextmanager
def machines(count: int) -> Iterator[None]:
    """A head without cores and so many machines of one core, all simulated on this one."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR, namespace="lookbeyond")
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def store_bytes() -> int:
    """Bytes of all objects that were ever made in the object stores of all machines."""
    stats = (node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False) for node in ray.nodes())
    return sum(one.store_stats.cumulative_created_bytes for one in stats)


def million(images: int, shards: int) -> list[tuple[str, str, str]]:
    """Seconds and megabytes of the parts of a large plan."""
    parts = []

    @contextmanager
    def part(name: str, *folders: str) -> Iterator[None]:
        begun, size = time.perf_counter(), sum(map(size_of, folders))
        yield
        seconds, added = time.perf_counter() - begun, sum(map(size_of, folders)) - size
        parts.append((name, f"{seconds:.1f}", f"{added / 1e6:.1f}" if folders else ""))
        put({"part": name, "seconds": round(seconds, 2), "MB": round(added / 1e6, 1)})

    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        described = document(images, images // shards)
        with part("plan made, listings written", f"{folder}/images"):
            plan = make_plan(described, storage, write_listings=True, until="labels")
        longest = max((step.images for step in plan.steps.values()), key=lambda listed: listed.count)
        assert (longest.count, len(longest.shards)) == (images, shards)
        with part("one shard's names read from its listing"):
            assert len(read_listing(storage, longest.listing, images - 20, images)) == 20
        with part(f"manifests of {len(plan.steps)} steps written", f"{folder}/steps"):
            commit_all(plan, storage)
        with part("the plan made again from them"):
            again = make_plan(described, storage, write_listings=True, until="labels")
        assert not again.pending
        assert [len(again.done[key].shards) for key in plan.steps] == [len(plan.done[key].shards) for key in plan.steps]
    return parts


def commit_all(plan: Plan, storage: Storage) -> None:
    """Manifests of all steps, with the records of shards that nobody wrote."""
    for step in plan.pending:
        records = [
            empty_record(shard_path(step.stream, shard.digest), shard.stop - shard.start)
            for shard in (step.images.shards if step.stream else ())
        ]
        made = Manifest(step.kind, step.key, step.meaning, step.input_keys, records)
        plan.done[step.key] = Ledger(storage).commit(made)


def size_of(folder: str) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
