"""An experiment as a job on a cluster: what is sent, how it is followed, and how it ended.

The working directory travels, the job is `python -m lookbeyond run ...`, and its exit code becomes ours: a job that
failed while its submission answered 0 would be taken for done, and results whose code nobody can name for none.
"""

import asyncio
import json
import os
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

import orchestrator
from orchestrator.cluster.ray_private import NO_AGENT_YET, quieten_job_client
from orchestrator.cluster.session import TOKEN_REFUSED
from orchestrator.cluster.working_directory import WorkingDirectory
from orchestrator.execution.provenance import Code
from workloads.errors import InputError

_PACKAGES = [Path(orchestrator.__path__[0]).with_name(name) for name in ("lookbeyond", "orchestrator", "workloads")]
_POLL_SECONDS = 1.0
# How long the head may not answer (a tunnel that is built anew, a head under load) before the job is given up for lost.
_SILENCE_SECONDS = 60.0
# A machine that is busy with something else takes minutes to start all of Ray's processes.
_START_SECONDS = 180.0
_FAILED, _WRONG_INPUT = 1, 2


@dataclass(frozen=True)
class Submission:
    """A job: its command, the files that are sent with it, and what Ray and the job are told."""

    command: list[str]
    directory: WorkingDirectory
    variables: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(arguments: list[str], folder: Path) -> "Submission":
        """The job that runs `lookbeyond run` with these arguments on what is in a folder.

        A folder that holds experiments and not the code is sent with the code that runs here.
        """
        directory = WorkingDirectory.of(folder, _PACKAGES)
        code = Code.of(folder if directory.holds_code else _PACKAGES[0])
        variables = code.to_environment() if code else {}
        metadata = {"git_commit": code.commit, "git_changes": ", ".join(code.changes)} if code else {}
        return Submission(["python", "-m", "lookbeyond", "run", *arguments], directory, variables, metadata)

    def plain_line(self, address: str) -> str:
        """The `ray job submit` line that does the same."""
        environment: dict[str, Any] = {"env_vars": self.variables} if self.variables else {}
        if not self.directory.holds_code:
            environment["py_modules"] = [str(package) for package in _PACKAGES]
        words = ["ray", "job", "submit", "--address", address, "--working-dir", "."]
        if environment:
            words += ["--runtime-env-json", json.dumps(environment)]
        if self.metadata:
            words += ["--metadata-json", json.dumps(self.metadata)]
        return shlex.join([*words, "--", *self.command])


def connect(address: str) -> JobSubmissionClient:
    """The cluster's job server.

    Raises:
        InputError: none answers at the address, or it asks for a token that is missing or another.
    """
    quieten_job_client()
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
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "lookbeyond.zip")
        submission.directory.pack(archive)
        environment = {"working_dir": str(archive), "env_vars": submission.variables}
        return _submit(client, submission, environment)


def _submit(client: JobSubmissionClient, submission: Submission, environment: dict[str, Any]) -> str:
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
            if NO_AGENT_YET not in str(error) or time.monotonic() > deadline:
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
