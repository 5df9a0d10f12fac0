"""Keys: one meaning has one key, another meaning another, and what has no stable form has none."""

import json
import math
import random
import shutil
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from orchestrator.ledger.keys import canonical, canonical_json, digest
from orchestrator.planning.plan import make_plan
from orchestrator.storage.store import Storage
from workloads.configs.base import LATER, HashedConfig

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


class Kernel(HashedConfig, tag="Kernel"):
    size: float = 3
    names: tuple[str, ...] = ()


class Stencil(HashedConfig, tag="Stencil"):
    size: float = 3
    names: tuple[str, ...] = ()


class Later(HashedConfig, tag="Kernel of before"):
    size: float = 3
    names: tuple[str, ...] = ()
    padding: Annotated[int, LATER] = 0


def test_a_field_that_came_later_is_part_of_a_key_only_where_it_is_used() -> None:
    before = {"type": "Kernel of before", "size": 3, "names": []}
    assert canonical(Later()) == canonical(Later(padding=0)) == before
    assert canonical(Later(padding=2)) == before | {"padding": 2}


def shuffled(value: Any, order: random.Random) -> Any:
    """The same value with every mapping written in another order."""
    if isinstance(value, dict):
        names = list(value)
        order.shuffle(names)
        return {name: shuffled(value[name], order) for name in names}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


@given(VALUES, st.integers(0, 1000))
def test_the_order_of_mappings_does_not_matter(value: Any, seed: int) -> None:
    assert digest(shuffled(value, random.Random(seed))) == digest(value)


@given(VALUES)
def test_the_canonical_text_is_json_that_means_the_value(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@given(VALUES, VALUES)
def test_unequal_values_have_unequal_keys(first: Any, second: Any) -> None:
    # Python's == knows 1.0 == 1 and also True == 1, which a key must keep apart.
    if repr(canonical(first)) != repr(canonical(second)):
        assert digest(first) != digest(second)
    else:
        assert digest(first) == digest(second)


@given(st.integers(min_value=-(2**53), max_value=2**53))
def test_a_whole_float_is_the_integer(number: int) -> None:
    assert digest({"k": float(number)}) == digest({"k": number})


def test_the_key_of_a_known_value_never_changes() -> None:
    value = {"b": True, "a": (1.0, 2.5, None)}
    assert canonical_json(value) == '{"a":[1,2.5,null],"b":true}'
    # printf '{"a":[1,2.5,null],"b":true}' | sha256sum
    assert digest(value) == "5bfed00731eb76e3e9217d76fb62e4e7e9c588f33fb29cd3234a5204672b3f47"


def test_meanings_that_look_alike_are_kept_apart() -> None:
    alike = [1, True, "1", [1], None, "", 0, False, [], {}, "null", 1.5, "1.5"]
    assert len({digest(value) for value in alike}) == len(alike)


def test_minus_zero_is_zero() -> None:
    assert digest(-0.0) == digest(0)


def test_a_type_goes_by_its_tag_which_is_its_own() -> None:
    assert canonical(Kernel()) == {"type": "Kernel", "size": 3, "names": []}
    with pytest.raises(TypeError, match=r"tag 'Kernel' of .*Renamed is that of .*Kernel, too"):

        class Renamed(HashedConfig, tag="Kernel"):
            pass

    with pytest.raises(TypeError, match="tag"):

        class Untagged(Kernel):  # type: ignore[call-arg]
            pass


def test_two_types_of_equal_fields_have_different_keys() -> None:
    assert digest(Kernel()) != digest(Stencil())
    assert digest(Kernel(size=3)) == digest(Kernel(size=3.0))
    assert digest(Kernel(names=("a",))) != digest(Kernel(names=("b",)))


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        {"a", "b"},
        Path("weights.pth"),
        object(),
        b"bytes",
        {1: "a"},
        1j,
        np.int64(3),
        np.zeros(2),
        len,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_without_a_stable_form_has_no_key(value: Any) -> None:
    with pytest.raises(TypeError):
        digest({"inner": [value]})


def test_a_path_never_enters_a_key(tmp_path: Path) -> None:
    """The same pictures in two folders, planned on two storages with other workers, are the same steps."""
    first, second = tmp_path / "first", tmp_path / "elsewhere" / "second"
    first.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(first / name)
    shutil.copytree(first, second)
    keys = []
    for root, workers in ((first, 1), (second, 7)):
        document = {
            "name": root.name,
            "dataset": {"name": "folder", "root": str(root), "num_classes": 3},
            "compute": {"workers": workers, "lease_seconds": 10.0 * workers},
        }
        plan = make_plan(document, Storage(str(tmp_path / f"storage-{workers}")), write_listings=False)
        keys.append(sorted(plan.steps))
        for step in plan.steps.values():
            assert str(tmp_path) not in canonical_json(step.meaning)
    assert keys[0] == keys[1]
    assert len(keys[0]) == 4  # sample, superpixels, cluster, label; no score without ground truth

    (second / "d.png").write_bytes((second / "c.png").read_bytes())
    more = make_plan(document, Storage(str(tmp_path / "storage-7")), write_listings=False)
    assert not set(more.steps) & set(keys[0])
