"""Work on all cores, results in order, and never more of it waiting than needed."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from itertools import islice
from os import cpu_count
from typing import TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")


def cores() -> int:
    return cpu_count() or 1


def map_ahead(executor: Executor, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Like `executor.map`, but takes from `items` only a few ahead: what comes in as a stream stays one in memory."""
    items = iter(items)
    flying = [executor.submit(function, item) for item in islice(items, 2 * cores())]
    while flying:
        yield flying.pop(0).result()
        flying += [executor.submit(function, item) for item in islice(items, 1)]
