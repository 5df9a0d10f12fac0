"""Things made by threads ahead of their use, and used in the order in which they were asked for."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Asked = TypeVar("Asked")
Made = TypeVar("Made")


def made_ahead(pool: Executor, make: Callable[[Asked], Made], asked: Iterable[Asked], ahead: int) -> Iterator[Made]:
    """What is made of each thing that is asked for, in order, while the next `ahead` are being made.

    Nothing is begun before the first is taken. An error in making one is raised in its place.
    """
    coming: deque[Future[Made]] = deque()
    for one in asked:
        coming.append(pool.submit(make, one))
        if len(coming) > ahead:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()
