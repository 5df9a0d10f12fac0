"""One line for one problem."""

from workloads.formats import said_once


def test_one_line_for_each_thing_that_is_wrong() -> None:
    cells = [(f"cell {number}", "no weights") for number in range(36)] + [("the last", "no room")]
    assert said_once(cells) == ["cell 0; cell 1; cell 2 and 33 more: no weights", "the last: no room"]
    assert said_once(cells[:2]) == ["cell 0; cell 1: no weights"]
