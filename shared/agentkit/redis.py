"""Upstash Redis over HTTP, with hard time limits: a cache must never be what a person waits for.

    replies = await pipeline([["GET", "a"], ["INCR", "b"]])     one round trip, each reply or its own error

The Upstash client itself waits for ever, sleeps three seconds between retries and hides all replies of a pipeline
when one fails; here nothing is retried, every request is over within a second, and after a failure Redis is left
alone for a moment, so that one request does not wait for it several times.
"""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from agentkit import telemetry
from agentkit.errors import Unavailable
from agentkit.settings import RedisSettings, load

if TYPE_CHECKING:
    from upstash_redis.asyncio import Redis

TIME_LIMIT_SECONDS = 1.0
# Longer than any request that began before the failure, short enough that nobody misses the cache.
LEFT_ALONE_SECONDS = 3.0

T = TypeVar("T")
Command = Sequence[str | int | float]

log = telemetry.logger(__name__)
_left_alone_until = float("-inf")


class RedisUnavailable(Unavailable):
    """Redis does not answer, or not in time."""

    def __init__(self) -> None:
        super().__init__("A cache behind this service cannot be reached just now.", code="redis_unavailable")


@dataclass(frozen=True, slots=True)
class CommandError:
    """What Redis said to a command that it refused."""

    message: str


def client() -> "Redis":
    """Return this event loop's Upstash client; use it inside `within`."""
    return _client(asyncio.get_running_loop())


async def within(answer: Awaitable[T]) -> T:
    """Await an answer of Redis, for at most a second; raises RedisUnavailable when there is none."""
    global _left_alone_until  # noqa: PLW0603  # what one request found out spares the next the wait
    if time.monotonic() < _left_alone_until:
        if asyncio.iscoroutine(answer):
            answer.close()
        raise RedisUnavailable
    telemetry.count_round_trip("redis")
    try:
        async with asyncio.timeout(TIME_LIMIT_SECONDS):
            return await answer
    # ValueError: an answer that is not JSON, from whatever stands where Redis should be.
    except (httpx.HTTPError, TimeoutError, ValueError) as error:
        _left_alone_until = time.monotonic() + LEFT_ALONE_SECONDS
        log.warning("redis.unavailable", exc_info=error)
        raise RedisUnavailable from error


async def pipeline(commands: Sequence[Command]) -> list[Any]:
    """Run commands in order, in one round trip; a CommandError stands where one was refused.

    Not a transaction: others' commands may run in between. Raises RedisUnavailable.
    """
    settings = load(RedisSettings)
    body = await within(_post(settings, commands))
    return [CommandError(item["error"]) if "error" in item else item["result"] for item in body]


async def close() -> None:
    """Let go of this event loop's connections, and forget that Redis was away."""
    global _left_alone_until  # noqa: PLW0603
    _left_alone_until = float("-inf")
    loop = asyncio.get_running_loop()
    http, upstash = _http(loop), _client(loop)
    _http.cache_clear()
    _client.cache_clear()
    await http.aclose()
    await upstash.close()


async def _post(settings: RedisSettings, commands: Sequence[Command]) -> list[dict[str, Any]]:
    answer = await _http(asyncio.get_running_loop()).post(
        f"{settings.upstash_redis_rest_url.rstrip('/')}/pipeline",
        json=[list(command) for command in commands],
        headers={"Authorization": f"Bearer {settings.upstash_redis_rest_token.get_secret_value()}"},
    )
    answer.raise_for_status()
    body = answer.json()
    if not isinstance(body, list) or len(body) != len(commands):
        raise ValueError("not an answer of Upstash")
    return body


@cache
def _http(_: asyncio.AbstractEventLoop) -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=TIME_LIMIT_SECONDS)


@cache
def _client(_: asyncio.AbstractEventLoop) -> "Redis":
    from upstash_redis.asyncio import Redis

    settings = load(RedisSettings)
    return Redis(
        settings.upstash_redis_rest_url,
        settings.upstash_redis_rest_token.get_secret_value(),
        # A retry could run an INCR twice, and sleeps first.
        rest_retries=0,
        allow_telemetry=False,
    )
