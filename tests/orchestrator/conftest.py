import shutil
from pathlib import Path

import pytest
from support.report_storage import HandMade

from orchestrator.storage.store import Storage


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
