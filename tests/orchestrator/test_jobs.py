"""Jobs travel to workers; the ones that need no network must not make their workers load one."""

import subprocess
import sys


def test_workers_of_plain_tasks_import_no_torch() -> None:
    modules = "orchestrator.jobs.superpixels, orchestrator.jobs.scores, orchestrator.cluster.workers"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
