"""Errors of the user's: fields that can be asked for, one line when printed, places added by methods."""

import pickle

import pytest

from workloads.errors import BrokenImageError, GroupedInputError, InputError

WRONG = InputError(key="images", value=0, allowed="give 1 or more")


def test_a_value_that_is_not_allowed_is_said_by_its_fields_alone() -> None:
    assert str(WRONG) == "images: 0 is not allowed; give 1 or more"
    assert (WRONG.key, WRONG.value, WRONG.allowed) == ("images", 0, "give 1 or more")


def test_a_sentence_has_its_key_before_it_or_where_it_says() -> None:
    assert str(InputError("no file w.pth", key="weights", value="w.pth")) == "weights: no file w.pth"
    assert str(InputError("unknown key {key}", key="sed", allowed="did you mean seed?")) == (
        "unknown key sed; did you mean seed?"
    )
    assert str(InputError("nothing to cluster")) == "nothing to cluster"


def test_a_place_is_added_to_the_key_wherever_that_stands_in_the_sentence() -> None:
    assert str(WRONG.below("labels")) == "labels.images: 0 is not allowed; give 1 or more"
    assert WRONG.below("labels").key == "labels.images"
    unknown = InputError("unknown key {key}", key="sed", allowed="did you mean seed?")
    assert str(unknown.below("scenes")) == "unknown key scenes.sed; did you mean seed?"
    assert str(InputError("k 9 is too large").below("labels.clustering")) == "labels.clustering: k 9 is too large"
    assert str(WRONG.at("dataset.num_val")) == "dataset.num_val: 0 is not allowed; give 1 or more"
    assert str(WRONG) == "images: 0 is not allowed; give 1 or more", "the error itself is left alone"


def test_what_a_key_was_read_from_is_said_once() -> None:
    inner = WRONG.read_from("extends")
    assert str(inner.read_from("--rates").below("labels")) == "extends: labels.images: 0 is not allowed; give 1 or more"


def test_several_errors_are_a_list_and_print_one_line_each() -> None:
    other = InputError("no file w.pth", key="weights")
    group = GroupedInputError([WRONG, other, GroupedInputError([WRONG])])
    assert group.each == (WRONG, other)
    assert str(group) == f"{WRONG}\n{other}"
    assert [error.key for error in group.below("labels").each] == ["labels.images", "labels.weights"]
    assert [str(error) for error in group.read_from("a.yaml").each] == [f"a.yaml: {WRONG}", f"a.yaml: {other}"]
    assert WRONG.each == (WRONG,)


@pytest.mark.parametrize(
    "error",
    [
        WRONG.below("labels").read_from("extends"),
        GroupedInputError([WRONG, InputError("no file", key="weights")]),
        BrokenImageError("a.png", "truncated"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_whole_out_of_another_process(error: InputError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)
    assert [(one.key, one.value) for one in again.each] == [(one.key, one.value) for one in error.each]
