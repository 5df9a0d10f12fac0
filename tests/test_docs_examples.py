"""The examples of the documents: what a page says is what works.

Those of docs/extending.md are executed on a copy of the code; a block of text holds the beginnings of lines that the
commands before it must have printed.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from orchestrator.spec.grid import expand
from orchestrator.spec.loading import load_experiment

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, the file it is about (or empty), and its text."""

    language: str
    file: str
    text: str


def blocks(page: str) -> list[Block]:
    return [Block(*groups) for groups in FENCE.findall((REPOSITORY / "docs" / page).read_text())]


def edited(source: str, changes: str) -> str:
    """The source after the hunks of a diff, each of which must fit at exactly one place."""
    for hunk in changes.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if not line.startswith("+"))
        after = "".join(line[1:] for line in lines if not line.startswith("-"))
        # At the start of a line, so that a hunk cannot fit inside a longer line.
        places = [found.start() for found in re.finditer(f"^{re.escape(before)}", source, re.MULTILINE)]
        assert len(places) == 1, f"does not fit at one place:\n{hunk}"
        source = source[: places[0]] + after + source[places[0] + len(before) :]
    return source


def run(script: str, folder: Path) -> str:
    """Run a block's commands with `python` and `lookbeyond` of the copy, and return what they print."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    # Packages go into a folder of this test's, and are made of what is installed.
    site = f'--quiet --no-deps --no-build-isolation --upgrade --target "{folder / "site"}"'
    for name, start, end in (("python", "", ""), ("lookbeyond", "-m lookbeyond", ""), ("pip", "-m pip", site)):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {start} "$@" {end}\n')
        (tools / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{folder}{os.pathsep}{folder / 'site'}",
        "OMP_NUM_THREADS": "1",
    }
    for name in ("RAY_ADDRESS", "LOOKBEYOND_STORAGE"):
        environment.pop(name, None)
    ended = subprocess.run(
        ["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_every_block_of_the_page_on_extending_works(tmp_path: Path) -> None:
    for package in ("lookbeyond", "orchestrator", "workloads"):
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    printed = ""
    for block in blocks("extending.md"):
        path = tmp_path / block.file
        match block.language:
            case "python" | "yaml" | "toml":
                assert not path.exists()
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
            case "diff":
                path.write_text(edited(path.read_text(), block.text))
            case "bash":
                printed = run(block.text, tmp_path)
            case "text":
                lines = printed.splitlines()
                missing = [text for text in block.text.splitlines() if not any(line.startswith(text) for line in lines)]
                assert not missing, f"not printed: {missing}; printed was\n{printed}"
            case other:
                raise AssertionError(f"a block of language {other} is not tested")


def test_the_example_of_the_page_on_experiments_has_the_cells_it_speaks_of(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "experiments.md").read_text()
    for block in blocks("experiments.md"):
        (tmp_path / block.file).write_text(block.text)
    made = {size: expand(load_experiment(tmp_path / "outliers.yaml", [f"size={size}"])) for size in ("full", "small")}
    assert "2 rows x 2 columns x 3 seeds = 12 cells" in page
    assert [len(cells) for cells in made.values()] == [12, 12]
    assert {cell.entry.labels.images for cell in made["small"]} == {20}
    assert made["small"][-1].notes == ("ResNet-18 in place of ResNet-50",)


def test_a_change_that_does_not_fit_is_noticed() -> None:
    with pytest.raises(AssertionError, match="one place"):
        edited("a = 1\nb = 2\n", " c = 3\n+d = 4\n")
    with pytest.raises(AssertionError, match="one place"):
        edited("a = 1\na = 1\n", " a = 1\n+d = 4\n")
    assert edited("a = 1\nb = 2\n", "-a = 1\n+a = 5\n@@\n b = 2\n+c = 3\n") == "a = 5\nb = 2\nc = 3\n"
