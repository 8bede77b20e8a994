"""Get it from Redis or compute it: JSON values that end by themselves, never shared between tenants by accident.

    key = Key("summary", tenant=caller.id, version="3", parts=(text,))
    answer = await get_or_compute(key, compute, ttl_seconds=600)

A key always says whose the value is and which version of the code made it. When Redis is away the value is computed.
Two callers who miss at the same time both compute.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from agentkit import redis, telemetry

T = TypeVar("T")

EVERYONE = "everyone"
"""The tenant of what is the same for all and secret to none."""

log = telemetry.logger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """What a value is of; equal keys mean equal values."""

    kind: str
    tenant: UUID | str
    """Whose it is: `EVERYONE` must be said, it is never assumed."""
    version: str
    """Of the code and model that make the value: a new one leaves the old values behind."""
    parts: tuple[str, ...] = ()
    """What it was made from; may be long and is hashed."""

    def __str__(self) -> str:
        # Lengths first, so that ("ab", "c") and ("a", "bc") differ.
        material = "".join(f"{len(part)}:{part}" for part in self.parts)
        return f"cache:{self.kind}:{self.tenant}:{self.version}:{hashlib.sha256(material.encode()).hexdigest()}"


async def get_or_compute(key: Key, compute: Callable[[], Awaitable[T]], *, ttl_seconds: int) -> T:
    """Return the kept value, or compute it and keep it for that long; the value must survive JSON unchanged."""
    try:
        (kept,) = await redis.pipeline([["GET", str(key)]])
        if isinstance(kept, str):
            value: T = json.loads(kept)
            return value
    except redis.RedisUnavailable:
        return await compute()
    except ValueError as error:
        # What stands there is not ours; it is overwritten below.
        log.warning("cache.unreadable", kind=key.kind, exc_info=error)
    computed = await compute()
    try:
        await redis.pipeline([["SET", str(key), json.dumps(computed), "EX", ttl_seconds]])
    except redis.RedisUnavailable:
        log.info("cache.not_kept", kind=key.kind)
    return computed
