"""Every benchmark starts, says by its exit code whether its aim is met, and has its row in the README."""

import importlib
import math
import re
from pathlib import Path

import pytest

from benchmarks.measuring import Aim, verdict

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
PROGRAMS = sorted(
    ".".join(path.relative_to(FOLDER).with_suffix("").parts)
    for path in FOLDER.rglob("*.py")
    if "\ndef main(" in path.read_text()
)


def test_the_readme_has_a_row_for_every_program_and_no_other() -> None:
    named = re.findall(r"^\| `([a-z_.]+)`", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(named) == PROGRAMS


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        importlib.import_module(f"benchmarks.{name}").main(["--help"])
    assert f"python -m benchmarks.{name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seen", "code"), [([0.95, 3.0], 0), ([0.94, 3.0], 1), ([0.95, 3.1], 1), ([math.nan, 3.0], 1), ([], 0)]
)
def test_the_exit_code_is_1_as_soon_as_one_aim_is_not_met(seen: list[float], code: int) -> None:
    assert verdict(list(zip([Aim("rate", least=0.95), Aim("growth", most=3)], seen, strict=False))) == code


def test_k_means_reaches_the_others_inertia_at_toy_size(capsys: pytest.CaptureFixture[str]) -> None:
    kmeans = importlib.import_module("benchmarks.performance.kmeans")
    code = kmeans.main(["--rows", "600", "--dims", "8", "--clusters", "4", "--repeats", "1", "--threads", "1"])
    said = capsys.readouterr().out
    assert re.search(r"aim: ours / the lower of the others, inertia at most 1.001: 1, met", said)
    assert code == int("NOT MET" in said)


def test_layouts_are_compared_at_toy_size(capsys: pytest.CaptureFixture[str]) -> None:
    layouts = importlib.import_module("benchmarks.performance.layouts")
    code = layouts.main(["--arch", "resnet18", "--size", "65", "65", "--batch", "1", "--repeats", "1"])
    said = capsys.readouterr().out
    assert "| resnet18 | bfloat16  | 1 " in said
    assert code == int("NOT MET" in said)
