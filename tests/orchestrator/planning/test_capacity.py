"""What can be placed on a cluster, by numbers that anyone can check by hand."""

from pathlib import Path

import pytest
import yaml

from orchestrator.planning.capacity import Capacity, Machines, ResourceRequest, grown, judge
from orchestrator.planning.cluster_config import cluster_capacity

LAPTOP = Capacity.fixed([Machines(1, 2)])


def request(workers: int, cores: float, gpus: float = 0) -> ResourceRequest:
    return ResourceRequest("a training", workers, cores, gpus)


def cluster_file(folder: Path, **changes: object) -> str:
    document = {
        "provider": {"type": "aws"},
        "max_workers": 4,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 4}},
            "cpu": {"resources": {"CPU": 8}, "min_workers": 0, "max_workers": 4},
            "gpu": {"resources": {"CPU": 16, "GPU": 2}, "min_workers": 0, "max_workers": 2},
        },
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(document | changes))
    return str(path)


@pytest.mark.parametrize(
    ("workers", "cores", "gpus", "at_once"),
    [(1, 1, 0, 2), (1, 2, 0, 1), (2, 1, 0, 1), (1, 3, 0, 0), (3, 1, 0, 0), (1, 1, 1, 0), (1, 0.5, 0, 4)],
)
def test_what_fits_two_cores(workers: int, cores: float, gpus: float, at_once: int) -> None:
    assert LAPTOP.at_once(request(workers, cores, gpus)) == at_once


def test_cores_of_two_machines_do_not_make_one_worker() -> None:
    capacity = Capacity.fixed([Machines(1, 3), Machines(1, 3)])
    assert capacity.at_once(request(1, 4)) == 0
    assert capacity.at_once(request(1, 2)) == 2, "one core of each machine is left over"
    assert capacity.at_once(request(3, 1)) == 2


def test_what_can_never_be_placed_is_refused_with_numbers() -> None:
    verdict = judge([request(1, 2), request(1, 1, 1)], LAPTOP)
    assert verdict.waits == ()
    assert verdict.refused == (
        "a training takes 1 worker of 1 core and 1 GPU each, started together; "
        "the cluster can never have more than 1 machine with 2 cores",
    )


def test_a_cluster_that_grows_is_waited_for(tmp_path: Path) -> None:
    capacity = grown([Machines(1, 4)], cluster_capacity(cluster_file(tmp_path)))
    verdict = judge([request(2, 8, 1), request(1, 4), request(5, 8, 2)], capacity)
    assert verdict.waits == (
        "a training takes 2 workers of 8 cores and 1 GPU each, started together; there is 1 machine with 4 cores now: "
        "waiting for the cluster to grow",
    )
    assert verdict.refused == (
        "a training takes 5 workers of 8 cores and 2 GPUs each, started together; the cluster can never have more than "
        "4 machines with 8 cores, 2 machines with 16 cores and 2 GPUs, 1 machine with 4 cores (at most 5 machines "
        "together)",
    )


def test_the_limit_over_all_kinds_of_machines_counts(tmp_path: Path) -> None:
    few = grown([Machines(1, 4)], cluster_capacity(cluster_file(tmp_path, max_workers=2)))
    assert few.most_at_once(request(1, 8)) == 2 * 2 + 1, "both GPU machines hold two each, and one more machine is left"
    assert few.most_gpus == 4
    assert few.largest(gpus=True) == Machines(2, 16, 2)
