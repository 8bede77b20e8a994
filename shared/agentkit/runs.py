"""A run's life: one answer of one conversation, kept in Redis while it is written, to be resumed and stopped.

Lambda never says that a browser has left. So the run goes on by itself: what it writes is appended to a Redis stream,
a returning browser reads from there, and a stop is a flag that the run sees at its next flush.

    run = await start(caller.id, chat_id, idempotency_key=None)      one round trip; Conflict while another is live
    if await append(run, frames): ...                                one round trip; true once someone asked to stop
    await finish(run)                                                one round trip
    async for frames in follow(run): ...                             replay, then follow to the end

Keys hold the owner's id, so that an equal chat id of someone else's is another run:

    run:{owner:chat}:live     the live run's id; expires when its writer has died
    run:{owner:chat}:stop     the id of the run that was asked to stop
    run:{owner:chat}:key:k    the id of the run that was started under the Idempotency-Key k
    run:{owner:chat}:id       the run's stream: entries 1-0, 2-0, … with `f`, frames as they were sent; the last has `e`

While Redis is away an answer is still given. A run that could not be started there is not recorded: it cannot be
resumed or stopped. One that was under way keeps what Redis missed and appends it when Redis is back; an entry's place
is its id, so that none is there twice when an answer of Redis's was lost.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from agentkit import redis, telemetry
from agentkit.errors import Conflict

# How long a run counts as live after its last sign of life; one is given with each flush, several times a second.
LIVE_SECONDS = 15
# How long a finished run can be replayed.
KEPT_SECONDS = 600
# The longest answer that can be resumed: several times what the model's output limit allows.
LONGEST_CHARACTERS = 4_000_000
FIRST_POLL_SECONDS = 0.05
LONGEST_POLL_SECONDS = 0.25
BATCH = 500

State = Literal["finished", "stopped", "failed", "interrupted"]

# KEYS live, key (live again when there is none); ARGV run id, live seconds, kept seconds.
# Returns {"new", id}; {"same", id} for a repeated Idempotency-Key; {"busy", id} while another run is live.
START = """
local keyed = KEYS[1] ~= KEYS[2]
if keyed then
  local first = redis.call('GET', KEYS[2])
  if first then return {'same', first} end
end
local live = redis.call('GET', KEYS[1])
if live then return {'busy', live} end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
if keyed then redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[3]) end
return {'new', ARGV[1]}
"""

# KEYS live, stop, stream; ARGV run id, live seconds, kept seconds, the place of the first entry, entries.
# Entries that are there already are passed over. Returns "lost" when Redis has forgotten what came before; else "stop"
# or "go".
APPEND = """
local held = redis.call('XLEN', KEYS[3])
if held < ARGV[4] - 1 then return 'lost' end
for i = held - ARGV[4] + 6, #ARGV do
  held = held + 1
  redis.call('XADD', KEYS[3], string.format('%d-0', held), 'f', ARGV[i])
end
redis.call('EXPIRE', KEYS[3], ARGV[3])
local live = redis.call('GET', KEYS[1])
if not live or live == ARGV[1] then redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) end
if redis.call('GET', KEYS[2]) == ARGV[1] then return 'stop' end
return 'go'
"""

# KEYS live, stream, key (live again when there is none); ARGV run id, how it ended, kept seconds, the place of the
# first entry, entries. The lock is released only while it is still ours. A run that failed before it said anything
# gives its Idempotency-Key back, so that the same request can be tried again.
FINISH = """
local held = redis.call('XLEN', KEYS[2])
local ended = ARGV[2]
if held < ARGV[4] - 1 then
  ended = 'interrupted'
else
  for i = held - ARGV[4] + 6, #ARGV do
    held = held + 1
    redis.call('XADD', KEYS[2], string.format('%d-0', held), 'f', ARGV[i])
  end
end
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
if held == 0 and ended == 'failed' then
  if redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
end
redis.call('XADD', KEYS[2], string.format('%d-0', held + 1), 'e', ended)
redis.call('EXPIRE', KEYS[2], ARGV[3])
return ended
"""

# KEYS live, stop; ARGV kept seconds. Asks the live run to stop; 0 when none is live.
STOP = """
local live = redis.call('GET', KEYS[1])
if not live then return 0 end
redis.call('SET', KEYS[2], live, 'EX', ARGV[1])
return 1
"""

# KEYS live, stream; ARGV the place of the last entry seen, entries wanted at most.
# Returns the live run's id ("" for none) and the entries after that place, as one moment saw them.
LOOK = """
return {redis.call('GET', KEYS[1]) or '', redis.call('XRANGE', KEYS[2], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])}
"""

log = telemetry.logger(__name__)


class Interrupted(Exception):  # noqa: N818  # reads as what happened
    """The run's writer died before it had finished, or what it wrote was not all kept."""


@dataclass
class Run:
    """One answer that is being written."""

    owner: UUID
    conversation_id: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    idempotency_key: str | None = None
    repeated: bool = False
    """It was started before, under the same Idempotency-Key: follow it, write nothing."""
    recorded: bool = True
    """False when Redis does not have it: nobody can resume or stop this run."""
    entries: int = 0
    """How many its stream is known to hold."""
    missing: list[str] = field(default_factory=list)
    """Entries after those, which Redis is not known to have."""
    characters: int = 0

    @property
    def stream(self) -> str:
        """The key of its Redis stream."""
        return self.key(self.id)

    def key(self, name: str) -> str:
        """Return the conversation's key of that name."""
        # One slot for all keys of a conversation, so that scripts may take them together on a cluster.
        return f"run:{{{self.owner}:{self.conversation_id}}}:{name}"

    @property
    def first_key(self) -> str:
        """The key that a repeated Idempotency-Key is found by; that of the lock when there is none."""
        return self.key(f"key:{self.idempotency_key}") if self.idempotency_key else self.key("live")


async def start(
    owner: UUID, conversation_id: str, *, idempotency_key: str | None = None, live_seconds: int = LIVE_SECONDS
) -> Run:
    """Return the conversation's new run, or the first one of a repeated Idempotency-Key; one round trip.

    Raises Conflict with `run_in_progress` while another run of the conversation is live.
    """
    run = Run(owner, conversation_id, idempotency_key=idempotency_key)
    reply = await _run_script(run, START, [run.key("live"), run.first_key], [run.id, live_seconds, KEPT_SECONDS])
    if reply is None:
        run.recorded = False
        return run
    outcome, run.id = reply
    if outcome == "busy":
        raise Conflict("An answer is still being written in this conversation.", code="run_in_progress")
    run.repeated = outcome == "same"
    return run


async def append(run: Run, frames: Sequence[str], *, live_seconds: int = LIVE_SECONDS) -> bool:
    """Keep what was sent, say that the run is alive, and return whether someone asked it to stop; one round trip.

    `frames` may be empty: a silent run still has to hear of a stop. A run has one writer, so one call at a time. Never
    raises for Redis's sake.
    """
    _take(run, frames)
    if not run.recorded:
        return False
    if run.characters > LONGEST_CHARACTERS:
        log.error("run.too_long_to_resume", run_id=run.id)
        run.missing.clear()
        await finish(run, "interrupted")
        run.recorded = False
        return False
    reply = await _run_script(
        run,
        APPEND,
        [run.key("live"), run.key("stop"), run.stream],
        [run.id, live_seconds, KEPT_SECONDS, run.entries + 1, *run.missing],
    )
    if reply == "lost":
        log.error("run.lost", run_id=run.id)
        run.recorded = False
    elif reply is not None:
        run.entries += len(run.missing)
        run.missing.clear()
    return bool(reply == "stop")


async def finish(run: Run, state: State = "finished", frames: Sequence[str] = ()) -> None:
    """Keep the last frames, say how the run ended and let the conversation have another; one round trip.

    The stream is kept for ten minutes. Never raises for Redis's sake: the lock ends by itself, and readers see that
    the writer is gone.
    """
    _take(run, frames)
    if run.recorded:
        await _run_script(
            run,
            FINISH,
            [run.key("live"), run.stream, run.first_key],
            [run.id, state, KEPT_SECONDS, run.entries + 1, *run.missing],
        )


async def request_stop(owner: UUID, conversation_id: str) -> bool:
    """Ask the conversation's live run to stop; False when none is live. Raises RedisUnavailable."""
    any_run = Run(owner, conversation_id)
    (reply,) = await redis.pipeline([["EVAL", STOP, 2, any_run.key("live"), any_run.key("stop"), KEPT_SECONDS]])
    return bool(reply == 1)


async def live_run(owner: UUID, conversation_id: str) -> Run | None:
    """Return the conversation's live run, or None. Raises RedisUnavailable."""
    (run_id,) = await redis.pipeline([["GET", Run(owner, conversation_id).key("live")]])
    return Run(owner, conversation_id, run_id) if isinstance(run_id, str) else None


async def follow(run: Run) -> AsyncIterator[str]:
    """Yield what the run has sent, from its beginning, then what it sends, until it ends; SSE frames as they were.

    Raises Interrupted when its writer has died before the end, RedisUnavailable when Redis is away. One round trip for
    each look; looks are 50 to 250 ms apart.
    """
    seen, pause = 0, FIRST_POLL_SECONDS
    while True:
        live, entries = await _look(run, seen)
        for kind, value in entries:
            if kind == "e" and value == "interrupted":
                raise Interrupted
            if kind == "e":
                return
            yield value
        seen += len(entries)
        if entries:
            pause = FIRST_POLL_SECONDS
        elif live != run.id:
            raise Interrupted
        else:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL_SECONDS)


async def _look(run: Run, seen: int) -> tuple[str, list[tuple[str, str]]]:
    """Return the id of the conversation's live run, and the run's next entries: `f` or `e`, and what it says."""
    (reply,) = await redis.pipeline([["EVAL", LOOK, 2, run.key("live"), run.stream, seen, BATCH]])
    if isinstance(reply, redis.CommandError):
        log.error("run.unreadable", run_id=run.id, message=reply.message)
        raise Interrupted
    live, entries = reply
    return live, [(kind, value) for _, (kind, value) in entries]


def _take(run: Run, frames: Sequence[str]) -> None:
    """Note what was sent as the run's next entry."""
    if frames and run.recorded:
        entry = "".join(frames)
        run.missing.append(entry)
        run.characters += len(entry)


async def _run_script(run: Run, script: str, keys: Sequence[str], values: Sequence[str | int]) -> Any:  # noqa: ANN401
    """Return the script's reply, or None when Redis is away, or refuses it: then it would again."""
    try:
        (reply,) = await redis.pipeline([["EVAL", script, len(keys), *keys, *values]])
    except redis.RedisUnavailable:
        return None
    if isinstance(reply, redis.CommandError):
        log.error("run.refused", run_id=run.id, message=reply.message)
        run.recorded = False
        return None
    return reply
