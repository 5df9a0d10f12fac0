"""Numbers as people read them."""

import pytest

from workloads.formats import MINUS, counted, duration, figure, signed, size


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (duration(0.04), "0.0 s"),
        (duration(9.94), "9.9 s"),
        (duration(9.96), "10 s"),
        (duration(89.4), "89 s"),
        (duration(90), "1.5 min"),
        (duration(3600), "60 min"),
        (duration(5400), "1.5 h"),
        (duration(100_000), "28 h"),
        (duration(216_000), "2.5 days"),
        (size(999), "999 B"),
        (size(1000), "1.0 kB"),
        (size(64_000_000_000), "64 GB"),
        (size(999_600), "1.0 MB"),
        (size(1.5e12), "1.5 TB"),
        (counted(1, "cell"), "1 cell"),
        (counted(0, "cell"), "0 cells"),
        (counted(19, "class", "classes"), "19 classes"),
        (figure(1.234), "1.23"),
        (figure(0.00123), "0.0012"),
        (figure(15.0, 0), "15"),
        (signed(-1.26), f"{MINUS}1.3"),
        (signed(0.04), "0.0"),
        (signed(2.0, 2), "+2.00"),
    ],
)
def test_numbers_are_short_and_keep_their_order_of_magnitude(written: str, text: str) -> None:
    assert written == text
