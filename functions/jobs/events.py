"""What becomes of a job, as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

The row is asked again and again, soon after a change and more rarely while nothing happens; nobody has to tell us. So
any sandbox can take over, and a database that is away for a moment only makes the next change come later.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from agentkit import telemetry
from agentkit.errors import Problem, Unavailable

FIRST_PAUSE_SECONDS = 0.3
LONGEST_PAUSE_SECONDS = 2.0
PAUSE_GROWTH = 1.5
HEARTBEAT_SECONDS = 10.0
# Looks in a row that find the database away, before that is told.
TRIES = 8

HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}
PING = ": ping\n\n"

log = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class State:
    """A job as it was found."""

    data: str
    """What its owner is told of it: JSON."""
    over: bool


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the stream."""

    name: Literal["progress", "done", "continue", "error"]
    data: str

    @classmethod
    def of(cls, state: State) -> "Event":
        """Return the event that tells of a job's state."""
        return cls("done" if state.over else "progress", state.data)

    def __str__(self) -> str:
        """Return it as it is sent; equal ids say that nothing has changed."""
        identity = hashlib.sha256(self.data.encode()).hexdigest()[:16]
        return f"event: {self.name}\nid: {identity}\ndata: {self.data}\n\n"


Look = Callable[[], Awaitable[State]]
"""Finds the job as it is now; raises NotFound, Unavailable."""


async def follow(now: State, look: Look, *, seconds: float) -> AsyncIterator[str]:
    """Yield how the job stands, then each change, until it is over or that time has passed."""
    ends = time.monotonic() + seconds
    event = Event.of(now)
    yield str(event)
    outlet: asyncio.Queue[Event] = asyncio.Queue()
    watching = asyncio.create_task(_watch(now, look, outlet.put_nowait))
    try:
        while event.name == "progress" and (left := ends - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left, HEARTBEAT_SECONDS)):
                    event = await outlet.get()
            except TimeoutError:
                yield PING
            else:
                yield str(event)
        if event.name == "progress":
            yield str(Event("continue", event.data))
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(now: State, look: Look, tell: Callable[[Event], None]) -> None:
    """Tell of each change until the job is over, or of what kept us from seeing it."""
    try:
        async for found in _changes(now, look):
            tell(Event.of(found))
    except Problem as problem:
        log.info("events.ended", code=problem.code)
        tell(_error(problem))
    except Exception as error:
        log.error("events.failed", exc_info=error)
        tell(_error(Problem("It failed on our side; quote the request id if it stays.")))


async def _changes(now: State, look: Look) -> AsyncIterator[State]:
    pause, failures = FIRST_PAUSE_SECONDS, 0
    while not now.over:
        await _pause(pause)
        try:
            found = await look()
        except Unavailable:
            failures += 1
            if failures == TRIES:
                raise
            found = now
        else:
            failures = 0
        if found == now:
            pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE_SECONDS)
        else:
            pause, now = FIRST_PAUSE_SECONDS, found
            yield found


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _error(problem: Problem) -> Event:
    return Event("error", json.dumps(problem.body(telemetry.request_id.get())))
