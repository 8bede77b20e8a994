"""Lists by pages: a cursor says where the last one ended, so nothing is skipped or repeated while rows come and go.

`?cursor=&limit=` in, `{items, next_cursor}` out. A cursor is opaque to clients and holds no secret: it is a position
among rows that are the caller's own anyway.
"""

import base64
import binascii
from datetime import datetime
from typing import Annotated

from fastapi import Query

from agentkit.errors import BadRequest

PageLimit = Annotated[int, Query(ge=1, le=100, description="Items wanted at most.")]
PageCursor = Annotated[str | None, Query(max_length=300, description="`next_cursor` of the page before.")]


def cursor_after(moment: datetime, identity: object) -> str:
    """Return the cursor of a page that ended with the row of that time and id."""
    return base64.urlsafe_b64encode(f"{moment.isoformat()} {identity}".encode()).decode().rstrip("=")


def position(cursor: str | None) -> tuple[datetime | None, str]:
    """Return the time and id after which the page begins; (None, "") for the first. Raises BadRequest."""
    if cursor is None:
        return None, ""
    try:
        decoded = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        moment, _, identity = decoded.partition(" ")
        parsed = datetime.fromisoformat(moment)
    except (ValueError, binascii.Error) as error:
        raise BadRequest("The cursor is not one of ours.", code="cursor_invalid") from error
    if parsed.tzinfo is None or not identity or "\0" in identity:
        raise BadRequest("The cursor is not one of ours.", code="cursor_invalid")
    return parsed, identity
