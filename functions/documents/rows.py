"""The rows of `agentkit.documents`, read and written as their owner."""

from typing import Literal
from uuid import UUID

from pydantic import BaseModel

from agentkit import database
from agentkit.auth import Caller
from agentkit.database import Row
from agentkit.errors import Invalid, NotFound
from agentkit.paging import cursor_after, position

# Returns the earlier row when the id is taken, which happens to a repeated Idempotency-Key only.
INSERT = """
    insert into agentkit.documents
        (id, owner, title, filename, media_type, size_bytes, audience, status, object_key)
    values
        (%(id)s, %(owner)s, %(title)s, %(filename)s, %(media_type)s, %(size_bytes)s, %(audience)s, 'awaiting_upload',
         %(object_key)s)
    on conflict (id) do nothing
"""
FIND = "select * from agentkit.documents where id = %s"
# Newest first, from where the last page ended.
PAGE = """
    select * from agentkit.documents
    where %(created_at)s::timestamptz is null or (created_at, id) < (%(created_at)s, %(id)s)
    order by created_at desc, id desc
    limit %(limit)s
"""
# A document waits when a job of its own does: true for a new job, untouched when an earlier one is under way or over.
QUEUED = """
    update agentkit.documents set status = 'queued', error_code = null, error = null
    where id = %s and exists (
        select from agentkit.jobs as job where job.document_id = documents.id and job.status = 'queued')
"""
FAIL = """
    update agentkit.documents set status = 'failed', error_code = %s, error = %s
    where id = %s and status = 'queued'
"""
DELETE = "delete from agentkit.documents where id = %s"

Audience = Literal["owner", "everyone"]


class NewRow(BaseModel):
    """A document that does not have its file yet."""

    id: UUID
    title: str
    filename: str
    media_type: str
    size_bytes: int
    audience: Audience
    object_key: str


async def insert(caller: Caller, new: NewRow) -> Row:
    """Return the document's row, made now or by an earlier request of the same id and content.

    Raises Invalid when the earlier one's content was another.
    """
    _, (row,) = await database.fetch_all(caller, [(INSERT, {**new.model_dump(), "owner": caller.id}), (FIND, [new.id])])
    if any(row[name] != value for name, value in new.model_dump().items()):
        raise Invalid("This Idempotency-Key was used for another document.", code="idempotency_key_reused")
    return row


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


async def fail(caller: Caller, document_id: UUID, code: str, sentence: str) -> None:
    """A document that waited is failed."""
    await database.fetch(caller, FAIL, [code, sentence, document_id])


async def delete(caller: Caller, document_id: UUID) -> None:
    """The row is gone."""
    await database.fetch(caller, DELETE, [document_id])
