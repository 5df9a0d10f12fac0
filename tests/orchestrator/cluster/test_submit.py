"""Jobs on a real cluster: what is sent, what comes back, and what is refused before anything is sent."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from zipfile import ZipFile

import pytest

from orchestrator.cli import parser as cli
from orchestrator.cluster.secret_files import refuse_secrets
from orchestrator.cluster.working_directory import WorkingDirectory
from orchestrator.execution.provenance import Code
from workloads.errors import InputError

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[3]

# A cluster of one process tree that ends when its standard input does.
CLUSTER = """
import functools, sys, ray
from ray._private.parameter import RayParams
# Without the agent no job starts, and another Ray on this machine, such as that of other tests, has its usual port.
RayParams.__init__ = functools.partialmethod(RayParams.__init__, dashboard_agent_listen_port=0)
context = ray.init("local", num_cpus=1, include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=0,
                   log_to_driver=False, object_store_memory=100_000_000)
# A job's driver connects to the cluster that is noted as the last to have been started, as `ray start` does.
ray._private.utils.write_ray_address(context.address_info["gcs_address"])
print(context.dashboard_url, flush=True)
sys.stdin.read()
"""
# Two jobs that fail, the first for reasons that a new start may mend; with what the submission of each returned.
FAILING = """
import sys
from pathlib import Path
from orchestrator.cluster.submit import Submission, connect, run_until_done
from orchestrator.cluster.working_directory import WorkingDirectory
client = connect(sys.argv[1])
for code, retries in ((3, 1), (2, 1)):
    command = ["python", "-c", f"print('heard of {code}'); raise SystemExit({code})"]
    print("returned", run_until_done(client, Submission(command, WorkingDirectory.of(Path.cwd(), [])), retries))
"""


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text("a-token-of-this-test-and-nobody-else")
    return path


@pytest.fixture(scope="module")
def environment(token: Path) -> Iterator[dict[str, str]]:
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # A job's `python` is the first of the path.
    found = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    asks = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    # A folder of its own for this cluster, so that its job server finds it and no other, and a short one.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as sessions:
        yield kept | asks | {"PATH": found, "PYTHONPATH": path, "RAY_TMPDIR": sessions}


@pytest.fixture(scope="module")
def address(environment: dict[str, str]) -> Iterator[str]:
    """The job server of a cluster that asks for the token."""
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        # Only what is sent with a job is there for it.
        env={name: value for name, value in environment.items() if name != "PYTHONPATH"},
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as cluster:
        assert cluster.stdout is not None
        url = cluster.stdout.readline().strip()
        assert url, "no cluster came up"
        yield f"http://{url}"
        assert cluster.stdin is not None
        cluster.stdin.close()
        cluster.wait(timeout=60)


def run(folder: Path, environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_an_experiment_is_sent_run_and_followed(address: str, environment: dict[str, str], tmp_path: Path) -> None:
    """From a folder that holds no code: the code is sent beside it."""
    folder, storage = tmp_path / "folder", tmp_path / "storage"
    folder.mkdir()
    (folder / "small.yaml").write_text(
        "dataset: {name: scenes, image_size: [64, 96], num_train: 4, num_val: 2}\n"
        "labels: {extractor: {arch: filters, output_stride: 8}, superpixels: null}\n"
        "compute: {shard_images: 8}\n"
    )
    ended = run(
        folder,
        environment,
        *("-m", "lookbeyond", "submit", "small.yaml", "labels.clustering.k=3"),
        *("--address", address, "--storage", str(storage), "--until", "labels"),
    )
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "small: 1 cell" in ended.stdout, "the job's log is followed"
    assert f"ray job submit --address {address} --working-dir . --runtime-env-json" in ended.stderr
    results = json.loads((storage / "results/small.json").read_text())
    assert [cell["status"] for cell in results["cells"]] == ["done"]
    assert results["provenance"]["git"] == json.loads(json.dumps(asdict(Code.of(REPOSITORY))))
    assert not (folder / "storage").exists()


def test_exit_codes_come_back_and_only_what_may_be_mended_is_sent_again(
    address: str, environment: dict[str, str], tmp_path: Path
) -> None:
    ended = run(tmp_path, environment, "-c", FAILING, address)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    lines = [line for line in ended.stdout.splitlines() if line.startswith(("heard", "returned"))]
    assert lines == ["heard of 3", "heard of 3", "returned 3", "heard of 2", "returned 2"]


@pytest.mark.parametrize("change", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN_PATH": "other"}])
def test_without_the_token_one_line_says_so(
    change: dict[str, str], address: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "other").write_text("some-other-token-of-the-same-length!")
    ended = run(
        tmp_path, environment | change, "-m", "lookbeyond", "submit", "demo", "--address", address, "--storage", "/s"
    )
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "asks for a token and got none, or another" in ended.stderr


Refused = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOOKBEYOND_STORAGE", raising=False)
    return tmp_path


@pytest.fixture
def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The message of a submission that is refused; no cluster is there to be asked."""

    def message(*arguments: str) -> str:
        assert cli.main(["submit", *arguments, "--address", "http://127.0.0.1:9"]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert all(line.startswith("lookbeyond: ") for line in printed.err.splitlines())
        return printed.err

    return message


def test_no_cluster_at_the_address(folder: Path, refused: Refused) -> None:
    message = refused("demo", "--storage", "/storage")
    assert "no job server of a Ray cluster answers there" in message
    assert len(message.splitlines()) == 1


def test_what_is_sent_is_what_git_would_keep(tmp_path: Path) -> None:
    """git itself says what its ignore files leave out."""
    folder = tmp_path / "folder"
    names = ["a.py", "data/big.bin", "data/keep.txt", "sub/a.log", "sub/keep.log", "sub/deep/x.tmp", "top.tmp", ".env"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / ".gitignore").write_text("/data/*\n!/data/keep.txt\n*.log\n/top.tmp\n")
    (folder / "sub/.gitignore").write_text("!keep.log\ndeep/\n")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    kept = subprocess.run(
        ["git", "-C", str(folder), "ls-files", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {place.as_posix() for place in WorkingDirectory.of(folder, []).files} == set(kept)
    (folder / ".rayignore").write_text("!/data/big.bin\n.env\n")
    changed = {place.as_posix() for place in WorkingDirectory.of(folder, []).files}
    assert changed == (set(kept) | {"data/big.bin", ".rayignore"}) - {".env"}


def test_what_is_measured_is_what_is_packed_byte_for_byte(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/data.bin").write_bytes(bytes(range(256)) * 100)
    (folder / "sub/round").symlink_to(folder)
    directory = WorkingDirectory.of(folder, [REPOSITORY / "lookbeyond"])
    for name in ("one.zip", "two.zip"):
        directory.pack(tmp_path / name)
        os.utime(folder / "sub/data.bin", (1, 1))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with ZipFile(tmp_path / "one.zip") as archive:
        assert {one.filename for one in archive.infolist()} == {place.as_posix() for place in directory.files}
        assert sum(one.file_size for one in archive.infolist()) == directory.size
        assert archive.read("sub/data.bin") == (folder / "sub/data.bin").read_bytes()
        assert "lookbeyond/__main__.py" in archive.namelist()


def test_a_large_folder_is_refused_with_what_is_large(folder: Path, refused: Refused) -> None:
    for name, size in {"small.py": 10, "data/big.bin": 300_000_000, "ignored/huge.bin": 900_000_000}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        with (folder / name).open("wb") as file:
            file.truncate(size)
    (folder / ".git").mkdir()
    with (folder / ".git/pack").open("wb") as file:
        file.truncate(900_000_000)
    (folder / ".gitignore").write_text("ignored/\n")
    message = refused("demo", "--storage", "/storage")
    assert re.search(r"would send 30\d\.\d MB", message)
    assert "data/big.bin" in message
    assert "huge" not in message
    assert "pack" not in message
    assert "small.py" not in message


def test_files_that_hold_secrets_by_their_names_are_refused_unless_told(folder: Path, refused: Refused) -> None:
    secret = [
        ".env",
        ".netrc",
        ".aws/credentials",
        ".ssh/config",
        ".ray/auth_token",
        "keys/A.PEM",
        "sub/.env.production",
    ]
    for name in [*secret, ".env.example", ".ray/config", "environment.py", "a.pem.md", "ignored/.env"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / ".gitignore").write_bytes(b"ignored/\n# \xff\n")
    message = refused("demo", "--storage", "/storage")
    named = re.search(r"names: (.*); name them in \.gitignore or \.rayignore", message)
    assert named is not None and set(named[1].split(", ")) == set(secret)
    told = [word for name in secret for word in ("--send", name)]
    assert f"names: {secret[-1]};" in refused("demo", "--storage", "/storage", *told[:-2])
    assert "no job server" in refused("demo", "--storage", "/storage", *told)
    assert "--send nothing: no file" in refused("demo", "--storage", "/storage", *told, "--send", "nothing")


def test_secrets_are_seen_from_within_their_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="by their names: credentials;"):
        refuse_secrets(tmp_path / ".aws", [Path("credentials")], ())


def test_a_storage_that_would_end_with_the_job_is_refused(folder: Path, refused: Refused) -> None:
    assert "--storage storage is a relative path" in refused("demo")


def test_an_experiment_that_would_not_be_sent_is_refused(folder: Path, refused: Refused) -> None:
    for name in ("ignored.yaml", "sent.yaml"):
        (folder / name).write_text("dataset: {name: scenes}\n")
    (folder / ".rayignore").write_text("ignored.yaml\n")
    assert "ignored.yaml would not be sent" in refused("ignored.yaml", "--storage", "/storage")
    assert "no job server" in refused("sent.yaml", "--storage", "/storage")


def test_a_wrong_experiment_is_refused_before_it_is_sent(folder: Path, refused: Refused) -> None:
    assert "did you mean labels" in refused("demo", "labls.images=3", "--storage", "/storage")


def test_retries_without_waiting_are_refused(folder: Path, refused: Refused) -> None:
    message = refused("demo", "--storage", "/storage", "--no-wait", "--retries", "2")
    assert "--retries waits for the end of each job" in message
