"""Everything there is, page by page in the order of its keys, from another place each time."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

K = TypeVar("K", bound=Any)
T = TypeVar("T")


class Page(NamedTuple):
    """What lies between two keys."""

    after: Any
    until: Any
    """The last key that it covers; None when it goes to the end."""
    items: Sequence[Any]


async def around(
    read: Callable[[K], Awaitable[Sequence[T]]], key: Callable[[T], K], *, first: K, start: K, limit: int
) -> AsyncIterator[Page]:
    """Yield pages from `start` to the end, then from `first` to `start`: what one run cannot reach another begins with.

    read: returns what comes after a key, in order, and at most `limit` of it.
    """
    for begin, end in ((start, None), (first, start)):
        after: K | None = begin
        while after is not None:
            found = await read(after)
            items = [each for each in found if end is None or key(each) <= end]
            full = len(items) == limit
            until = key(items[-1]) if full else end
            yield Page(after, until, items)
            after = until if full else None
