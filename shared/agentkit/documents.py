"""A person's documents are added here, by whoever adds one: as many, and as large, as one person may keep.

    row = added(await database.fetch_all(caller, adding(caller.id, new)))

Who adds a document waits for the owner's others to be added, so that two at once never pass a limit together.
"""

from collections.abc import Sequence
from typing import Literal, LiteralString
from uuid import UUID

from pydantic import BaseModel

from agentkit.database import Parameters, Row
from agentkit.errors import Conflict
from agentkit.settings import QuotaSettings, load

Audience = Literal["owner", "everyone"]

# One at a time for each owner, until the transaction's end.
TAKE_TURN = "select pg_advisory_xact_lock(hashtextextended('agentkit documents ' || %(owner)s::text, 0))"
# What the owner keeps besides this one.
HELD: LiteralString = """
    select count(*) as documents, coalesce(sum(size_bytes), 0)::bigint as bytes
    from agentkit.documents where owner = %(owner)s and id <> %(id)s
"""
# Nothing happens when the id is taken, which it is by an earlier request of the same Idempotency-Key.
INSERT: LiteralString = f"""
    insert into agentkit.documents
        (id, owner, title, filename, media_type, size_bytes, audience, status, object_key, source_url)
    select %(id)s, %(owner)s, %(title)s, %(filename)s, %(media_type)s, %(size_bytes)s, %(audience)s, 'awaiting_upload',
           %(object_key)s, %(source_url)s
    from ({HELD}) as held
    where documents < %(max_documents)s and bytes + %(size_bytes)s <= %(max_bytes)s
    on conflict (id) do nothing
"""
# Of a file that will take the place of the one that is there.
RESIZE: LiteralString = f"""
    update agentkit.documents set size_bytes = %(size_bytes)s, media_type = %(media_type)s
    from ({HELD}) as held
    where id = %(id)s and owner = %(owner)s and bytes + %(size_bytes)s <= %(max_bytes)s
    returning id
"""
FIND: LiteralString = "select * from agentkit.documents where id = %(id)s and owner = %(owner)s"

Statement = tuple[LiteralString, Parameters]


class NewDocument(BaseModel):
    """A document that does not have its file yet."""

    id: UUID
    title: str
    filename: str
    media_type: str
    size_bytes: int
    """0 while it is not known."""
    object_key: str
    audience: Audience = "owner"
    source_url: str | None = None


def adding(owner: UUID, new: NewDocument) -> list[Statement]:
    """Return the statements that add a document if its owner may keep it; `added` reads their answers."""
    facts = {"owner": owner, **new.model_dump(), **_limits()}
    return [(TAKE_TURN, facts), (INSERT, facts), (FIND, facts), (HELD, facts)]


def added(answers: Sequence[list[Row]]) -> Row:
    """Return the document's row, made now or by an earlier request of its id; raises Conflict (`quota_exceeded`)."""
    *_, found, (held,) = answers
    if found:
        return found[0]
    limits = _limits()
    if held["documents"] >= limits["max_documents"]:
        raise _exceeded("documents", limits["max_documents"])
    raise _exceeded("bytes", limits["max_bytes"])


def resizing(owner: UUID, document_id: UUID, *, size_bytes: int, media_type: str) -> list[Statement]:
    """Return the statements by which a document's file may be replaced; `resized` reads their answers."""
    facts = {"owner": owner, "id": document_id, "size_bytes": size_bytes, "media_type": media_type, **_limits()}
    return [(TAKE_TURN, facts), (RESIZE, facts)]


def resized(answers: Sequence[list[Row]]) -> None:
    """Return when the document is of the new size; raises Conflict (`quota_exceeded`)."""
    if not answers[-1]:
        raise _exceeded("bytes", _limits()["max_bytes"])


def _limits() -> dict[str, int]:
    settings = load(QuotaSettings)
    return {"max_documents": settings.user_max_documents, "max_bytes": settings.user_max_bytes}


def _exceeded(what: Literal["documents", "bytes"], most: int) -> Conflict:
    return Conflict(
        f"You may keep {most:,} {what} in all; delete documents that you need no more.",
        code="quota_exceeded",
        limit=what,
        most=most,
    )
