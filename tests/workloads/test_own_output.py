"""The mark of a folder that the product fills."""

from pathlib import Path

import pytest

from workloads.own_output import MARK, is_unused, mark, read_mark


@pytest.mark.parametrize("left", [[], [MARK], [f"{MARK}.part"], [MARK, f"{MARK}.part"]])
def test_what_a_kill_left_of_a_mark_is_nobodys_file(tmp_path: Path, left: list[str]) -> None:
    """A full disk or a kill between the file and its content made the same export fail for ever."""
    for name in left:
        (tmp_path / name).touch()
    assert is_unused(tmp_path)
    mark(tmp_path, "label maps")
    assert read_mark(tmp_path) == "label maps"
    assert [path.name for path in tmp_path.iterdir()] == [MARK]
    assert not is_unused(tmp_path)


def test_a_file_of_somebody_else_is_no_mark(tmp_path: Path) -> None:
    (tmp_path / "holiday.png").touch()
    assert not is_unused(tmp_path)
