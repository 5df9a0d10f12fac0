"""What this machine gives to a Ray that is to start here: looked at first, as Ray says it late, in many words or never.

What can be had otherwise is (a short folder for sockets, a token where the home folder cannot be written); for the rest
there is one sentence that names the variable or the limit.
"""

import os
import re
import resource
import shutil
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.storage.disk_space import full_disks
from workloads.errors import InputError

# A socket's path has at most 107 bytes, of which Ray's own folders and names take up to 68.
_LONGEST = 39
_PLAIN = re.compile(r"/[A-Za-z0-9_./+@%=:~-]*")
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_OPEN_FILES = 65536
_LEAST_OPEN_FILES = 512
_LEAST_ADDRESS_SPACE = 8_000_000_000
# Ray's own processes have about 300 threads, and each of its workers 60 when it starts.
_LEAST_THREADS = 300
_WORKER_THREADS = 60
# Logs and sockets of a run; what it computes lies on the storage.
_LEAST_ROOM = 20_000_000
_PROBE_SECONDS = 5.0
_MODES = ("token", "disabled", "k8s")


def asked_address(option: str | None) -> tuple[str | None, str]:
    """The cluster that a run is told of by its option or else by RAY_ADDRESS, and what to call that in a message."""
    variable = os.environ.get("RAY_ADDRESS") or None
    # Ray's word for one that it starts itself.
    address = option or (variable if variable != "local" else None)
    return address, f"--address {option}" if option else f"RAY_ADDRESS={variable}"


def require_answer(address: str, name: str) -> None:
    """Refuse an address at which nothing answers, for which Ray would wait for minutes.

    Raises:
        InputError: it is no address of a cluster, or nothing listens there.
    """
    if address == "auto":
        return
    if address.startswith(("http://", "https://")):
        raise InputError(f"{name} is a job server; `lookbeyond submit --address {address}` runs an experiment there")
    host, colon, port = address.rpartition(":")
    if "://" in address or not (colon and host and port.isdigit()):
        raise InputError(
            f"{name} is no address of a Ray cluster; allowed: HOST:PORT, or auto for the one on this machine"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PROBE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"{name}: no Ray cluster answers there ({error}); give the address of one that runs, or none at all"
        ) from None


@contextmanager
def fit_for_ray(object_store_bytes: int) -> Iterator[str | None]:
    """Look at the limits, and see to a token; the folder for Ray's sockets, None for the one that Ray takes by itself.

    Raises:
        InputError: Ray could not start here; names the variable or the limit.
    """
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode and mode.lower() not in _MODES:
        raise InputError(f"RAY_AUTH_MODE={mode} is not known; allowed: {', '.join(_MODES)}")
    if sys.flags.optimize > 1:
        raise InputError("PYTHONOPTIMIZE=2 takes texts out of Ray without which it does not start; set 1 or nothing")
    if "error" in os.environ.get("PYTHONWARNINGS", ""):
        raise InputError(f"PYTHONWARNINGS={os.environ['PYTHONWARNINGS']} ends Ray's own processes; leave it out")
    _check_limits(object_store_bytes)
    _see_to_a_token()
    if _holds_sockets(_default_folder()):
        yield None
        return
    folder = _own_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_limits(object_store_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    for limit, flag, least, what in (
        (resource.RLIMIT_NOFILE, "-n", _LEAST_OPEN_FILES, "open files"),
        (resource.RLIMIT_FSIZE, "-f", object_store_bytes, "bytes in a file"),
        (resource.RLIMIT_AS, "-v", _LEAST_ADDRESS_SPACE, "bytes of address space"),
    ):
        allowed = resource.getrlimit(limit)[0]
        if allowed != resource.RLIM_INFINITY and allowed < least:
            raise InputError(f"ulimit {flag} allows {allowed:,} {what}; Ray needs {least:,} on this machine")
    allowed = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    # The kernel holds root to no such limit.
    if allowed != resource.RLIM_INFINITY and os.getuid():
        taken = _threads_of_this_user()
        least = _LEAST_THREADS + _WORKER_THREADS * (len(os.sched_getaffinity(0)) + 1)
        if allowed - taken < least:
            raise InputError(
                f"ulimit -u allows this user {allowed:,} processes and threads, of which {taken:,} are there; Ray "
                f"needs {least:,} more on this machine"
            )


def _threads_of_this_user() -> int:
    """Threads of all processes of this user that can be seen."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        # Others come and go meanwhile.
        with suppress(OSError):
            if process.stat().st_uid == os.getuid():
                found += sum(1 for _ in (process / "task").iterdir())
    return found


def _see_to_a_token() -> None:
    """Ray keeps its token in the home folder. Where it could not, this run has one of its own, which ends with it."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    try:
        home = Path.home()
        folder = home / ".ray"
        usable = os.access(folder if folder.is_dir() else home, os.W_OK | os.X_OK) and home.is_dir()
        usable = usable or os.access(folder / "auth_token", os.R_OK)
    except (RuntimeError, OSError):
        usable = False
    if not usable:
        os.environ["RAY_AUTH_TOKEN"] = uuid.uuid4().hex


def _default_folder() -> str:
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()


def _holds_sockets(folder: str) -> bool:
    """Whether Ray's sockets can lie below a folder: short, plain, there, writable, and not full."""
    place, taken = Path(folder), Path(folder, "ray")
    return (
        len(os.fsencode(folder)) <= _LONGEST
        and _PLAIN.fullmatch(folder) is not None
        and place.is_dir()
        and os.access(taken if taken.exists() else place, os.W_OK | os.X_OK)
        and not full_disks([folder], _LEAST_ROOM)
    )


def _own_folder() -> str:
    full = full_disks([_default_folder(), *_SHORT_FOLDERS], _LEAST_ROOM)
    for base in _SHORT_FOLDERS:
        try:
            if base not in full:
                return tempfile.mkdtemp(prefix="lb", dir=base)
        except OSError:
            continue
    if full:
        named = ", ".join(f"{folder} has {left / 1e6:.1f} MB left" for folder, left in full.items())
        raise InputError(f"no room for Ray's logs and sockets: {named}; Ray needs {_LEAST_ROOM / 1e6:.0f} MB in TMPDIR")
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "TMPDIR")
    raise InputError(
        f"{name}={os.environ.get(name, '')}: Ray's sockets need a folder that can be written, with a path of at most "
        f"{_LONGEST} plain characters; {', '.join(_SHORT_FOLDERS)} are none either"
    )
