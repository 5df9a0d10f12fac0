import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.report_storage import HandMade

from orchestrator.storage.store import Storage

if TYPE_CHECKING:
    from support.command_line import Commands


@pytest.fixture
def hand_made(tmp_path: Path) -> HandMade:
    """A storage to be filled by hand."""
    return HandMade(Storage(str(tmp_path / "storage")))


@pytest.fixture(scope="module")
def labelled(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage that holds the labels of the experiment with trainings, and no training."""
    from support.training_on_ray import EXPERIMENT, run

    folder = tmp_path_factory.mktemp("labelled") / "storage"
    _, report = run(EXPERIMENT, Storage(str(folder)), until="labels")
    assert report.failed == {}
    return folder


@pytest.fixture
def labelled_storage(labelled: Path, tmp_path: Path) -> Storage:
    """A copy of that storage."""
    shutil.copytree(labelled, tmp_path / "storage")
    return Storage(str(tmp_path / "storage"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a small CamVid tree and an experiment on it, ``small.yaml``."""
    from support.command_line import write_camvid, write_experiment

    write_camvid(tmp_path / "camvid")
    write_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOOKBEYOND_STORAGE", raising=False)
    return tmp_path


@pytest.fixture
def command(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> "Commands":
    """Commands in that folder, whose work is done in this process."""
    from support.command_line import Commands, run_here

    monkeypatch.setattr("orchestrator.cluster.rounds.run_plan", run_here)
    return Commands(folder, capsys)
