"""A conversation's messages in Postgres: read before an answer, the question kept as it begins, the answer as it ends.

Each is one round trip. Whoever opens the conversation in the middle of an answer finds the question, and a run that
dies loses no more than its answer.
"""

import json
from dataclasses import dataclass
from typing import Any

from agentkit import telemetry
from agentkit.auth import Caller
from agentkit.database import fetch, fetch_all
from agentkit.llm import Usage
from agentkit.ui_message import Message

log = telemetry.logger(__name__)

# The newest that are looked at; how many of them the model gets is decided by their length.
NEWEST = 60
MODEL_CHARACTERS = 12_000
TITLE_CHARACTERS = 60

# What was said in this conversation, the newest first? A question that stands there already is being asked again: what
# came after it does not count.
READ = """
select role, parts from agentkit.messages
where owner = %(owner)s and conversation_id = %(conversation)s and ordinal < coalesce(
  (select ordinal from agentkit.messages
   where owner = %(owner)s and conversation_id = %(conversation)s and id = %(question)s),
  9223372036854775807
)
order by ordinal desc limit %(newest)s
"""

BEGIN_CONVERSATION = """
insert into agentkit.conversations (owner, id, title) values (%s, %s, %s)
on conflict (owner, id) do update set updated_at = now()
"""
# A question that is asked again, edited or not, takes back all that came after it.
FORGET_LATER = """
delete from agentkit.messages m using agentkit.messages asked
where asked.owner = %(owner)s and asked.conversation_id = %(conversation)s and asked.id = %(question)s
  and m.owner = asked.owner and m.conversation_id = asked.conversation_id and m.ordinal > asked.ordinal
"""
WRITE_QUESTION = """
insert into agentkit.messages (owner, conversation_id, id, role, parts) values (%s, %s, %s, 'user', %s)
on conflict (owner, conversation_id, id)
do update set role = excluded.role, parts = excluded.parts, metadata = excluded.metadata
"""
# A conversation that was deleted meanwhile stays deleted. First in its transaction: whoever asks or deletes waits.
TOUCH_CONVERSATION = "update agentkit.conversations set updated_at = now() where owner = %s and id = %s"
# Only while its question is the conversation's last: placed after a newer one it would read as the answer to that.
WRITE_ANSWER = """
insert into agentkit.messages (owner, conversation_id, id, role, parts, metadata)
select asked.owner, asked.conversation_id, %(answer)s, 'assistant', %(parts)s::jsonb, %(metadata)s::jsonb
from agentkit.messages asked
where asked.owner = %(owner)s and asked.conversation_id = %(conversation)s and asked.id = %(question)s
  and not exists (
    select from agentkit.messages newer
    where newer.owner = asked.owner and newer.conversation_id = asked.conversation_id
      and newer.ordinal > asked.ordinal and newer.role = 'user'
  )
returning id
"""
RECORD_USAGE = """
insert into agentkit.usage_events (owner, function, model, input_tokens, output_tokens, cost_usd, conversation_id)
values (%s, 'chat', %s, %s, %s, %s, %s)
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message, as far as the model needs it."""

    role: str
    text: str


async def read(caller: Caller, conversation_id: str, question: Message) -> list[Turn]:
    """Return what was said before the question, oldest first: no more than the model should read again.

    It begins with a question: there are models that read no other conversation.
    """
    wanted = {"owner": caller.id, "conversation": conversation_id, "question": question.id, "newest": NEWEST}
    turns: list[Turn] = []
    room = MODEL_CHARACTERS
    for row in await fetch(caller, READ, wanted):
        text = "".join(part.get("text", "") for part in row["parts"] if part.get("type") == "text")
        room -= len(text)
        if room < 0:
            break
        if text:
            turns.append(Turn(row["role"], text))
    while turns and turns[-1].role != "user":
        turns.pop()
    return turns[::-1]


async def ask(caller: Caller, conversation_id: str, question: Message) -> None:
    """Keep the question; an answer that it had before, and all that came after, is forgotten."""
    owner = caller.id
    parts = json.dumps([{"type": "text", "text": question.text}])
    await fetch_all(
        caller,
        [
            (BEGIN_CONVERSATION, [owner, conversation_id, title_of(question.text)]),
            (FORGET_LATER, {"owner": owner, "conversation": conversation_id, "question": question.id}),
            (WRITE_QUESTION, [owner, conversation_id, question.id, parts]),
        ],
    )


async def write(
    caller: Caller,
    conversation_id: str,
    question: Message,
    *,
    answer_id: str,
    parts: list[dict[str, Any]],
    metadata: dict[str, Any],
    model: str,
    usage: Usage,
) -> None:
    """Keep the question's answer and what it cost: all of it or nothing. No parts: there is no answer.

    An answer whose question is gone, or is followed by a newer one, is not kept: the client has moved on, and what it
    has since said, or deleted, counts.
    """
    owner = caller.id
    statements: list[Any] = [(TOUCH_CONVERSATION, [owner, conversation_id])]
    if usage.input_tokens or usage.output_tokens:
        spent = [owner, model, usage.input_tokens, usage.output_tokens, usage.cost_usd, conversation_id]
        statements.append((RECORD_USAGE, spent))
    if parts:
        answer = {
            "owner": owner,
            "conversation": conversation_id,
            "question": question.id,
            "answer": answer_id,
            "parts": json.dumps(parts),
            "metadata": json.dumps(metadata),
        }
        statements.append((WRITE_ANSWER, answer))
    *_, kept = await fetch_all(caller, statements)
    if parts and not kept:
        log.info("chat.answer_outdated", answer_id=answer_id)


def title_of(text: str) -> str:
    """Return a title for a conversation that begins with that text: its beginning, to the end of a word."""
    line = " ".join(text.split())
    if len(line) <= TITLE_CHARACTERS:
        return line
    cut = line[: TITLE_CHARACTERS - 1]
    return f"{cut.rsplit(' ', 1)[0] if ' ' in cut else cut}…"
