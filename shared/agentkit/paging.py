"""Lists by pages: a cursor says where the last one ended, so nothing is skipped or repeated while rows come and go.

`?cursor=&limit=` in, `{items, next_cursor}` out. A cursor is opaque to clients and holds no secret: it is a position
among rows that are the caller's own anyway.
"""

import base64
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, TypeVar

from fastapi import Query

from agentkit.errors import BadRequest

T = TypeVar("T")

PageLimit = Annotated[int, Query(ge=1, le=100, description="Items wanted at most.")]
PageCursor = Annotated[str | None, Query(max_length=300, description="`next_cursor` of the page before.")]


def cursor_after(moment: datetime, identity: object) -> str:
    """Return the cursor of a page that ended with the row of that time and id."""
    return base64.urlsafe_b64encode(f"{moment.isoformat()} {identity}".encode()).decode().rstrip("=")


def position(cursor: str | None, identity: Callable[[str], T]) -> tuple[datetime, T] | tuple[None, None]:
    """Return the time and id after which the page begins; (None, None) for the first. Raises BadRequest.

    identity: what makes an id of its text, or raises ValueError.
    """
    if cursor is None:
        return None, None
    try:
        moment, _, after = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(" ")
        found = datetime.fromisoformat(moment), identity(after)
    except ValueError as error:
        raise _refusal() from error
    if found[0].tzinfo is None or not after or "\0" in after:
        raise _refusal()
    return found


def _refusal() -> BadRequest:
    return BadRequest("The cursor is not one of ours; begin without it.", code="cursor_invalid")
