"""Which code ran: a checkout says it itself, files without `.git` say what they were sent with."""

import json
import subprocess
from pathlib import Path

import pytest

from orchestrator.execution.provenance import VARIABLE, Code, Provenance


def checkout(folder: Path) -> Path:
    git = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    return folder


def test_code_without_git_is_what_the_submission_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Code.of(tmp_path) is None
    sent = Code("abc", True, ("changed.py",))
    for name, value in sent.to_environment().items():
        monkeypatch.setenv(name, value)
    assert Code.of(tmp_path) == sent
    for damaged in ("no JSON", "[]", json.dumps({"commit": "abc"})):
        monkeypatch.setenv(VARIABLE, damaged)
        assert Code.of(tmp_path) is None


def test_uncommitted_changes_are_named(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    clean = Code.of(folder)
    assert clean is not None
    assert not clean.changed
    for number in range(25):
        (folder / f"new-{number:02d}").touch()
    code = Code.of(folder)
    assert code is not None
    assert (code.commit, code.changed) == (clean.commit, True)
    assert code.changes[:2] == ("new-00", "new-01")
    assert code.changes[-1] == "and 5 more"


def test_a_capture_names_code_versions_and_machine() -> None:
    captured = Provenance.capture()
    assert captured.code == Code.of()
    assert {"python", "torch", "ray"} <= captured.versions.keys()
    assert captured.host
