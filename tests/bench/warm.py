"""Warm requests: what they wait for one after another, what a token's check takes, and how soon stop and resume act.

    python -m infra bench warm

Waits are told by distance: the same request is made with every service near and with every service far away; what it
takes longer, in round trips of that distance, is how many stand one after another.
"""

import asyncio
import json
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from agentkit import auth, settings
from infra.functions import declared
from infra.local.lambdas import Lambdas, Limits
from infra.local.part import LOOPBACK
from infra.local.runtime_api import PRELUDE_END, Invocation
from tests.bench.parts import Parts, parts, question, signed_in
from tests.bench.row import Row
from tests.bench.sandbox import Sandbox, sandbox
from tests.parts.distance import distance_to
from tests.parts.model import says
from tests.parts.people import ADA, token

REQUESTS = 9
STOPS = 9
TOKENS_CHECKED = 2_000
SENTENCE = "The lease ends on 30 September 2027, as both of them had agreed. "
# 100 tokens a second.
PAUSE_SECONDS = 0.01


def run() -> list[Row]:
    """Measure all of it; about a minute."""
    with parts() as up:
        return [_check(up), *asyncio.run(_waits(up)), *asyncio.run(_stops(up))]


def _check(up: Parts) -> Row:
    async def check() -> list[float]:
        taken = []
        for _ in range(TOKENS_CHECKED):
            began = time.perf_counter()
            await auth.verify(signed)
            taken.append(time.perf_counter() - began)
        return taken

    signed = token(ADA)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in up.environment.items():
            patch.setenv(name, value)
        settings.forget()
        seconds = statistics.median(asyncio.run(check()))
    settings.forget()
    return Row("warm", "check of an ES256 token", seconds * 1000, "ms", TOKENS_CHECKED, budget=1.0)


async def _waits(up: Parts) -> list[Row]:
    up.model.otherwise = lambda _: says("The lease ends on 30 September 2027.")
    asks: dict[str, tuple[Callable[[], dict[str, Any]], int, str]] = {
        "search": (lambda: signed_in("/v1/search", {"text": uuid.uuid4().hex}), 3, "search: waits one after another"),
        "chat": (question, 1, "chat: waits one after another, to its first byte"),
    }
    async with _far(up) as (far_environment, far_redis):
        round_trip = await _round_trip(up, far_redis)
        rows = []
        for function, (event, budget, name) in asks.items():
            handler = f"functions.{function}.app.handler"
            async with (
                sandbox(handler, up.environment, up.folder) as near,
                sandbox(handler, far_environment, up.folder) as far,
            ):
                longer = [
                    await _first_byte(far, event()) - await _first_byte(near, event()) for _ in range(REQUESTS + 1)
                ]
            waits = round(statistics.median(longer[1:]) / round_trip)
            rows.append(Row("warm", name, waits, "waits", REQUESTS, budget=budget))
        return rows


@asynccontextmanager
async def _far(up: Parts) -> AsyncIterator[tuple[dict[str, str], int]]:
    """Yield the environment in which Postgres, Redis and the embedder are far away, and Redis's port there."""
    ports = up.postgres.port, up.redis.port, up.embedder.port
    async with distance_to(ports[0]) as postgres, distance_to(ports[1]) as redis, distance_to(ports[2]) as embedder:
        text = json.dumps(up.environment)
        for port, distance in zip(ports, (postgres, redis, embedder), strict=True):
            text = text.replace(f"{LOOPBACK}:{port}/", f"{LOOPBACK}:{distance.port}/")
            text = text.replace(f'{LOOPBACK}:{port}"', f'{LOOPBACK}:{distance.port}"')
        yield json.loads(text), redis.port


async def _round_trip(up: Parts, far_redis: int) -> float:
    """Return the seconds that a round trip takes at that distance."""
    headers = {"Authorization": f"Bearer {up.environment['UPSTASH_REDIS_REST_TOKEN']}"}
    taken = []
    async with httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{far_redis}", headers=headers) as client:
        for _ in range(REQUESTS + 1):
            began = time.perf_counter()
            (await client.post("/", json=["PING"])).raise_for_status()
            taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


async def _first_byte(app: Sandbox, event: dict[str, Any]) -> float:
    began = time.perf_counter()
    taken = 0.0
    async for _ in app.pieces(event):
        taken = taken or time.perf_counter() - began
    return taken


async def _stops(up: Parts) -> list[Row]:
    """Stop and resume as browsers do, in sandboxes beside the one that answers."""
    up.model.otherwise = lambda _: says(SENTENCE * 500)
    up.model.pause_seconds = PAUSE_SECONDS
    chat = next(function for function in declared() if function.name == "chat")
    lambdas = Lambdas(up.environment, up.folder, [chat], Limits(sandboxes=3, timeout_seconds=60))
    resumed, stopped = [], []
    try:
        for round_ in range(STOPS + 1):
            first_byte, end = await _stop(lambdas)
            if round_:  # the first one starts the sandboxes
                resumed.append(first_byte * 1000)
                stopped.append(end * 1000)
    finally:
        await lambdas.stop()
    return [
        Row("warm", "resume: asked to first byte", statistics.median(resumed), "ms", STOPS, budget=100.0),
        Row("warm", "stop: asked to the stream's end", statistics.median(stopped), "ms", STOPS, budget=300.0),
    ]


async def _stop(lambdas: Lambdas) -> tuple[float, float]:
    """Return the seconds from a resume to its first byte, and from a stop to the end of the answer."""
    chat_id = uuid.uuid4().hex

    async def send(event: dict[str, Any]) -> Invocation:
        return await lambdas.invoke("chat", json.dumps(event).encode())

    answering = await send(question(chat=chat_id))
    pieces = answering.pieces()
    async for piece in pieces:
        if b"2027" in piece:  # in the middle of it
            break
    reading = asyncio.create_task(_end_of(pieces))
    asked = time.perf_counter()
    following = await send(signed_in(f"/v1/chat/{chat_id}/stream", method="GET"))
    read = b""
    async for piece in following.pieces():
        read += piece
        if read.partition(PRELUDE_END)[2]:
            break
    first_byte = time.perf_counter() - asked
    asked = time.perf_counter()
    await (await send(signed_in(f"/v1/chat/{chat_id}/stop"))).payload()
    end = await reading - asked
    await following.done.wait()
    return first_byte, end


async def _end_of(pieces: AsyncIterator[bytes]) -> float:
    async for _ in pieces:
        pass
    return time.perf_counter()
