"""The processes of a run: those that stopped themselves go on, beyond their lease; those left over are found."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orchestrator.storage.faults import failures

STOPS = ("driver.stop", "training.stop", "worker.stop")
# Every process of a campaign has it in its environment, Ray's and theirs, too.
MARK = "LOOKBEYOND_CAMPAIGN"
_LEAVING_SECONDS = 30.0


class Stopped:
    """Continues what has stopped itself, `beyond` seconds later; beside a stopped driver another run is started first,
    which takes its work over.
    """

    def __init__(
        self,
        counted: Path,
        beyond: float,
        chance: random.Random,
        start: Callable[[], "subprocess.Popen[bytes]"],
    ) -> None:
        self._counted = counted
        self._beyond = beyond
        self._chance = chance
        self._start = start
        self._known = {point: len(failures(counted, point)) for point in STOPS}
        self._continue_at: dict[int, float] = {}
        self._others: list[subprocess.Popen[bytes]] = []

    def look(self) -> None:
        """Start and continue what is due."""
        for point in STOPS:
            for failure in failures(self._counted, point)[self._known[point] :]:
                self._known[point] += 1
                if point == "driver.stop":
                    self._others.append(self._start())
                # At any moment of the other's work.
                until = time.monotonic() + self._beyond * self._chance.uniform(1.5, 4.0)
                self._continue_at[failure["process"]] = until
        for process, until in list(self._continue_at.items()):
            if time.monotonic() > until:
                del self._continue_at[process]
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    def follow(self, process: "subprocess.Popen[bytes]") -> list[int]:
        """Wait for a run and for those that were started beside it; how they ended."""
        running = [process]
        ends: list[int] = []
        while running:
            self.look()
            running += self._others
            self._others = []
            ends += [one.returncode for one in running if one.poll() is not None]
            running = [one for one in running if one.returncode is None]
            time.sleep(0.1)
        return ends


def left_over(name: str) -> list[str]:
    """The command lines of processes of a campaign that are still there, a while after its last run has ended."""
    deadline = time.monotonic() + _LEAVING_SECONDS
    while (found := _marked(name)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _marked(name: str) -> list[str]:
    wanted = f"{MARK}={name}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        # Others come and go meanwhile; what has ended and is not waited for has no environment.
        with suppress(OSError):
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found += [command] if command else []
    return found
