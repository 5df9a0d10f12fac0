"""Leases: how two runs on one storage share the work instead of doing it twice.

The model: who works on a step holds ``leases/KEY/GENERATION.json`` and rewrites it every few seconds. A lease whose
content did not change for `seconds` on the observer's own clock is dead, at once so when its process is known to be
gone on this machine. Taking over means creating the next generation, which only one of several observers can. The
failures this guards against: clocks that disagree, two runs taking over together, waiting for the dead.
"""

import json
import os
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.storage import Storage, StorageFullError


@dataclass(frozen=True)
class Holder:
    """A process that holds leases. `place` tells machines, boots and process-id namespaces apart."""

    host: str
    process: int
    started: int
    place: str

    @staticmethod
    def here() -> "Holder":
        """This process."""
        boot = Path("/proc/sys/kernel/random/boot_id")
        namespace = Path("/proc/self/ns/pid")
        place = f"{boot.read_text().strip()} {namespace.readlink()}" if boot.exists() else ""
        return Holder(socket.gethostname(), os.getpid(), _start_time(os.getpid()) or 0, place)

    def is_known_dead(self) -> bool:
        """Whether the process ran on this machine, in this namespace, and is gone."""
        return bool(self.place) and self.place == Holder.here().place and _start_time(self.process) != self.started

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


@dataclass
class Leases:
    """The leases of this process on one storage. A daemon thread keeps them alive until `close`."""

    storage: Storage
    seconds: float
    holder: Holder = field(default_factory=Holder.here)
    _held: dict[str, int] = field(default_factory=dict)
    _seen: dict[str, tuple[str, float]] = field(default_factory=dict)
    _beats: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def acquire(self, key: str) -> bool:
        """Hold the lease of a step if nobody alive holds it."""
        with self._lock:
            if key in self._held:
                return True
            latest = self._latest(key)
            generation = 0
            if latest is not None:
                generation, content = latest
                if not self._is_dead(f"{key}/{generation}", content):
                    return False
                generation += 1
            if not self.storage.create(_path(key, generation), self._content()):
                return False
            self._held[key] = generation
            if generation:
                self.storage.delete(_path(key, generation - 1))
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat_until_closed, daemon=True, name="leases")
            self._thread.start()
        return True

    def watch(self, key: str) -> None:
        """Begin to measure the silence of a lease that will be wanted later."""
        with self._lock:
            latest = self._latest(key)
            if latest is not None and key not in self._held:
                self._is_dead(f"{key}/{latest[0]}", latest[1])

    def holder_of(self, key: str) -> Holder | None:
        """Who holds the lease of a step."""
        latest = self._latest(key)
        if latest is None:
            return None
        return Holder(**latest[1]["holder"])

    def release(self, key: str) -> None:
        """Give a lease back."""
        with self._lock:
            generation = self._held.pop(key, None)
            if generation is not None:
                self.storage.delete(_path(key, generation))

    def close(self) -> None:
        """Give all leases back and stop the heartbeat."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for key in list(self._held):
            self.release(key)

    def _is_dead(self, name: str, content: dict[str, Any]) -> bool:
        if Holder(**content["holder"]).is_known_dead():
            return True
        text = json.dumps(content)
        seen, since = self._seen.get(name, ("", 0.0))
        if seen != text:
            self._seen[name] = (text, time.monotonic())
            return False
        # The holder beats as often as its own setting asks for, which may be less often than ours expects.
        return time.monotonic() - since > max(self.seconds, content.get("seconds", 0.0))

    def _latest(self, key: str) -> tuple[int, dict[str, Any]] | None:
        while True:
            generations = [
                int(file.path.rsplit("/", 1)[1].removesuffix(".json"))
                for file in self.storage.files(f"leases/{key}")
                if file.path.endswith(".json") and not file.path.rsplit("/", 1)[1].startswith(".")
            ]
            if not generations:
                return None
            newest = max(generations)
            try:
                return newest, json.loads(self.storage.read(_path(key, newest)))
            except FileNotFoundError:
                # Given back or taken over since the listing: only another listing tells which.
                continue

    def _content(self) -> bytes:
        self._beats += 1
        return json.dumps({"holder": vars(self.holder), "beat": self._beats, "seconds": self.seconds}).encode()

    def _beat_until_closed(self) -> None:
        while not self._stop.wait(self.seconds / 6):
            with self._lock:
                for key, generation in self._held.items():
                    try:
                        self.storage.replace(_path(key, generation), self._content())
                    except (OSError, StorageFullError):
                        # One missed beat is what `seconds` leaves room for; the next one is tried in time.
                        continue


def _path(key: str, generation: int) -> str:
    return f"leases/{key}/{generation}.json"


def _start_time(process: int) -> int | None:
    """Clock ticks after boot at which the process started; None when it is gone, a zombie, or there is no /proc."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rsplit(")", 1)[1].split()
    return None if fields[0] in "ZX" else int(fields[19])
