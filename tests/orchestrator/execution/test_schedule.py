"""The schedule: every item of any graph is run once, after what it waits for, whatever fails on the way."""

import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.execution.schedule import Item, Schedule

POOLS = ("extract", "process", "cluster")


@st.composite
def graphs(draw: st.DrawFn) -> list[Item[int]]:
    """Items in any order, each behind some of those that were numbered before it."""
    count = draw(st.integers(0, 14))
    items = []
    for number in range(count):
        behind = draw(st.sets(st.integers(0, number - 1), max_size=4)) if number else set()
        names = {f"item {other}" for other in behind}
        priority = draw(st.sampled_from((0.0, 1.0, 2.0)))
        items.append(Item(f"item {number}", draw(st.sampled_from(POOLS)), frozenset(names), number, priority))
    return draw(st.permutations(items))


def item(name: str, *after: str, pool: str = "process", priority: float = 0.0) -> Item[None]:
    return Item(name, pool, frozenset(after), None, priority)


def schedule_of(items: Iterable[Item[Any]]) -> Schedule[Any]:
    schedule: Schedule[Any] = Schedule()
    schedule.add(items)
    return schedule


def drain(schedule: Schedule[Any], pool: str = "process") -> list[str]:
    """Names of everything that may start now, taken but not settled."""
    names = []
    while found := schedule.take(pool):
        names.append(found.name)
    return names


@given(graphs(), st.integers(0, 2**32))
def test_any_graph_is_run_completely_and_in_order(items: list[Item[int]], seed: int) -> None:
    chance = random.Random(seed)
    schedule = schedule_of(items)
    names = {one.name for one in items}
    in_flight: list[Item[int]] = []
    settled: set[str] = set()
    taken: list[str] = []
    while len(schedule):
        for pool in POOLS:
            for _ in range(chance.randint(0, schedule.ready(pool))):
                expected = schedule.peek(pool)
                one = schedule.take(pool)
                assert one is not None
                assert one is expected
                assert one.pool == pool
                assert one.after & names <= settled
                in_flight.append(one)
        if not in_flight:
            assert any(schedule.ready(pool) for pool in POOLS), "nothing is in flight and nothing may start"
            continue
        one = in_flight.pop(chance.randrange(len(in_flight)))
        # Done, failed for good, or lost: only the last is tried again, the others release what waits for them.
        if taken.count(one.name) < 2 and chance.random() < 0.3:
            taken.append(one.name)
            schedule.put_back(one)
            continue
        settled.add(one.name)
        schedule.reach(one.name)
        schedule.settle(one.name)
    assert settled == names
    assert not in_flight
    assert all(schedule.take(pool) is None for pool in POOLS)


def test_items_start_by_priority_and_then_in_the_order_in_which_they_are_given() -> None:
    schedule = schedule_of(item(name) for name in ("c", "a", "b"))
    schedule.add([item("urgent", priority=2.0), item("less", priority=1.0)])
    assert drain(schedule) == ["urgent", "less", "c", "a", "b"]


def test_an_item_waits_for_all_that_it_is_behind() -> None:
    schedule = schedule_of([item("label", "cluster", "superpixels"), item("cluster"), item("superpixels")])
    assert drain(schedule) == ["cluster", "superpixels"]
    schedule.reach("superpixels")
    assert schedule.take("process") is None
    schedule.reach("cluster")
    schedule.reach("cluster")
    assert drain(schedule) == ["label"]
    assert len(schedule) == 3
    for name in ("cluster", "superpixels", "label"):
        schedule.settle(name)
    assert len(schedule) == schedule.unsettled("process") == 0


def test_pools_have_queues_of_their_own() -> None:
    schedule = schedule_of([item("a", pool="extract"), item("b", pool="cluster"), item("c", pool="extract")])
    assert schedule.ready("extract") == 2
    assert schedule.ready("process") == 0
    assert drain(schedule, "extract") == ["a", "c"]
    assert drain(schedule, "cluster") == ["b"]


def test_what_is_put_back_is_next() -> None:
    schedule = schedule_of([item("a"), item("b"), item("c")])
    first = schedule.take("process")
    assert first is not None
    schedule.put_back(first)
    assert drain(schedule) == ["a", "b", "c"]


def test_two_items_of_one_name_are_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="name of its own"):
        schedule_of([item("a"), item("a")])


def test_settling_twice_is_a_mistake_of_ours() -> None:
    schedule = schedule_of([item("a")])
    schedule.take("process")
    schedule.settle("a")
    with pytest.raises(KeyError):
        schedule.settle("a")
