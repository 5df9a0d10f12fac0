import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.datasets.fractions import labelled_list, parse_labelled_list
from workloads.errors import InputError

IDS = [f"city/frame_{n:04}" for n in range(40)]


@given(st.integers(1, 300), st.integers(0, 50))
def test_lists_are_nested_prefixes_of_one_seeded_order(number, seed):
    ids = [f"a{n}" for n in range(number)]
    whole = labelled_list(ids, fraction=1.0, seed=seed)
    assert sorted(whole.ids) == sorted(ids)
    for fraction in (0.1, 0.2, 0.5):
        if fraction * number >= 0.5:
            part = labelled_list(list(reversed(ids)), fraction=fraction, seed=seed)
            assert part.ids == whole.ids[: len(part.ids)]
            assert abs(len(part.ids) - fraction * number) <= 0.5 + 1e-6


def test_rounding_is_half_up():
    sizes = {
        number: len(labelled_list([str(n) for n in range(number)], fraction=0.1).ids)
        for number in (5, 15, 25, 2975, 367)
    }
    assert sizes == {5: 1, 15: 2, 25: 3, 2975: 298, 367: 37}


def test_counts_and_what_there_is():
    few = labelled_list(IDS, number=10, seed=3)
    assert few.ids == labelled_list(IDS, fraction=0.25, seed=3).ids
    assert few.sha256 == labelled_list(IDS, fraction=0.25, seed=3).sha256
    many = labelled_list(IDS, number=500, seed=3)
    assert (len(many.ids), many.requested, many.available) == (40, "500", 40)
    assert labelled_list(IDS, number=10, seed=4).ids != few.ids


def test_file_and_hash():
    listed = labelled_list(IDS, fraction=0.1, seed=3)
    assert parse_labelled_list(listed.to_text()) == listed
    body = "".join(line + "\n" for line in listed.to_text().splitlines()[1:])
    assert listed.sha256 == hashlib.sha256(body.encode()).hexdigest()
    with pytest.raises(InputError, match="was changed"):
        parse_labelled_list(listed.to_text().replace(listed.ids[0], "city/frame_9999"))
    for text in ("", "a\nb\n", "# labelled images requested=3\na\n", listed.to_text().replace("seed=3", "seed=x")):
        with pytest.raises(InputError, match="not a list"):
            parse_labelled_list(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.01}, "no labelled image in 1% of 40"),
        ({"fraction": 0.0}, "fraction is 0"),
        ({"fraction": 1.5}, "fraction is 1.5"),
        ({"number": 0}, "is 0"),
        ({}, "exactly one"),
        ({"number": 3, "fraction": 0.5}, "exactly one"),
    ],
)
def test_impossible_requests(options, message):
    with pytest.raises(InputError, match=message):
        labelled_list(IDS, **options)


def test_ids_that_cannot_be_listed():
    with pytest.raises(InputError, match="repeat"):
        labelled_list(["a", "a"], fraction=1.0)
    with pytest.raises(InputError, match="line"):
        labelled_list(["a\nb"], fraction=1.0)
    with pytest.raises(InputError, match="no labelled image"):
        labelled_list([], fraction=1.0)
