from pathlib import Path

import pytest
from report_storage import HandMade

from orchestrator.storage import Storage


@pytest.fixture
def hand_made(tmp_path: Path) -> HandMade:
    """A storage to be filled by hand."""
    return HandMade(Storage(str(tmp_path / "storage")))
