"""Which piece of work may start next.

The model: items wait until all that they are behind has been reached, and are taken from one queue per pool of workers,
those of the highest priority first. The schedule knows nothing of Ray, time or storage. The failure this guards
against: a failed item that leaves those behind it waiting for ever; what failed is reached as well, and who takes an
item decides what of it is still worth doing.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Payload = TypeVar("Payload")

# What was taken and put back comes before all that was not.
_FRONT, _REST = 0, 1


@dataclass(frozen=True)
class Item(Generic[Payload]):
    """One piece of work: its name, the pool that runs it, what must be reached before, what it is, how urgent it is."""

    name: str
    pool: str
    after: frozenset[Hashable]
    payload: Payload
    priority: float = 0.0


@dataclass
class Schedule(Generic[Payload]):
    """Items by priority and then in the order in which they were added, released as what they wait for is reached."""

    _waiting_for: dict[str, int] = field(default_factory=dict)
    _items: dict[str, Item[Payload]] = field(default_factory=dict)
    _behind: dict[Hashable, list[str]] = field(default_factory=lambda: defaultdict(list))
    _ready: dict[str, list[tuple[int, float, int, str]]] = field(default_factory=lambda: defaultdict(list))
    _unsettled: Counter[str] = field(default_factory=Counter)
    _added: int = 0

    def add(self, items: Iterable[Item[Payload]]) -> None:
        """Take in items; all that is in their `after` is yet to be reached."""
        for item in items:
            assert item.name not in self._items, "every item has a name of its own"
            self._items[item.name] = item
            self._unsettled[item.pool] += 1
            self._waiting_for[item.name] = len(item.after)
            for place in item.after:
                self._behind[place].append(item.name)
            if not item.after:
                self._release(item)

    def take(self, pool: str) -> Item[Payload] | None:
        """The next item that may start in the pool, or None."""
        queue = self._ready[pool]
        return self._items[heapq.heappop(queue)[-1]] if queue else None

    def peek(self, pool: str) -> Item[Payload] | None:
        """What `take` would return, left where it is."""
        queue = self._ready[pool]
        return self._items[queue[0][-1]] if queue else None

    def ready(self, pool: str) -> int:
        """How many items of the pool could start now."""
        return len(self._ready[pool])

    def put_back(self, item: Item[Payload]) -> None:
        """An item that was taken and must be tried again, before the others."""
        self._added += 1
        heapq.heappush(self._ready[item.pool], (_FRONT, -item.priority, -self._added, item.name))

    def reach(self, place: Hashable) -> None:
        """Something is done or has failed for good; what waited for it alone becomes ready."""
        for follower in self._behind.pop(place, ()):
            self._waiting_for[follower] -= 1
            if not self._waiting_for[follower]:
                self._release(self._items[follower])

    def settle(self, name: str) -> None:
        """The item, which was taken, is over."""
        self._unsettled[self._items.pop(name).pool] -= 1
        del self._waiting_for[name]

    def unsettled(self, pool: str) -> int:
        """How many items of the pool are not settled yet, whether they wait, are ready or run."""
        return self._unsettled[pool]

    def __len__(self) -> int:
        """Items not yet settled."""
        return len(self._items)

    def _release(self, item: Item[Payload]) -> None:
        self._added += 1
        heapq.heappush(self._ready[item.pool], (_REST, -item.priority, self._added, item.name))
