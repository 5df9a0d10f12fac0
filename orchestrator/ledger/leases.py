"""Leases: how two runs on one storage share the work instead of doing it twice.

The model: who works on a step holds ``leases/KEY/GENERATION.json``, made by create-if-absent, and rewrites it every few
seconds. A lease whose content did not change for `seconds` on the observer's own clock is dead, at once so when its
process is known to be gone on this machine; time in which the storage itself did not answer is not silence. Taking over
means creating the next generation and then looking again: whoever finds anything there but its own lease and the very
contents that it saw die gives way. Of two that create, the later look sees both leases, so both never stay. A holder
that was silent for too long learns at its next beat that it was replaced, which it cannot undo, and the work on its
steps by its fence, before it writes. The failures this guards against: clocks that
disagree, two runs taking over together, an observer that acts on what it saw long ago, waiting for the dead.
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from orchestrator.ledger.documents import read_json
from orchestrator.ledger.layout import LEASES, lease_folder, lease_path, leased_key, stem
from orchestrator.storage.store import Storage, StorageUnavailableError
from workloads.errors import InputError

_LOG = logging.getLogger("lookbeyond.leases")

_BEATS = 6  # in the time after which a silent lease is dead
# Nobody is waited for longer, whatever a lease says.
_LONGEST_SECONDS = 86400.0


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
        if not self.place or self.place != Holder.here().place:
            return False
        started = _start_time(self.process)
        if started is not None:
            return started != self.started
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            # A process of another user, of which /proc may be told not to speak (hidepid).
            return False
        return False

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


@dataclass
class Leases:
    """The leases of this process on one storage. A daemon thread keeps them alive until `close`."""

    storage: Storage
    seconds: float
    holder: Holder = field(default_factory=Holder.here)
    _run: str = field(default_factory=lambda: secrets.token_hex(8))
    _held: dict[str, int] = field(default_factory=dict)
    _seen: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    _beats: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _is_storage_away: bool = False
    _thread: threading.Thread | None = None

    def acquire(self, key: str) -> bool:
        """Hold the lease of a step if nobody alive holds it."""
        with self._lock:
            if key in self._held:
                return True
            dead = self._claims(key)
            # Each is looked at, so that the silence of all is measured from now on.
            alive = [number for number, content in dead.items() if not self._is_dead(lease_path(key, number), content)]
            if alive:
                return False
            mine = max(dead, default=-1) + 1
            if not self.storage.create(lease_path(key, mine), self._content()):
                return False
            others = self._claims(key, but=mine)
            if any(dead.get(generation) != content for generation, content in others.items()):
                self.storage.delete(lease_path(key, mine))
                return False
            self._held[key] = mine
            for generation in dead:
                self.storage.delete(lease_path(key, generation))
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat_until_closed, daemon=True, name="leases")
            self._thread.start()
        return True

    def watch(self, keys: Collection[str]) -> None:
        """Begin to measure the silence of leases that will be wanted later."""
        for key in self.leased(keys):
            with self._lock:
                if key not in self._held:
                    for generation, content in self._claims(key).items():
                        self._is_dead(lease_path(key, generation), content)

    def sweep(self, keys: Collection[str]) -> None:
        """Take away what those known to be dead have left of steps that are done, and that nobody will hold again.

        What cannot be taken away harms nobody and stays.
        """
        try:
            for key in self.leased(keys):
                with self._lock:
                    claims = {} if key in self._held else self._claims(key)
                    for generation, content in claims.items():
                        if self._is_dead(lease_path(key, generation), content):
                            self.storage.delete(lease_path(key, generation))
        except (OSError, InputError) as error:
            _LOG.info("leases of the dead are left: %s", error)

    def is_free(self, key: str) -> bool:
        """Whether nobody alive holds the lease of a step."""
        with self._lock:
            dead = [self._is_dead(lease_path(key, number), content) for number, content in self._claims(key).items()]
        return all(dead)

    def holder_of(self, key: str) -> Holder | None:
        """Who holds the lease of a step."""
        with self._lock:
            claims = self._claims(key)
        return _read(claims[max(claims)])[0] if claims else None

    def release(self, key: str) -> None:
        """Give a lease back."""
        with self._lock:
            if key in self._held:
                path = lease_path(key, self._held[key])
                if self._is_own(self.storage.find(path) or b""):
                    self.storage.delete(path)
                del self._held[key]

    def holds(self, key: str) -> bool:
        """Whether a step is still this run's, as far as its last beat has told."""
        with self._lock:
            return key in self._held

    def fence(self, key: str) -> "Fence":
        """What work on a step that is held goes by, on whatever machine it is done."""
        with self._lock:
            return Fence(self.storage, lease_path(key, self._held[key]), self._run)

    def close(self) -> None:
        """Give all leases back and stop the heartbeat."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            while self._held and not self._is_storage_away:
                self.release(next(iter(self._held)))
        except StorageUnavailableError as error:
            _LOG.warning("%s", error)
        if self._held:
            # What one lease has waited for in vain the others need not.
            _LOG.warning("%d leases are left; they end by themselves after %g s", len(self._held), self.seconds)
            self._held.clear()

    def leased(self, keys: Collection[str]) -> set[str]:
        """Those of the steps that anybody holds a lease of, from one listing."""
        wanted = set(keys)
        return {key for file in self.storage.files(LEASES, deep=True) if (key := leased_key(file.path)) in wanted}

    def _is_dead(self, path: str, content: bytes) -> bool:
        holder, seconds = _read(content)
        if holder is not None and holder.is_known_dead():
            return True
        seen, since = self._seen.get(path, (None, 0.0))
        if seen != content:
            self._seen[path] = (content, time.monotonic())
            return False
        # The holder beats as often as its own setting asks for, which may be less often than ours expects.
        return time.monotonic() - since > max(self.seconds, seconds)

    def _claims(self, key: str, but: int | None = None) -> dict[int, bytes]:
        """The lease files of a step by generation, one's own left out where it is given."""
        begun = time.monotonic()
        while True:
            names = [stem(file.path) for file in self.storage.files(lease_folder(key))]
            generations = [int(name) for name in names if name.isdecimal()]
            try:
                claims = {number: self.storage.read(lease_path(key, number)) for number in generations if number != but}
            except FileNotFoundError:
                # Given back or taken over since the listing: only another listing tells which.
                continue
            break
        if time.monotonic() - begun > self.seconds / 2:
            # A storage that slow was so for all holders, too: their silence is counted anew.
            self._seen.clear()
        return claims

    def _content(self) -> bytes:
        self._beats += 1
        content = {"holder": vars(self.holder), "run": self._run, "beat": self._beats, "seconds": self.seconds}
        return json.dumps(content).encode()

    def _beat_until_closed(self) -> None:
        while not self._stop.wait(self.seconds / _BEATS):
            with self._lock:
                for key in list(self._held):
                    try:
                        self._beat(key)
                    except (OSError, InputError) as error:
                        # One missed beat is what `seconds` leaves room for; the next one is tried in time.
                        _LOG.info("a beat was missed: %s", error)
                        self._is_storage_away = isinstance(error, StorageUnavailableError)
                    else:
                        self._is_storage_away = False
                    if self._stop.is_set():
                        return

    def _beat(self, key: str) -> None:
        # Conditionally: a run that was stopped between looking and writing must not bring back what others took over.
        path, content = lease_path(key, self._held[key]), self._content()
        if not self.storage.update(path, lambda found: content if self._is_own(found) else None):
            del self._held[key]
            _LOG.warning("another run took over step %s, as this one was silent for too long", key[:12])

    def _is_own(self, content: bytes) -> bool:
        return self._run.encode() in content


@dataclass(frozen=True)
class _Lease:
    holder: Holder
    seconds: Annotated[float, Field(gt=0, le=_LONGEST_SECONDS)]


_LEASE = TypeAdapter(_Lease)


def _read(content: bytes) -> tuple[Holder | None, float]:
    """Holder and seconds of a lease; nobody's where a power cut left no content, or somebody wrote nonsense."""
    try:
        lease = read_json(content, _LEASE)
    except ValueError:
        return None, 0.0
    return lease.holder, lease.seconds


class LeaseLostError(Exception):
    """Another run took over the step that this process works on."""


@dataclass(frozen=True)
class Fence:
    """A held lease, as the work on its step knows it: the file, and the run that it must be of."""

    storage: Storage
    path: str
    run: str

    def require(self) -> None:
        """Look whether the lease is still held; asked before whatever is written under the name of the step.

        Raises:
            LeaseLostError: it is not. The step is another run's, whatever became of ours.
        """
        if self.run.encode() not in (self.storage.find(self.path) or b""):
            raise LeaseLostError(f"another run took over the step of {self.path}")


def _start_time(process: int) -> int | None:
    """Clock ticks after boot at which the process started, 0 of a zombie; None when /proc does not speak of it."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rsplit(")", 1)[1].split()
    return 0 if fields[0] in "ZX" else int(fields[19])
