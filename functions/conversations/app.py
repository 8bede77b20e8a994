"""Conversations: what the caller and the agent have said, as AI SDK UI messages.

    GET    /v1/conversations        ?cursor=&limit= -> Page, the last used first      120 a minute, with the next
    GET    /v1/conversations/{id}   -> Conversation
    PATCH  /v1/conversations/{id}   {title} -> Summary                               60 a minute, with the next
    DELETE /v1/conversations/{id}

`chat` writes them. Another person's conversation is not found, whatever its id.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import BaseModel, Field

from agentkit.auth import CurrentCaller
from agentkit.database import Row, fetch, fetch_all, fetch_one
from agentkit.errors import NotFound
from agentkit.http import Body, Text, create_app, lambda_handler
from agentkit.paging import PageCursor, PageLimit, cursor_after, position
from agentkit.ratelimit import limit
from agentkit.ui_message import CHAT_ID

# The caller's conversations, the last used first, from where the last page ended.
PAGE = """
select id, title, created_at, updated_at from agentkit.conversations
where owner = auth.uid() and (%(moment)s::timestamptz is null or (updated_at, id) < (%(moment)s, %(id)s))
order by updated_at desc, id desc
limit %(limit)s
"""
FIND = "select id, title, created_at, updated_at from agentkit.conversations where owner = auth.uid() and id = %s"
MESSAGES = """
select id, role, parts, metadata from agentkit.messages
where owner = auth.uid() and conversation_id = %s order by ordinal
"""
RENAME = """
update agentkit.conversations set title = %s where owner = auth.uid() and id = %s
returning id, title, created_at, updated_at
"""
DELETE = "delete from agentkit.conversations where owner = auth.uid() and id = %s returning id"

ConversationId = Annotated[str, Path(pattern=CHAT_ID, description="The chat's id, as `useChat` has it.")]

app = create_app("conversations")
reads = limit("conversations-read", per_minute=120)
writes = limit("conversations-write", per_minute=60)


class Summary(BaseModel):
    """A conversation without its messages."""

    id: str
    title: str = Field(description="Made from the first question, until it is renamed.")
    created_at: datetime
    updated_at: datetime = Field(description="When the last answer was kept.")


class Page(BaseModel):
    """Some of the caller's conversations."""

    items: list[Summary]
    next_cursor: str | None = Field(description="Ask for the next page with it; null on the last.")


class Message(BaseModel):
    """An AI SDK UI message."""

    id: str
    role: Literal["user", "assistant"]
    parts: list[dict[str, Any]]
    metadata: dict[str, Any] = Field(description="Of an answer: status, model, usage.")


class Conversation(Summary):
    """A conversation with all its messages, oldest first: `useChat` takes them as they are."""

    messages: list[Message]


class Rename(Body):
    """A new title."""

    title: Annotated[Text, Field(min_length=1, max_length=200, pattern=r"\S", examples=["The lease"])]


@app.get("/conversations", dependencies=[reads])
async def list_conversations(caller: CurrentCaller, cursor: PageCursor = None, limit: PageLimit = 20) -> Page:
    """Return the caller's conversations, the last used first."""
    moment, after = position(cursor, str)
    rows = await fetch(caller, PAGE, {"moment": moment, "id": after, "limit": limit + 1})
    items = [Summary(**row) for row in rows[:limit]]
    more = len(rows) > limit
    return Page(items=items, next_cursor=cursor_after(items[-1].updated_at, items[-1].id) if more else None)


@app.get("/conversations/{conversation_id}", dependencies=[reads])
async def get_conversation(conversation_id: ConversationId, caller: CurrentCaller) -> Conversation:
    """Return one of the caller's conversations with its messages."""
    found, messages = await fetch_all(caller, [(FIND, [conversation_id]), (MESSAGES, [conversation_id])])
    return Conversation(**_present(found[0] if found else None), messages=[Message(**row) for row in messages])


@app.patch("/conversations/{conversation_id}", dependencies=[writes])
async def rename_conversation(conversation_id: ConversationId, rename: Rename, caller: CurrentCaller) -> Summary:
    """Give one of the caller's conversations another title."""
    return Summary(**_present(await fetch_one(caller, RENAME, [rename.title, conversation_id])))


@app.delete("/conversations/{conversation_id}", status_code=204, dependencies=[writes])
async def delete_conversation(conversation_id: ConversationId, caller: CurrentCaller) -> None:
    """Delete one of the caller's conversations and all that was said in it."""
    _present(await fetch_one(caller, DELETE, [conversation_id]))


def _present(row: Row | None) -> Row:
    if row is None:
        raise NotFound("You have no conversation of that id.")
    return row


handler = lambda_handler(app)
