"""`lookbeyond submit`: everything that can be refused before Ray is asked, then the job.

The model: what is wrong with an experiment, a storage or a folder is the user's to mend and is said in a second, not by
a job that fails on a cluster that is paid for.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.planning.cluster_config import cluster_capacity
from orchestrator.spec.grid import Cell
from workloads.errors import InputError


@dataclass(frozen=True)
class Sending:
    """How a job is sent: the most bytes, whether its end is waited for, how often it is submitted again, and which
    files with the names of secrets go with it on purpose.
    """

    limit: int
    wait: bool
    retries: int
    secrets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.retries and not self.wait:
            raise InputError("--retries waits for the end of each job; it is not allowed with --no-wait")


def submit_experiment(
    experiment: str,
    cells: Sequence[Cell],
    overrides: Sequence[str],
    *,
    storage: str,
    until: str,
    address: str,
    sending: Sending,
) -> int:
    """Run the experiment as a job on the cluster at `address` and return the job's exit code.

    `cells` are those of the experiment, validated. Without waiting, the job's name is printed and the code is 0.

    Raises:
        InputError: the storage would not outlive the job, a file that the job needs would not be sent, what would be
            sent is too large or secret, or no cluster answers.
    """
    if "://" not in storage and not storage.startswith(("/", "~")):
        raise InputError(
            f"--storage {storage} is a relative path: the job would write into a folder that ends with it; "
            "allowed: s3://, gs://, or the full path of a folder that all machines share"
        )
    cluster_configs = {path for cell in cells if (path := cell.entry.compute.cluster_config)}
    for path in cluster_configs:
        cluster_capacity(path)
    # Ray takes a second to import: what needs no Ray comes first.
    from orchestrator.cluster import submit
    from orchestrator.cluster.secret_files import refuse_secrets

    folder = Path.cwd()
    # `demo` is the packaged experiment, which is part of the code.
    files = [experiment] if Path(experiment).exists() else []
    arguments = [experiment, *overrides, "--storage", storage, "--until", until]
    submission = submit.Submission.of(arguments, folder)
    submission.directory.refuse_missing([*files, *sorted(cluster_configs)])
    refuse_secrets(folder, submission.directory.files, sending.secrets)
    submission.directory.refuse_large(sending.limit)
    client = submit.connect(address)
    print(
        f"sends {submission.directory.size / 1e6:.1f} MB; the same as\n{submission.plain_line(address)}",
        file=sys.stderr,
    )
    if not sending.wait:
        print(submit.start(client, submission))
        return 0
    return submit.run_until_done(client, submission, sending.retries)
