"""Somebody who looks at a storage while a run writes to it, and what a storage holds in the end."""

import signal
import subprocess
import threading
from typing import Any

import psutil

from orchestrator.ledger.layout import CHECKPOINTS
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.verification import verify
from orchestrator.storage.store import Storage


class Bystander(threading.Thread):
    """Verifies the storage over and over while a run writes to it; may kill a worker that trains and has a state."""

    def __init__(self, storage: Storage, run: "subprocess.Popen[str]", *, kill: bool = True) -> None:
        super().__init__(daemon=True)
        self.storage = storage
        self.run_process = run
        self.seen_steps: list[int] = []
        self.damaged: dict[str, str] = {}
        self.kill = kill
        self.killed = 0

    def run(self) -> None:
        while self.run_process.poll() is None:
            found = verify(self.storage, repair=False)
            self.seen_steps.append(found.steps)
            self.damaged |= found.damaged
            if (
                self.kill
                and not self.killed
                and any(file.path.endswith(".pt") for file in self.storage.files(CHECKPOINTS))
            ):
                self._kill()

    def _kill(self) -> None:
        for process in psutil.Process(self.run_process.pid).children(recursive=True):
            try:
                if " ".join(process.cmdline()).startswith("ray::RayTrainWorker"):
                    process.send_signal(signal.SIGKILL)
                    self.killed = process.pid
                    return
            except psutil.Error:
                continue


def outcomes(storage: Storage) -> dict[str, Any]:
    """What every step made: the SHA-256 of its shards and its results."""
    return {
        f"{manifest.kind}/{manifest.key}": ([record.sha256 for record in manifest.records], manifest.results)
        for manifest in Ledger(storage).manifests()
    }
