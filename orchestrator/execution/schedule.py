"""Which piece of work may start next.

The model: items wait for other items to be settled (done or failed), and are taken from one queue per pool of workers.
The schedule knows nothing of Ray, time or storage. The failure this guards against: a failed item that leaves those
behind it waiting for ever; settling always releases, and who takes an item decides what of it is still worth doing.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Payload = TypeVar("Payload")


@dataclass(frozen=True)
class Item(Generic[Payload]):
    """One piece of work: its name, the pool that runs it, what must be settled before, and what it is."""

    name: str
    pool: str
    after: frozenset[str]
    payload: Payload


@dataclass
class Schedule(Generic[Payload]):
    """Items in the order in which they were given, released as what they wait for is settled."""

    _waiting_for: dict[str, int] = field(default_factory=dict)
    _items: dict[str, Item[Payload]] = field(default_factory=dict)
    _behind: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _ready: dict[str, deque[str]] = field(default_factory=lambda: defaultdict(deque))
    _unsettled: Counter[str] = field(default_factory=Counter)

    @staticmethod
    def of(items: Iterable[Item[Payload]]) -> "Schedule[Payload]":
        """A schedule of all items; a name in `after` that is no item counts as settled."""
        schedule: Schedule[Payload] = Schedule()
        given = list(items)
        names = {item.name for item in given}
        assert len(names) == len(given), "every item has a name of its own"
        for item in given:
            schedule._items[item.name] = item
            schedule._unsettled[item.pool] += 1
            pending = item.after & names
            schedule._waiting_for[item.name] = len(pending)
            for other in pending:
                schedule._behind[other].append(item.name)
            if not pending:
                schedule._ready[item.pool].append(item.name)
        return schedule

    def take(self, pool: str) -> Item[Payload] | None:
        """The next item that may start in the pool, or None."""
        queue = self._ready[pool]
        return self._items[queue.popleft()] if queue else None

    def ready(self, pool: str) -> int:
        """How many items of the pool could start now."""
        return len(self._ready[pool])

    def put_back(self, item: Item[Payload]) -> None:
        """An item that was taken and must be tried again, before the others."""
        self._ready[item.pool].appendleft(item.name)

    def settle(self, name: str) -> None:
        """The item is done or has failed for good; what waited for it alone becomes ready."""
        for follower in self._behind.pop(name, ()):
            self._waiting_for[follower] -= 1
            if not self._waiting_for[follower]:
                self._ready[self._items[follower].pool].append(follower)
        self._unsettled[self._items.pop(name).pool] -= 1

    def unsettled(self, pool: str) -> int:
        """How many items of the pool are not settled yet, whether they wait, are ready or run."""
        return self._unsettled[pool]

    def __len__(self) -> int:
        """Items not yet settled."""
        return len(self._items)
