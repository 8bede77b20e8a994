"""The rows of `agentkit.documents`, read and written as their owner."""

from uuid import UUID

from agentkit import database, documents
from agentkit.auth import Caller
from agentkit.database import Row
from agentkit.documents import NewDocument
from agentkit.errors import Invalid, NotFound
from agentkit.paging import cursor_after, position

FIND = "select * from agentkit.documents where id = %s"
# Newest first, from where the last page ended.
PAGE = """
    select * from agentkit.documents
    where %(created_at)s::timestamptz is null or (created_at, id) < (%(created_at)s, %(id)s)
    order by created_at desc, id desc
    limit %(limit)s
"""
DELETE = "delete from agentkit.documents where id = %s"
# Work on what is gone ends, whatever it is at: its worker stops at the next beat.
END_JOBS = """
    update agentkit.jobs
    set status = 'cancelled', finished_at = now(), holder = null, lease_until = null
    where document_id = %s and owner = %s and status in ('queued', 'parsing', 'embedding', 'indexing')
"""


async def insert(caller: Caller, new: NewDocument) -> Row:
    """Return the document's row, made now or by an earlier request of the same id and content.

    Raises Invalid when the earlier one's content was another, Conflict (`quota_exceeded`) when it would be one
    document, or byte, too many.
    """
    row = documents.added(await database.fetch_all(caller, documents.adding(caller.id, new)))
    # The object's key tells requests apart by all that they say; what else the row says may have changed since.
    if row["object_key"] != new.object_key:
        raise Invalid("This Idempotency-Key was used for another document.", code="idempotency_key_reused")
    return row


async def resize(caller: Caller, document_id: UUID, *, size_bytes: int, media_type: str) -> None:
    """The document waits for a file of that size and type; raises Conflict (`quota_exceeded`)."""
    statements = documents.resizing(caller.id, document_id, size_bytes=size_bytes, media_type=media_type)
    documents.resized(await database.fetch_all(caller, statements))


async def visible(caller: Caller, document_id: UUID) -> Row:
    """Return a document that the caller may read; raises NotFound."""
    row = await database.fetch_one(caller, FIND, [document_id])
    if row is None:
        raise NotFound("There is no such document.")
    return row


async def owned(caller: Caller, document_id: UUID) -> Row:
    """Return a document that is the caller's own; raises NotFound, also for one that is for everyone."""
    row = await visible(caller, document_id)
    if row["owner"] != caller.id:
        raise NotFound("You have no such document.")
    return row


async def page(caller: Caller, cursor: str | None, limit: int) -> tuple[list[Row], str | None]:
    """Return at most `limit` documents that the caller may read, newest first, and where the next page begins."""
    created_at, document_id = position(cursor, UUID)
    facts = {"created_at": created_at, "id": document_id, "limit": limit + 1}
    rows = await database.fetch(caller, PAGE, facts)
    more = len(rows) > limit
    return rows[:limit], cursor_after(rows[limit - 1]["created_at"], rows[limit - 1]["id"]) if more else None


async def delete(caller: Caller, document_id: UUID) -> None:
    """The row is gone, and nobody works on it any more."""
    await database.fetch_all(caller, [(END_JOBS, [document_id, caller.id]), (DELETE, [document_id])])
