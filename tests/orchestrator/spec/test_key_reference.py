"""The list of keys: all that may be written, each with its meaning."""

import pytest

from orchestrator.spec.entries import known_keys
from orchestrator.spec.experiment import TABLE_KEYS, ExperimentEntry
from orchestrator.spec.key_reference import experiment_keys


def test_every_key_that_may_be_written_is_listed() -> None:
    found = {one.key for one in experiment_keys()}
    assert {key for key in found if ".NAME." not in key} == {*known_keys(ExperimentEntry), *TABLE_KEYS}
    named = {
        "pools": ["images", "masks", "only_masked", "only_listed", "share"],
        "classes": ["name", "values", "colour"],
    }
    expected = {f"dataset.{section}.NAME.{name}" for section, names in named.items() for name in names}
    assert {key for key in found if ".NAME." in key} == expected


def test_names_of_ones_own_stand_for_any() -> None:
    assert experiment_keys("dataset.pools.mine.share") == experiment_keys("dataset.pools.NAME.share") != []
    assert experiment_keys("dataset.pool.mine") == []


def test_every_key_that_is_no_section_says_what_it_means() -> None:
    silent = {one.key for one in experiment_keys() if not one.meaning and "section" not in one.kind}
    assert silent == set()


@pytest.mark.parametrize(
    ("key", "owner", "kind", "default"),
    [
        ("seed", "", "whole number", "0"),
        ("labels.source", "", "auxiliary | superpixel | pixel", "auxiliary"),
        ("labels.clustering.k", "method: kmeans", "whole number | null", "null"),
        ("dataset.num_classes", "name: folder", "whole number | null", "null"),
        ("name", "", "text", "(must be given)"),
        ("finetune.optimiser", "", "section", "{head_factor: 10.0} where nothing below is given"),
        ("dataset.pools.NAME.only_masked", "name: masks", "true or false", "false"),
    ],
)
def test_a_key_is_told_with_its_type_and_default(key: str, owner: str, kind: str, default: str) -> None:
    (found,) = [one for one in experiment_keys(key) if one.key == key and one.owner == owner]
    assert (found.kind, found.default) == (kind, default)
