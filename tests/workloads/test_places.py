"""Home folders that nobody knows, and a cache that cannot be written."""

import os
from pathlib import Path

import pytest
import torch

from workloads.errors import InputError
from workloads.places import cache_folder, expanded


def test_a_home_folder_that_nobody_knows_is_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^dataset.root: the home folder in '~nosuchuser/x' is not known; write the"):
        expanded("~nosuchuser/x", "dataset.root")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/x", "dataset.root") == tmp_path / "x"


def test_files_fetched_once_have_a_place_without_a_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    assert cache_folder() == tmp_path / "hub/checkpoints"
    (tmp_path / "file").write_text("in the way")
    for unusable in (str(tmp_path / "file/hub"), "~/.cache"):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(torch.hub, "get_dir", lambda unusable=unusable: unusable)
        own = cache_folder()
        assert own.name == f"lookbeyond-{os.getuid()}" and own.stat().st_mode & 0o777 == 0o700
