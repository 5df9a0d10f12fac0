"""YAML as people read it, and one kind of error for what is none."""

import math

import pytest

from orchestrator.spec.experiment import parse_entry
from orchestrator.spec.strict_yaml import YamlError, load_yaml
from workloads.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-3", -3), ("010", 10), ("1e-3", 0.001), ("1e3", 1000.0), (".5", 0.5), ("4.0", 4.0),
        (".inf", math.inf), ("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("'1'", "1"),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("1:30", "1:30"), ("2020-01-01", "2020-01-01"), ("0x10", "0x10"),
        ("[1, a]", [1, "a"]), ("{1: a, on: b, ~: c}", {"1": "a", "on": "b", "~": "c"}),
        ("{a: &x {b: 1}, c: {<<: *x, d: 2}}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
    ],
)  # fmt: skip
def test_a_plain_word_is_a_number_true_false_null_or_a_text(text: str, value: object) -> None:
    found = load_yaml(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("root: {{ ROOT }}", "a key is a word, not a list or a mapping"),
        ("{[a]: 1}", "a key is a word, not a list or a mapping"),
        ("? [a, b]\n: c", "a key is a word, not a list or a mapping"),
        ("{a: 1, a: 2}", "key 'a' is given twice"),
        (f"a: {'9' * 5000}", "a number of 5000 digits"),
        ("a: &x [1, *x]", "it holds itself by an alias"),
        ("a: &x {b: *x}", "it holds itself by an alias"),
        ("a: " + "[" * 3000, "it is nested too deeply"),
        ("!!python/object/apply:os.system ['touch hacked']", "could not determine a constructor"),
        ("a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
        ), "it holds more than 1000000 values"),
        ("a: 1\n---\nb: 2", "another document"),
    ],
)  # fmt: skip
def test_what_is_no_yaml_is_one_message(text: str, said: str) -> None:
    with pytest.raises(YamlError, match=said):
        load_yaml(text)


@pytest.mark.parametrize("key", ["seed", "labels.images", "labels.outliers", "labels.clustering.k"])
def test_a_boolean_is_no_number(key: str) -> None:
    document: dict[str, object] = {"name": "e", "dataset": {"name": "scenes"}}
    *above, last = key.split(".")
    place = document
    for name in above:
        place = place.setdefault(name, {})  # type: ignore[assignment]
    place[last] = True
    with pytest.raises(InputError, match=f"^{key}: True is not allowed; give a number$"):
        parse_entry(document)


def test_a_number_may_be_a_name() -> None:
    assert parse_entry({"name": 2024, "dataset": {"name": "folder", "root": 7}}).dataset.root == "7"
