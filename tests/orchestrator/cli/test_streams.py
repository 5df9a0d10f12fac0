"""What is printed may be lost; what is done and its exit code never are."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from support.command_line import Commands

from orchestrator.cli.streams import lenient_streams

REPOSITORY = Path(__file__).resolve().parents[3]
PRINTER = (
    "import sys; from orchestrator.cli.streams import lenient_streams\n"
    "with lenient_streams():\n"
    "    for _ in range(50_000): print('a line that nobody reads'); print('one more', file=sys.stderr)\n"
    "open(sys.argv[1], 'w').write('done'); sys.exit(3)"
)


def shell(command: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A line of shell in which $PRINT prints 50 000 lines on both streams and ends with 3, and $LB is the command."""
    variables = {"PYTHONPATH": str(REPOSITORY), "PRINT": PRINTER, "PY": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=os.environ | variables | environment,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "line",
    [
        '{ "$PY" -c "$PRINT" mark; echo $? > code; } 2>&1 | head -1',
        '"$PY" -c "$PRINT" mark > /dev/full; echo $? > code',
        '"$PY" -c "$PRINT" mark >&- 2>&-; echo $? > code',
        '"$PY" -c "$PRINT" mark 2>/dev/full >/dev/full; echo $? > code',
    ],
    ids=["reader-gone", "disk-full", "closed", "both-full"],
)
def test_a_stream_that_fails_changes_neither_the_work_nor_the_exit_code(tmp_path: Path, line: str) -> None:
    ended = shell(line, tmp_path)
    assert (tmp_path / "code").read_text() == "3\n"
    assert (tmp_path / "mark").read_text() == "done", "and nothing was printed into the file opened next"
    assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr
    if line.endswith("mark > /dev/full; echo $? > code"):
        assert "lookbeyond: what is printed is lost: No space left on device" in ended.stderr


def test_a_terminal_that_is_closed_ends_nothing(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTER, "mark"],
        cwd=tmp_path,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,
    )
    os.close(theirs)
    os.read(ours, 100)
    os.close(ours)
    assert process.wait(60) == 3
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}],
    ids=" ".join,
)
def test_whatever_the_locale_names_are_utf_8_and_no_module_beside_them_is_imported(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "numpy.py").write_text("open('it-was-run', 'w')")
    (tmp_path / "bilder-é").mkdir()
    Image.new("RGB", (64, 96), (9, 80, 7)).save(tmp_path / "bilder-é/ü日.png")
    (tmp_path / "bilder-é/ß.png").write_bytes(b"x")
    experiment = {"name": "e", "title": "Größe", "dataset": {"name": "folder", "root": "bilder-é"}}
    experiment |= {"compute": {"quarantine_limit": 1.0}, "labels": {"clustering": {"k": 2}}}
    (tmp_path / "é.yaml").write_bytes(yaml.safe_dump(experiment, allow_unicode=True).encode())
    ended = shell('"$PY" -m lookbeyond check é.yaml', tmp_path, **environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "folder train: 2 images, 2 read, 96x64" in ended.stdout
    assert ".png is broken: is not an image" in ended.stdout
    assert not (tmp_path / "it-was-run").exists()


def test_streams_are_as_before_when_the_command_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with lenient_streams():
        print("shown")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "shown\n"


def test_brackets_in_names_are_no_markup(command: Commands) -> None:
    document = yaml.safe_load((command.folder / "small.yaml").read_text())
    titles = ["ours [1]", "theirs [bold]", "[/model/x]", ":smile:"]
    document["rows"] = [{"row": title, "set": {"labels.outliers": 0.1 * n}} for n, title in enumerate(titles)]
    (command.folder / "small.yaml").write_text(yaml.safe_dump(document))
    answer = command("run", "small.yaml")
    assert (answer.code, answer.messages) == (0, [])
    assert all(title in answer.out for title in titles)


@pytest.mark.parametrize("columns", [1, 12, 38])
def test_narrow_terminals_show_every_value(command: Commands, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    answer = command("plan", "small.yaml")
    assert answer.code == 0
    assert "in all rows: cached 0" in answer.out
    assert "step: superpixels\nnamed by cells: 2\ndistinct: 2\nto run: 2\n" in answer.out
