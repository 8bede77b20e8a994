"""A run's life: one answer of one conversation, kept in Redis while it is written, to be resumed and stopped.

Lambda never says that a browser has left. So the run goes on by itself: what it writes is appended to a Redis stream,
a returning browser reads from there, and a stop is a flag that the run sees at its next flush.

    run = await start(caller.id, chat_id, idempotency_key=None)      one round trip; Conflict while another is live
    if await append(run, frames): ...                                one round trip; true once someone asked to stop
    await finish(run)
    async for frames in follow(caller.id, chat_id): ...              replay, then follow to the end

Keys hold the owner's id, so that an equal chat id of someone else's is another run:

    run:{owner}:{chat}:live     the live run's id; expires when its writer has died
    run:{owner}:{chat}:stop     set when a stop was asked for
    run:{owner}:{chat}:key:{k}  the run that was started under that Idempotency-Key
    run:{owner}:{chat}:{id}     the stream: `f` frames as they were sent, `e` how it ended

While Redis is away an answer is still given; it cannot be resumed or stopped.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from agentkit import redis, telemetry
from agentkit.errors import Conflict

# How long a run counts as live after its last sign of life. Appends come at least every ten seconds (heartbeats).
LIVE_SECONDS = 30
# How long a finished run can be replayed.
KEPT_SECONDS = 600
FIRST_POLL_SECONDS = 0.05
LONGEST_POLL_SECONDS = 0.25
BATCH = 500

State = Literal["finished", "stopped", "failed", "interrupted"]

# KEYS live, stop, key-or-live; ARGV run id, live seconds, kept seconds, 1 when there is an idempotency key.
# Returns {"new", id} or {"same", id} for a repeated idempotency key, or {"busy", id} while another run is live.
START = """
if ARGV[4] == '1' then
  local first = redis.call('GET', KEYS[3])
  if first then return {'same', first} end
end
local live = redis.call('GET', KEYS[1])
if live then return {'busy', live} end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('DEL', KEYS[2])
if ARGV[4] == '1' then redis.call('SET', KEYS[3], ARGV[1], 'EX', ARGV[3]) end
return {'new', ARGV[1]}
"""

# KEYS live, stream, stop; ARGV run id, how it ended, kept seconds. The lock is released only while it is still ours.
FINISH = """
redis.call('XADD', KEYS[2], '*', 'e', ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[3])
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1], KEYS[3]) end
return 'OK'
"""

# KEYS live, stop; ARGV kept seconds. Asks the live run to stop; 0 when none is live.
STOP = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('SET', KEYS[2], '1', 'EX', ARGV[1])
return 1
"""

log = telemetry.logger(__name__)


class Interrupted(Exception):  # noqa: N818  # reads as what happened
    """The run's writer died before it had finished."""


@dataclass
class Run:
    """One answer that is being written."""

    owner: UUID
    conversation_id: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    repeated: bool = False
    """It was started before, under the same Idempotency-Key: follow it, write nothing."""
    recorded: bool = True
    """False once Redis was away: nobody can resume or stop this run any more."""

    @property
    def stream(self) -> str:
        """The key of its Redis stream."""
        return _key(self.owner, self.conversation_id, self.id)


async def start(
    owner: UUID, conversation_id: str, *, idempotency_key: str | None = None, live_seconds: int = LIVE_SECONDS
) -> Run:
    """Return the conversation's new run, or the first one of a repeated Idempotency-Key; one round trip.

    Raises Conflict with `run_in_progress` while another run of the conversation is live.
    """
    run = Run(owner, conversation_id)
    live, stop = (_key(owner, conversation_id, name) for name in ("live", "stop"))
    first = _key(owner, conversation_id, f"key:{idempotency_key}") if idempotency_key else live
    command: redis.Command = [
        *("EVAL", START, 3, live, stop, first),
        *(run.id, live_seconds, KEPT_SECONDS, 1 if idempotency_key else 0),
    ]
    try:
        (reply,) = await redis.pipeline([command])
    except redis.RedisUnavailable:
        run.recorded = False
        return run
    if isinstance(reply, redis.CommandError):
        log.error("run.not_recorded", message=reply.message)
        run.recorded = False
        return run
    outcome, run_id = reply
    if outcome == "busy":
        raise Conflict("An answer is still being written in this conversation.", code="run_in_progress")
    run.id, run.repeated = run_id, outcome == "same"
    return run


async def append(run: Run, frames: Sequence[str], *, live_seconds: int = LIVE_SECONDS) -> bool:
    """Keep what was sent, say that the run is alive, and return whether someone asked it to stop; one round trip.

    `frames` may be empty: a silent run still has to hear of a stop. Never raises for Redis's sake.
    """
    if not run.recorded:
        return False
    commands: list[redis.Command] = [
        ["GET", _key(run.owner, run.conversation_id, "stop")],
        ["EXPIRE", _key(run.owner, run.conversation_id, "live"), live_seconds],
    ]
    if frames:
        commands += [["XADD", run.stream, "*", "f", "".join(frames)], ["EXPIRE", run.stream, KEPT_SECONDS]]
    try:
        stop, *rest = await redis.pipeline(commands)
    except redis.RedisUnavailable:
        # A gap in the stream would resume to a wrong answer: from here on there is no resuming.
        run.recorded = False
        return False
    for reply in rest:
        if isinstance(reply, redis.CommandError):
            log.error("run.append_refused", message=reply.message)
            run.recorded = False
    return bool(stop == "1")


async def finish(run: Run, state: State = "finished") -> None:
    """Say how the run ended and let the conversation have another; the stream is kept for ten minutes."""
    live, stop = (_key(run.owner, run.conversation_id, name) for name in ("live", "stop"))
    command: redis.Command = ["EVAL", FINISH, 3, live, run.stream, stop, run.id, state, KEPT_SECONDS]
    try:
        await redis.pipeline([command])
    except redis.RedisUnavailable:
        # The lock ends by itself, and readers see that the writer is gone.
        log.info("run.end_not_recorded", run_id=run.id)


async def request_stop(owner: UUID, conversation_id: str) -> bool:
    """Ask the conversation's live run to stop; False when none is live. Raises RedisUnavailable."""
    live, stop = (_key(owner, conversation_id, name) for name in ("live", "stop"))
    (reply,) = await redis.pipeline([["EVAL", STOP, 2, live, stop, KEPT_SECONDS]])
    return bool(reply == 1)


async def live_run(owner: UUID, conversation_id: str) -> Run | None:
    """Return the conversation's live run, or None. Raises RedisUnavailable."""
    (run_id,) = await redis.pipeline([["GET", _key(owner, conversation_id, "live")]])
    return Run(owner, conversation_id, run_id) if isinstance(run_id, str) else None


async def follow(run: Run) -> AsyncIterator[str]:
    """Yield what the run has sent, from its beginning, then what it sends, until it ends; SSE frames as they were.

    Raises Interrupted when its writer has died before the end, RedisUnavailable when Redis is away. One round trip for
    each look; looks are 50 to 250 ms apart.
    """
    position, pause = "-", FIRST_POLL_SECONDS
    while True:
        entries, live = await _look(run, position)
        for entry_id, values in entries:
            position = f"({entry_id}"
            named = dict(zip(values[::2], values[1::2], strict=True))
            if "e" in named:
                return
            yield named["f"]
        if entries:
            pause = FIRST_POLL_SECONDS
        elif live != run.id:
            raise Interrupted
        else:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL_SECONDS)


async def _look(run: Run, position: str) -> tuple[list[tuple[str, list[str]]], Any]:
    """Return the stream's entries from there on, and the id of the conversation's live run."""
    # The lock is read first: a run that ends in between has written its last entry before it let go.
    live, entries = await redis.pipeline(
        [
            ["GET", _key(run.owner, run.conversation_id, "live")],
            ["XRANGE", run.stream, position, "+", "COUNT", BATCH],
        ]
    )
    if isinstance(entries, redis.CommandError):
        log.error("run.unreadable", message=entries.message)
        return [], None
    return [(entry_id, values) for entry_id, values in entries], live


def _key(owner: UUID, conversation_id: str, name: str) -> str:
    # One slot for all keys of a conversation, so that scripts may take them together on a cluster.
    return f"run:{{{owner}:{conversation_id}}}:{name}"
