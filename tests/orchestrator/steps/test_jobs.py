"""What commands and workers import: torch takes seconds and hundreds of megabytes, so only who computes may load it."""

import subprocess
import sys


def heavy(code: str) -> set[str]:
    """Which of the slow libraries a fresh interpreter has loaded after the code."""
    check = "import sys; print(*{'torch', 'torchvision', 'skimage', 'scipy', 'sklearn'} & sys.modules.keys())"
    ended = subprocess.run([sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True, check=True)
    return set(ended.stdout.splitlines()[-1].split()) if ended.stdout.strip() else set()


def test_commands_and_drivers_import_nothing_slow() -> None:
    assert heavy("import orchestrator.cli.commands, orchestrator.cluster.run") == set()


def test_a_plan_is_made_without_torch(tmp_path: object) -> None:
    filters = "labels.extractor={arch: filters, output_stride: 8}"
    command = f"['plan', 'demo', {filters!r}, '--storage', {str(tmp_path)!r}]"
    assert "torch" not in heavy(f"import orchestrator.cli.parser; assert orchestrator.cli.parser.main({command}) == 0")


def test_workers_of_plain_tasks_import_no_torch() -> None:
    modules = "orchestrator.steps.superpixels, orchestrator.steps.score, orchestrator.cluster.workers"
    assert "torch" not in heavy(f"import {modules}, workloads.labels.superpixels, workloads.scoring.metrics")


def test_the_clustering_worker_needs_no_torchvision() -> None:
    assert heavy("import orchestrator.steps.cluster, workloads.labels.kmeans, workloads.labels.dbscan") == {
        "torch",
        "scipy",
    }
