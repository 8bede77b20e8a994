"""How often a caller may ask: a sliding minute in Redis, told in headers, one round trip.

    @app.post("/search", dependencies=[limit("search", per_minute=60)])

Every answer, a problem or a stream too, carries `RateLimit-Policy` and `RateLimit`
(draft-ietf-httpapi-ratelimit-headers-10), and a refused one `Retry-After` as well. While Redis is away callers are let
through, unless RATE_LIMIT_FAIL=closed. RATE_LIMIT_SCALE multiplies all limits; a load test lifts them with it.
"""

import math
import time
from functools import cache
from typing import TYPE_CHECKING, Any

from fastapi import Depends, Request

from agentkit import redis, telemetry
from agentkit.auth import Caller, CurrentCaller
from agentkit.errors import TooManyRequests
from agentkit.http import add_headers
from agentkit.settings import RateLimitSettings, load

if TYPE_CHECKING:
    from upstash_ratelimit import SlidingWindow

WINDOW_SECONDS = 60
PREFIX = "limit"

log = telemetry.logger(__name__)


def limit(name: str, *, per_minute: int) -> Any:  # noqa: ANN401  # what FastAPI's Depends is
    """Return a dependency that counts the caller's requests of that name and refuses those over the limit."""

    async def within_limit(caller: CurrentCaller, request: Request) -> None:
        add_headers(request, await check(name, caller, per_minute=per_minute))

    return Depends(within_limit)


async def check(name: str, caller: Caller, *, per_minute: int) -> dict[str, str]:
    """Count one request of that caller's and return the headers that say how many are left.

    Raises TooManyRequests when none was left, RedisUnavailable when Redis is away and the deployment fails closed.
    """
    from upstash_ratelimit.asyncio import Ratelimit
    from upstash_redis.errors import UpstashError

    settings = load(RateLimitSettings)
    allowance = max(1, round(per_minute * settings.rate_limit_scale))
    limiter = Ratelimit(
        # Of the client it uses one command, EVAL.
        redis=redis.client(),  # type: ignore[arg-type]
        limiter=_window(allowance),
        prefix=f"{PREFIX}:{name}",
    )
    try:
        counted = await limiter.limit(str(caller.id))
    except (redis.RedisUnavailable, UpstashError) as error:
        if isinstance(error, UpstashError):
            log.error("limit.not_counted", exc_info=error)
        if settings.rate_limit_fail == "closed":
            raise redis.RedisUnavailable from error
        return {}
    # Past the window's end, not at it: there the whole of the last window would still count.
    seconds = max(0, math.floor(counted.reset - time.time())) + 1
    headers = {
        "RateLimit-Policy": f'"{name}";q={allowance};w={WINDOW_SECONDS}',
        "RateLimit": f'"{name}";r={counted.remaining};t={seconds}',
    }
    if not counted.allowed:
        raise TooManyRequests(
            f"At most {allowance} requests a minute; try again in {seconds} s.",
            headers={**headers, "Retry-After": str(seconds)},
        )
    return headers


@cache
def _window(allowance: int) -> "SlidingWindow":
    from upstash_ratelimit import SlidingWindow

    return SlidingWindow(max_requests=allowance, window=WINDOW_SECONDS, unit="s")
