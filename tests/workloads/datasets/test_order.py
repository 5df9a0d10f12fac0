import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.datasets import ImageEntry, seeded_order
from workloads.errors import InputError

entry_sets = st.sets(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8), max_size=40)


@settings(max_examples=50)
@given(entry_sets, st.integers(0, 2**31), st.randoms())
def test_order_is_a_permutation_independent_of_the_listing(ids: set[str], seed: int, random) -> None:
    entries = [ImageEntry(image_id, len(image_id)) for image_id in sorted(ids)]
    shuffled = list(entries)
    random.shuffle(shuffled)
    ordered = seeded_order(entries, seed)
    assert ordered == seeded_order(shuffled, seed)
    assert sorted(entry.id for entry in ordered) == sorted(ids)


def test_a_larger_pool_keeps_the_order_of_the_images_it_had() -> None:
    few = [ImageEntry(f"{number:04d}", 0) for number in range(0, 200, 2)]
    many = [ImageEntry(f"{number:04d}", 0) for number in range(200)]
    kept = set(few)
    assert [entry for entry in seeded_order(many, 3) if entry in kept] == seeded_order(few, 3)


def test_seeds_give_different_orders_that_do_not_follow_the_names() -> None:
    entries = [ImageEntry(f"{number:04d}", 0) for number in range(400)]
    orders = [seeded_order(entries, seed) for seed in range(3)]
    assert orders[0] != orders[1] != orders[2] != entries
    # First half of an order over 400 names: each half of the alphabet gets its share.
    first_half = sum(int(entry.id) < 200 for entry in orders[0][:200])
    assert 75 < first_half < 125


def test_the_order_is_the_same_today_as_when_results_were_stored() -> None:
    entries = [ImageEntry(name, 0) for name in "abcdefgh"]
    assert "".join(entry.id for entry in seeded_order(entries, 0)) == "cadebhgf"


@pytest.mark.parametrize("image", ["../a.png", "/a.png", "a/../../b.png", "..", "", "a\0.png"])
def test_an_id_that_leads_out_of_its_folder_is_refused(image: str) -> None:
    with pytest.raises(InputError, match="leads out of its folder"):
        ImageEntry(image, 1)
