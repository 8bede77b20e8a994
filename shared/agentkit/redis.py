"""Upstash Redis over HTTP, with hard time limits: a cache must never be what a person waits for.

    replies = await pipeline([["GET", "a"], ["INCR", "b"]])     one round trip, each reply or its own error
    value = await client().get("a")                             Upstash's typed commands, likewise

Upstash's own HTTP client waits for ever, sleeps three seconds between retries, may run a command twice and hides all
replies of a pipeline when one fails. So its commands travel by a request of ours: nothing is retried, every request is
over within a second, and after a failure Redis is left alone for a moment, so that one request does not wait for it
several times.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx

from agentkit import telemetry
from agentkit.errors import Unavailable
from agentkit.settings import RedisSettings, load

if TYPE_CHECKING:
    from upstash_redis.commands import AsyncCommands

TIME_LIMIT_SECONDS = 1.0
# Longer than any request that began before the failure, short enough that nobody misses the cache.
LEFT_ALONE_SECONDS = 3.0
# Upstash's answers to a request that it has understood and will not run, such as one that is too large.
REFUSALS = {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}

Command = Sequence[str | int | float]

log = telemetry.logger(__name__)
_failed_at = float("-inf")
_transport: httpx.AsyncBaseTransport | None = None
# Connections belong to the event loop that opened them.
_connections: dict[tuple[asyncio.AbstractEventLoop, httpx.AsyncBaseTransport | None], httpx.AsyncBaseTransport] = {}


class RedisUnavailable(Unavailable):
    """Redis does not answer, or not in time."""

    def __init__(self) -> None:
        super().__init__("A cache behind this service cannot be reached just now.", code="redis_unavailable")


@dataclass(frozen=True, slots=True)
class CommandError:
    """What Redis said to a command that it refused."""

    message: str


@dataclass
class _Request:
    """Commands that travel together."""

    commands: list[Command] = field(default_factory=list)
    sending: "asyncio.Task[list[Any] | CommandError | None]" = field(init=False)


# Begun, and not sent yet.
_gathering: dict[asyncio.AbstractEventLoop, _Request] = {}


async def pipeline(commands: Sequence[Command]) -> list[Any]:
    """Run commands in order, in one round trip; a CommandError stands where one was refused.

    What is asked side by side travels together: pipelines begun in the same turn of the event loop share a request.
    Not a transaction: others' commands may run in between. Raises RedisUnavailable within a second: whether the
    commands have run is then unknown.
    """
    # By the wall clock: the monotonic one may stand still while a sandbox is frozen.
    if 0 <= time.time() - _failed_at < LEFT_ALONE_SECONDS:
        raise RedisUnavailable
    loop = asyncio.get_running_loop()
    request = _gathering.get(loop)
    if request is None:
        request = _gathering[loop] = _Request()
        request.sending = loop.create_task(_send_gathered(request))
    first, end = len(request.commands), len(request.commands) + len(commands)
    request.commands += commands
    # Whoever leaves early does not end the request for the others.
    replies = await asyncio.shield(request.sending)
    if isinstance(replies, CommandError) and len(request.commands) > len(commands):
        # Refused as a whole, perhaps for the others' sake.
        replies, first, end = await _send(commands), 0, len(commands)
    if replies is None:
        raise RedisUnavailable
    return [replies] * len(commands) if isinstance(replies, CommandError) else replies[first:end]


@cache
def client() -> "AsyncCommands":
    """Return Upstash's commands as methods, each a `pipeline` of one.

    A method raises RedisUnavailable, or upstash_redis.errors.UpstashError with what Redis said to a refused command.
    """
    from upstash_redis.commands import AsyncCommands
    from upstash_redis.errors import UpstashError
    from upstash_redis.format import cast_response

    class Client(AsyncCommands):
        async def execute(self, command: list[Any]) -> Any:  # noqa: ANN401  # as its base has it
            words = [word if isinstance(word, str | int | float) else json.dumps(word) for word in command]
            (reply,) = await pipeline([words])
            if isinstance(reply, CommandError):
                raise UpstashError(reply.message)
            return cast_response(command, reply, self)

    return Client()  # type: ignore[no-untyped-call]  # its base has no annotations


def use(transport: httpx.AsyncBaseTransport | None) -> None:
    """Send every request by that transport from now on; None is the network. `agentkit.testing` needs it."""
    global _transport, _failed_at
    _transport, _failed_at = transport, float("-inf")


async def close() -> None:
    """Let go of this event loop's connections, and forget that Redis was away."""
    global _failed_at  # noqa: PLW0603
    _failed_at = float("-inf")
    loop = asyncio.get_running_loop()
    for key in [key for key in _connections if key[0] is loop]:
        await _connections.pop(key).aclose()


async def _send_gathered(request: _Request) -> list[Any] | CommandError | None:
    del _gathering[asyncio.get_running_loop()]
    return await _send(request.commands)


async def _send(commands: Sequence[Command]) -> list[Any] | CommandError | None:
    """Return the replies, what was said to all of it when that was refused, or None when Redis is away."""
    global _failed_at  # noqa: PLW0603  # what one request found out spares the next the wait
    # JSON may hold halves of surrogate pairs, UTF-8 may not.
    body = json.dumps([list(command) for command in commands], ensure_ascii=False).encode(errors="replace")
    settings = load(RedisSettings)
    telemetry.count_round_trip("redis")
    try:
        async with asyncio.timeout(TIME_LIMIT_SECONDS):
            return await _post(settings, body, len(commands))
    # ValueError: an answer that is not Upstash's, from whatever stands where Redis should be.
    except (httpx.HTTPError, TimeoutError, ValueError) as error:
        _failed_at = time.time()
        log.warning("redis.unavailable", exc_info=error)
        return None


async def _post(settings: RedisSettings, body: bytes, replies: int) -> list[Any] | CommandError:
    request = httpx.Request(
        "POST",
        f"{settings.upstash_redis_rest_url.rstrip('/')}/pipeline",
        content=body,
        headers={
            "Authorization": f"Bearer {settings.upstash_redis_rest_token.get_secret_value()}",
            "Content-Type": "application/json",
        },
    )
    answer = await _connection().handle_async_request(request)
    answer.request = request
    await answer.aread()
    if answer.status_code in REFUSALS:
        return CommandError(answer.text)
    answer.raise_for_status()
    items = answer.json()
    if not isinstance(items, list) or len(items) != replies:
        raise ValueError("not an answer of Upstash")
    return [_reply(item) for item in items]


def _reply(item: Any) -> Any:  # noqa: ANN401  # JSON in, a reply of Redis out
    match item:
        case {"error": str(message)}:
            return CommandError(message)
        case {"result": result}:
            return result
    raise ValueError("not a reply of Redis")


def _connection() -> httpx.AsyncBaseTransport:
    key = (asyncio.get_running_loop(), _transport)
    if key not in _connections:
        # Not httpx's client, which adds a quarter to what a request costs (cookies, redirects, proxies, its own clock):
        # a streamed answer makes ten requests a second. The limit is on the whole request, in `_send`.
        _connections[key] = _transport or httpx.AsyncHTTPTransport()
    return _connections[key]
