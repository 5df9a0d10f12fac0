"""An experiment as a job on a cluster: what is sent, how it is followed, and how it ended.

The model: the working directory travels (without what .gitignore and .rayignore name, and without .git), the job is
`python -m lookbeyond run ...`, and its exit code becomes ours. The failures this guards against: gigabytes sent by
accident, results whose code nobody can name, results written where the job's folder is deleted, and a job that failed
while its submission answered 0.
"""

import asyncio
import json
import logging
import os
import shlex
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import _dir_travel, _get_excludes
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

import orchestrator
from orchestrator.cluster.session import TOKEN_REFUSED
from orchestrator.execution.provenance import Code
from workloads.errors import InputError

_PACKAGES = [
    str(Path(orchestrator.__path__[0]).with_name(name)) for name in ("lookbeyond", "orchestrator", "workloads")
]
_OFFENDERS = 8
_POLL_SECONDS = 1.0
# How long the head may not answer (a tunnel that is built anew, a head under load) before the job is given up for lost.
_SILENCE_SECONDS = 60.0
# A machine that is busy with something else takes minutes to start all of Ray's processes.
_START_SECONDS = 180.0
_FAILED, _WRONG_INPUT = 1, 2

# Ray tells of every ignore file and of each request; what matters here comes as an error.
for _name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
    logging.getLogger(_name).setLevel(logging.ERROR)


@dataclass(frozen=True)
class Submission:
    """A job: its command, the folder that is sent with it, and what Ray and the job are told."""

    command: list[str]
    folder: Path
    environment: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(arguments: list[str], folder: Path) -> "Submission":
        """The job that runs `lookbeyond run` with these arguments on what is in a folder."""
        environment: dict[str, Any] = {}
        sent = folder
        if not all((folder / Path(package).name).is_dir() for package in _PACKAGES):
            # The folder holds experiments, not the code: the code that runs here is sent beside it.
            environment["py_modules"] = _PACKAGES
            sent = Path(_PACKAGES[0])
        code = Code.of(sent)
        if code:
            environment["env_vars"] = code.to_environment()
        metadata = {"git_commit": code.commit, "git_changes": ", ".join(code.changes)} if code else {}
        return Submission(["python", "-m", "lookbeyond", "run", *arguments], folder, environment, metadata)

    def plain_line(self, address: str) -> str:
        """The `ray job submit` line that does the same."""
        words = ["ray", "job", "submit", "--address", address, "--working-dir", "."]
        if self.environment:
            words += ["--runtime-env-json", json.dumps(self.environment)]
        if self.metadata:
            words += ["--metadata-json", json.dumps(self.metadata)]
        return shlex.join([*words, "--", *self.command])


def files_to_send(folder: Path) -> dict[Path, int]:
    """Every file below a folder that Ray would send, with its size in bytes."""
    sizes: dict[Path, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(folder)] = path.stat().st_size

    # Ray's own walk, so that what is measured is what is sent.
    ignored = _get_excludes(folder, get_runtime_env_default_excludes())
    _dir_travel(folder, [ignored], note, include_gitignore=True)
    return sizes


def refuse_large(folder: Path, limit: int) -> int:
    """The bytes that would be sent.

    Raises:
        InputError: they are more than `limit`; the message names the largest files and folders.
    """
    sizes = files_to_send(folder)
    total = sum(sizes.values())
    if total <= limit:
        return total
    tops: Counter[str] = Counter()
    for path, size in sizes.items():
        tops[path.parts[0] + ("/" if len(path.parts) > 1 else "")] += size
    lines = [
        f"{folder} would send {_megabytes(total)} in {len(sizes)} files, more than --limit {limit / 1e6:.0f} (MB); "
        "name what the job does not need in .gitignore or .rayignore. The largest:"
    ]
    largest = sorted(sizes.items(), key=lambda item: -item[1])
    lines += [f"  {_megabytes(size)}  {path}" for path, size in largest[:_OFFENDERS] if size > limit / 100]
    folders = [(name, size) for name, size in tops.most_common(_OFFENDERS) if name.endswith("/") and size > limit / 100]
    lines += [f"  {_megabytes(size)}  {name} in all" for name, size in folders]
    raise InputError("\n".join(lines))


def refuse_missing(folder: Path, names: list[str]) -> None:
    """Refuse files that the job needs and would not be sent.

    Raises:
        InputError: one of them lies outside of the folder, is given by its full path, or is ignored.
    """
    sent = files_to_send(folder)
    for name in names:
        if Path(name) not in sent:
            raise InputError(
                f"{name} would not be sent with the job: it must lie below {folder}, be given relative to it, and not "
                "be named by .gitignore or .rayignore"
            )


def connect(address: str) -> JobSubmissionClient:
    """The cluster's job server.

    Raises:
        InputError: none answers at the address, or it asks for a token that is missing or another.
    """
    # Ray would prefer what these variables say to the address that it is given.
    hidden = {name: os.environ.pop(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS") if name in os.environ}
    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        raise InputError(f"--address {address}: {TOKEN_REFUSED}") from None
    except (OSError, RuntimeError, ValueError) as error:
        # requests' errors are OSErrors; of the long ones only the first line says something.
        reason = str(error).splitlines()[0]
        raise InputError(f"--address {address}: no job server of a Ray cluster answers there ({reason})") from None
    finally:
        os.environ.update(hidden)


def start(client: JobSubmissionClient, submission: Submission) -> str:
    """Send the folder, start the job and return its name.

    Raises:
        InputError: the cluster refused it.
    """
    environment = {"working_dir": str(submission.folder), **submission.environment}
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            return client.submit_job(
                entrypoint=shlex.join(submission.command), runtime_env=environment, metadata=submission.metadata
            )
        except AuthenticationError:
            raise InputError(f"--address {client.get_address()}: {TOKEN_REFUSED}") from None
        except (OSError, RuntimeError, ValueError) as error:
            # A head that has just started takes requests before it can run a job.
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise InputError(f"--address {client.get_address()}: the job was refused ({error})") from None
            time.sleep(_POLL_SECONDS)


def follow(client: JobSubmissionClient, job: str) -> int:
    """Print the job's log until it ends, and return its exit code; 1 when it ended without one."""
    try:
        asyncio.run(_print_log(client, job))
    except (OSError, RuntimeError, aiohttp.ClientError) as error:
        print(f"lookbeyond: the log of {job} is followed no longer ({error}); waiting for its end", file=sys.stderr)
    info = _wait(client, job)
    if info is None:
        print(f"lookbeyond: the cluster has not answered for {_SILENCE_SECONDS:.0f} s", file=sys.stderr)
        return _FAILED
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.driver_exit_code:
        return int(info.driver_exit_code)
    message = str(info.message or "").strip().splitlines()
    print(f"lookbeyond: {job} {info.status.lower()}: {message[-1] if message else 'no reason given'}", file=sys.stderr)
    return _FAILED


def run_until_done(client: JobSubmissionClient, submission: Submission, retries: int) -> int:
    """Submit and follow; again, up to `retries` times, when the job failed for reasons that a new start may mend."""
    for attempt in range(retries + 1):
        job = start(client, submission)
        print(f"lookbeyond: job {job} started; Ctrl-C leaves it running", file=sys.stderr)
        try:
            code = follow(client, job)
        except KeyboardInterrupt:
            print(f"lookbeyond: {job} goes on; `ray job stop {job}` ends it", file=sys.stderr)
            raise
        # 2 is for the user to mend. A job that was stopped was stopped on purpose.
        if code in (0, _WRONG_INPUT) or _was_stopped(client, job):
            return code
        if attempt < retries:
            print(f"lookbeyond: {job} ended with {code}; submitting it again", file=sys.stderr)
    return code


def _was_stopped(client: JobSubmissionClient, job: str) -> bool:
    try:
        return client.get_job_status(job) == JobStatus.STOPPED
    except (OSError, RuntimeError):
        return False


async def _print_log(client: JobSubmissionClient, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


def _wait(client: JobSubmissionClient, job: str) -> Any:
    """What is known of the job at its end; None when the cluster has been silent for too long."""
    heard = time.monotonic()
    while time.monotonic() - heard < _SILENCE_SECONDS:
        try:
            info = client.get_job_info(job)
        except (OSError, RuntimeError):
            time.sleep(_POLL_SECONDS)
            continue
        if info.status.is_terminal():
            return info
        heard = time.monotonic()
        time.sleep(_POLL_SECONDS)
    return None


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
