"""What fits where: trainings on machines of unequal size, and who waits for whom."""

import pytest

from orchestrator.cluster.room import Claim, Machine, Room, Workers
from orchestrator.planning.capacity import Capacity, Machines


def room_of(*machines: tuple[int, float, float]) -> Room:
    """Machines that are up: how many, and the cores and GPUs of each."""
    room = Room(Capacity.fixed([Machines(*one) for one in machines]))
    nodes = [(cores, gpus) for count, cores, gpus in machines for _ in range(count)]
    room.update({f"node {number}": each for number, each in enumerate(nodes)})
    return room


def placed(room: Room, workers: Workers) -> list[list[tuple[float, float]]]:
    """The cores and GPUs of the workers of as many trainings as find a place."""
    found = []
    while claim := room.place(workers):
        found.append([(cores, gpus) for _, cores, gpus in claim.parts])
    return found


@pytest.mark.parametrize(
    ("machines", "workers", "expected"),
    [
        (((4, 4, 1), (1, 64, 1)), Workers(1, True, None), [[(64, 1)], *[[(4, 1)]] * 4]),
        (((1, 96, 8), (8, 8, 1)), Workers(1, True, None), [*[[(12, 1)]] * 8, *[[(8, 1)]] * 8]),
        (((8, 8, 1),), Workers(4, True, None), [[(8, 1)] * 4] * 2),
        (((1, 16, 4), (4, 8, 1)), Workers(4, True, None), [[(4, 1)] * 4, [(8, 1)] * 4]),
        (((2, 16, 0),), Workers(1, False, None), [[(16, 0)]] * 2),
        (((2, 16, 0),), Workers(2, False, None), [[(8, 0)] * 2] * 2),
        (((2, 4, 1),), Workers(1, True, 5), []),
    ],
    ids=["one larger", "many and one", "over machines", "together first", "whole", "halves", "too many cores"],
)
def test_a_training_takes_what_suits_its_machine(
    machines: tuple[tuple[int, float, float], ...], workers: Workers, expected: list[list[tuple[float, float]]]
) -> None:
    assert placed(room_of(*machines), workers) == expected


def test_brief_work_keeps_off_gpus_and_off_what_a_training_waits_for() -> None:
    room = room_of((1, 4, 1), (1, 2, 0))
    gpu, plain = room.machines
    tasks = [room.claim(1, 0, off_gpus=True) for _ in range(3)]
    assert [task.machine if task else None for task in tasks] == [plain, plain, None]
    waiting = room.claim(1, 0, off_gpus=True, queue=1.0)
    assert waiting is not None
    assert waiting.machine is plain
    actor = room.claim(0.5, 1)
    assert actor is not None
    assert actor.machine is gpu
    training = Workers(1, True, None)
    assert room.place(training) is None
    room.reserve_for(training)
    assert room.reserved == {gpu}
    assert room.claim(0.5, 0) is None
    room.release(actor)
    claim = room.place(training)
    assert claim is not None
    assert (claim.machine, claim.cores) == (gpu, 4)
    assert room.with_gpus(1, after_brief=True) is None


def test_where_trainings_have_all_cores_tasks_go_on_beside_them_one_a_machine() -> None:
    room = room_of((2, 8, 1))
    training = Workers(1, True, None)
    claims = [room.place(training) for _ in range(2)]
    assert room.claim(1, 0) is None
    squeezed = [room.squeeze() for _ in range(3)]
    assert [one is not None for one in squeezed] == [True, True, False]
    release(room, claims[0])
    # They hold nothing that a training would wait for.
    assert room.place(training) is not None
    for one in squeezed[:2]:
        release(room, one)
    assert all(one.brief_cores == pytest.approx(0) for one in room.machines)


def test_memory_decides_how_much_goes_on_side_by_side_and_never_whether() -> None:
    room = Room(Capacity.fixed([Machines(1, 16)]))
    room.update({"one": (16.0, 0.0, 10e9)})
    (machine,) = room.machines
    actors = [room.claim(0.5, 0, memory=3e9) for _ in range(4)]
    assert [one is not None for one in actors] == [True, True, True, False]
    insisting = room.claim(0.5, 0, memory=3e9, insists=True)
    assert insisting is not None
    assert room.free() == "free are 14 cores and 0 GPUs and 0 B of memory"
    # A training that waits for memory waits for what is brief alone.
    training = Workers(1, False, 4, memory=4e9)
    assert room.place(training) is None
    room.reserve_for(training)
    assert room.reserved == {machine}
    room.reserved.clear()
    assert room.place(Workers(1, False, 4, memory=4e9, insists=True)) is not None
    for one in [*actors[:3], insisting]:
        release(room, one)
    # 6 GB are left: work that needs more than the machine has at all gets it when all of it is free.
    assert room.claim(1, 0, memory=7e9) is None
    assert room.place(training) is not None
    assert room.place(training) is None
    assert machine.free_memory == pytest.approx(2e9)


def test_work_that_needs_more_than_a_machine_has_gets_all_of_it() -> None:
    room = Room(Capacity.fixed([Machines(1, 16)]))
    room.update({"one": (16.0, 0.0, 2e9)})
    claim = room.claim(0.5, 0, memory=3e9)
    assert claim is not None
    assert room.claim(0.5, 0, memory=3e9) is None
    room.release(claim)
    assert room.place(Workers(1, False, 1, memory=5e9)) is not None
    assert room.place(Workers(1, False, 1, memory=5e9)) is None


def test_a_training_that_is_to_be_alone_gets_a_machine_on_which_nothing_is() -> None:
    room = room_of((2, 8, 1))
    first, second = room.machines
    brief = room.claim(1, 0)
    assert brief is not None
    alone = Workers(1, True, 2, alone=True)
    claim = room.place(alone)
    assert claim is not None
    assert claim.machine is (second if brief.machine is first else first)
    assert (claim.cores, claim.machine.closed) == (2, True)
    # Nothing else comes to it, however much may wait at a core, and though it has cores and memory free.
    others = [room.claim(1, 0, queue=1.0) for _ in range(15)]
    assert {one.machine for one in others if one} == {brief.machine}
    assert room.squeeze() is None
    assert room.with_memory() is brief.machine
    assert room.with_gpus(1) is brief.machine
    for one in others:
        release(room, one)
    # The next one has what is brief on the other machine come to an end.
    assert room.place(alone) is None
    room.reserve_for(alone)
    assert room.reserved == {brief.machine}
    release(room, claim)
    assert not claim.machine.closed
    assert room.place(alone) is not None


def test_a_clusterer_that_holds_memory_alone_keeps_a_training_from_being_alone() -> None:
    room = Room(Capacity.fixed([Machines(1, 8)]))
    room.update({"one": (8.0, 0.0, 4e9)})
    clusterer = room.hold(room.machines[0], 0.0, 1e9, brief=True)
    alone = Workers(1, False, 2, memory=2e9, insists=True, alone=True)
    assert room.machines[0].is_used
    assert room.place(alone) is None
    assert room.claim_whole(0.0) is None
    # The machine is reserved, and so the actor that has nothing to do there ends.
    assert room.reserved == set(room.machines)
    room.reserved.clear()
    room.reserve_for(alone)
    assert room.reserved == set(room.machines)
    room.release(clusterer)
    assert room.place(alone) is not None


def test_who_insists_has_memory_where_there_is_some() -> None:
    room = Room(Capacity.fixed([Machines(4, 16)]))
    room.update({f"n{number}": (16.0, 0.0, 16e9) for number in range(4)})
    claim = room.place(Workers(4, False, 1, memory=12e9, insists=True))
    assert claim is not None
    assert len(set(claim.nodes)) == 4
    room.release(claim)
    first = room.claim(1, 0, memory=12e9)
    room.claim(8, 0, memory=1e9)
    second = room.claim(1, 0, memory=12e9, insists=True)
    assert first is not None and second is not None
    assert first.machine is not second.machine
    # A machine that offers none is no reason to fail.
    none = Room(Capacity.fixed([Machines(1, 2)]))
    none.update({"none": (2.0, 0.0, 0.0)})
    assert none.place(Workers(1, False, 1, memory=1e9)) is not None


def test_a_cluster_that_grows_takes_work_for_machines_that_are_to_come() -> None:
    capacity = Capacity((), (Machines(3, 8, 1), Machines(4, 16)), limit=4, scales=True)
    room = Room(capacity)
    room.update({})
    training = Workers(1, True, None)
    first = room.place(training)
    assert first is not None
    assert first.nodes == (None,)
    assert placed(room, training) == [[(8, 1)]] * 2
    # Four machines at most: one is left, whatever kind it is.
    assert [room.claim(16, 0) is not None for _ in range(2)] == [True, False]
    room.update({"a": (8.0, 1.0)})
    assert sum(one.node == "a" and one.free_gpus == 0 for one in room.machines) == 1
    room.update({})
    assert all(isinstance(one, Machine) and one.node is None for one in room.machines)


def release(room: Room, claim: Claim | None) -> None:
    assert claim is not None
    room.release(claim)
